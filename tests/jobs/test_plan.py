"""`curate plan`: what it says of a run is what the run then does, within the intervals it gives."""

import json
import os
import pathlib

import fake_hub
import image_server
import pyarrow.parquet as pq
import pytest
from conftest import make_rows


def figures(done) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["figures"]


def holds(figure: dict, true: float) -> bool:
    slack = 1e-9 * true  # of floats
    return figure["low"] - slack <= true <= figure["high"] + slack


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [1000, 4000])
def test_runs_of_the_demo_pool_are_as_planned(curate, tmp_path, pairs):
    pool = f"demo:{pairs}"
    plan = figures(curate("plan", "--pool", pool, "--json"))
    done = curate("--pool", pool, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/manifest.json").read_text())
    tars = sum(path.stat().st_size for path in (tmp_path / "run/shards").glob("*.tar"))
    assert holds(plan["rows_in"], pairs)
    assert holds(plan["rows_kept"], record["rows"]["kept"]), (plan["rows_kept"], record["rows"]["kept"])
    assert holds(plan["images_ok"], record["samples"]["ok"]), (plan["images_ok"], record["samples"])
    assert holds(plan["bytes_shards"], tars), (plan["bytes_shards"], tars)
    assert holds(plan["bytes_beside_shards"], beside(tmp_path / "run"))
    assert plan["shards"]["value"] == 1
    assert plan["rows_kept"]["high"] < 2 * plan["rows_kept"]["value"]  # an interval that says something


def beside(run: pathlib.Path) -> int:
    """Bytes of a run's folder but for those of its tars."""
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file() and path.suffix != ".tar")


@pytest.mark.parametrize(("options", "of_plan"), [(["--select-only"], []), ([], ["--images", "0"]),
                                                  ([], ["--images", "30"])])  # fmt: skip
def test_what_is_beside_the_shards_is_told(curate, tmp_path, options, of_plan):
    steps = "[{clip_score: {model: l14, fraction: 0.1}}]"
    (tmp_path / "r.yaml").write_text(f"{{name: r, steps: {steps}, shards: {{samples: 50}}}}")
    args = ["--pool", "demo:2000", "--recipe", tmp_path / "r.yaml", *options]
    plan = figures(curate("plan", *args, *of_plan, "--files", "1", "--json"))["bytes_beside_shards"]
    assert curate(*args, "--out", tmp_path / "run").returncode == 0
    assert holds(plan, true := beside(tmp_path / "run")), (plan, true)
    assert plan["value"] == pytest.approx(true, rel=0.2)


@pytest.mark.parametrize(
    ("files", "samples", "rests_on"),
    [
        pytest.param(4, 1200, "counted", marks=pytest.mark.slow),
        (2, 1200, "counted"),
        pytest.param(4, None, "counted", marks=pytest.mark.slow),
        pytest.param(2, None, "sampled", marks=pytest.mark.slow),
    ],
)
def test_copies_of_a_soft_cap_are_fetched_once_and_stored_as_often(curate, tmp_path, files, samples, rests_on):
    cap = {"weights": {"clip_l14_similarity_score": 1.0}} | ({"samples": samples} if samples else {})
    steps = [{"clip_score": {"model": "l14", "fraction": 0.05}}, {"soft_cap": cap}]
    (tmp_path / "r.yaml").write_text(json.dumps({"name": "r", "steps": steps, "shards": {"samples": 100}}))
    args = ["--pool", "demo:4000", "--recipe", tmp_path / "r.yaml", "--image-size", "64"]
    plan = figures(curate("plan", *args, "--files", str(files), "--images", "5000", "--json"))
    assert curate(*args, "--out", tmp_path / "run").returncode == 0
    record = json.loads((tmp_path / "run/manifest.json").read_text())
    tars = [path.stat().st_size for path in (tmp_path / "run/shards").glob("*.tar")]
    true = {"rows_kept": record["rows"]["kept"], "images_to_fetch": record["rows"]["kept"],
            "samples": record["rows"]["samples"], "images_ok": record["samples"]["ok"], "shards": len(tars),
            "bytes_shards": sum(tars), "bytes_beside_shards": beside(tmp_path / "run")}  # fmt: skip
    assert {name: plan[name] for name in true if not holds(plan[name], true[name])} == {}, true
    assert plan["samples"]["basis"] == plan["shards"]["basis"] == rests_on
    assert plan["rows_kept"]["value"] == pytest.approx(true["rows_kept"], rel=0.2)
    assert plan["images_ok"]["value"] == pytest.approx(true["images_ok"], rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "files"), [("{t: 60}", 4), ("{target: 1200}", 4), ("{target: 1200}", 6)])
def test_a_number_of_rows_in_a_recipe_is_of_the_whole_pool(curate, write_pool, tmp_path, asked, files):
    pool, recipe = write_pool(tmp_path / "pool", make_rows(4000), 8), tmp_path / "r.yaml"
    recipe.write_text(f"{{name: r, steps: [{{balance: {asked}}}]}}")
    args = ["--pool", pool, "--recipe", recipe, "--select-only"]
    plan = figures(curate("plan", *args, "--files", str(files), "--json"))["rows_kept"]
    assert curate(*args, "--out", tmp_path / "run").returncode == 0
    true = json.loads((tmp_path / "run/manifest.json").read_text())["rows"]["kept"]
    assert holds(plan, true), (plan, true)
    assert plan["value"] == pytest.approx(true, rel=0.1)


def test_a_pool_that_is_read_whole_is_counted(curate, toy_pool, tmp_path):
    steps = "[{distinct: {by: text}}, {clip_score: {model: l14, fraction: 0.5}}]"
    (tmp_path / "r.yaml").write_text(f"{{name: r, steps: {steps}}}")
    plan = curate("plan", "--pool", toy_pool, "--recipe", tmp_path / "r.yaml", "--select-only", "--json")
    kept = figures(plan)["rows_kept"]
    done = curate("--pool", toy_pool, "--recipe", tmp_path / "r.yaml", "--select-only", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    true = json.loads((tmp_path / "run/manifest.json").read_text())["rows"]["kept"]
    assert kept == {**dict.fromkeys(("value", "low", "high"), pytest.approx(true)), "basis": "counted"}
    assert json.loads(plan.stdout)["at_most"] == []


def test_a_file_without_rows_is_read_as_any_other(curate, told, write_pool, tmp_path):
    pool = write_pool(tmp_path / "pool", make_rows(1500), 3)
    pq.write_table(pq.read_table(middle := sorted(pool.iterdir())[1]).slice(0, 0), middle)
    args = ["plan", "--pool", pool, "--recipe", "no_filter", "--select-only"]
    plan = figures(curate(*args, "--json"))
    assert plan["rows_in"]["basis"] == plan["rows_kept"]["basis"] == "counted"
    assert plan["rows_kept"]["value"] == 1000
    assert told(*args, "--files", "1") == (1, "", f"curate: planning pool {pool}, recipe no_filter, 2 workers\ncurate: "
        f"--pool {pool}: 1 of its 3 files were read, but they have not one row. Read more with --files.\n")


def test_what_is_assumed_is_marked_and_nothing_is_fetched(curate, toy_pool):
    done = curate("plan", "--pool", toy_pool, "--recipe", "no_filter", "--images", "0", "--workers", "3")
    assert done.returncode == 0, done.stderr
    rests_on = {line[:19].strip(): line.split()[-1] for line in done.stdout.splitlines() if line}
    assert rests_on["rows kept"] == "counted"
    assert rests_on["images in shards"] == rests_on["bytes of shards"] == rests_on["in all"] == "assumed"
    assert "bytes fetched" not in rests_on
    assert "3 workers: " in done.stdout
    assert "The start of a run" in done.stdout


def test_images_that_cannot_be_had_are_told_by_status(curate, toy_pool):
    done = curate("plan", "--pool", toy_pool, "--recipe", "no_filter", "--files", "2", "--images", "10", "--json")
    found = json.loads(done.stdout)
    assert found["files"] == [3, 2]
    assert found["images"] == 10
    assert found["unreachable"]["unknown_host"]["value"] == 1
    assert found["figures"]["images_ok"]["value"] == found["figures"]["bytes_fetched"]["value"] == 0


def test_of_images_that_are_all_fetched_every_byte_is_told(curate, write_pool, tmp_path):
    with image_server.serving() as server:
        server.failing = {3: 503, 4: 404}
        pool = write_pool(tmp_path / "pool", server.rows(20), 2)
        args = ["--pool", pool, "--recipe", "no_filter", "--allow-host", server.host]
        plan = curate("plan", *args, "--json")
        assert curate(*args, "--out", tmp_path / "run").returncode == 0
    found = figures(plan)
    gone = {status: share["value"] for status, share in json.loads(plan.stdout)["unreachable"].items()}
    assert gone == {"http_5xx": 0.05, "http_4xx": 0.05}
    assert found["images_ok"]["value"] == pytest.approx(18)
    arrived = sum(len(image_server.draw(n)) for n in range(20) if n not in server.failing)
    assert found["bytes_fetched"]["value"] == pytest.approx(arrived)
    assert found["bytes_shards"]["value"] == pytest.approx((tmp_path / "run/shards/00000000.tar").stat().st_size)


def test_a_pool_on_the_hub(curate, write_pool, tmp_path):
    pool = write_pool(tmp_path / "pool", make_rows(1000), 5)
    files = {path.name: path.read_bytes() for path in pool.iterdir()}
    with fake_hub.serving(fake_hub.FakeHub({"mlfoundations/datacomp_small": files})) as hub:
        done = curate("plan", "--pool", "commoncrawl", "--scale", "small", "--recipe", "clip_score_l14_30_percent",
                      "--images", "0", "--json", env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"})
    assert json.loads(done.stdout)["files"] == [5, 3]
    assert figures(done)["rows_in"]["value"] == pytest.approx(1000, rel=0.01)
    assert figures(done)["rows_kept"]["value"] == pytest.approx(300, rel=0.1)


def test_a_step_that_a_sample_does_not_tell_of_is_named(curate, toy_pool, tmp_path):
    (tmp_path / "r.yaml").write_text("{name: r, steps: [{group_size: {by: sha256, at_most: 2}}]}")
    args = ["plan", "--pool", toy_pool, "--recipe", tmp_path / "r.yaml", "--select-only", "--files", "1"]
    done = curate(*args)
    assert done.returncode == 0, done.stderr
    assert "group_size compares rows of the whole pool" in done.stdout
    assert "are likely less" in done.stdout


@pytest.mark.parametrize(("args", "code", "words"), [
    (["plan"], 1, "no --pool was given, but a plan needs one"),
    (["plan", "--pool", "/no/such/pool"], 1, "/no/such/pool"),
    (["plan", "--pool", "{pool}", "--files", "0"], 2, "a whole number above 0"),
    (["plan", "--pool", "{pool}", "--images", "-1"], 2, "a whole number is needed, 0 for none"),
    (["plan", "--pool", "{pool}", "--out", "x"], 2, "unknown option '--out'"),
    (["plan", "--pool", "{pool}", "--recipe", "{pool}/none.yaml"], 1, "keeps none of the 1,000 rows that were read"),
])  # fmt: skip
def test_mistakes_are_told_in_a_sentence(told, toy_pool: pathlib.Path, args, code, words):
    (toy_pool / "none.yaml").write_text("{name: none, steps: [{where: \"text = 'nowhere to be found'\"}]}")
    given, _, errors = told(*(arg.format(pool=toy_pool) for arg in args))
    assert given == code, errors
    assert words in errors
