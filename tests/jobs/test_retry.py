"""`curate retry`: only what failed so is fetched again, and only what changes is rewritten."""

import hashlib
import json
import pathlib

import pyarrow.parquet as pq
import pytest
from image_server import serving

from jobs import engines
from metadata.errors import CurateError
from pipeline import manifest, shard_folders
from pipeline.options import FetchPolicy
from pipeline.retry import retry

RECIPE = "name: all\nsteps: []\nshards: {samples: 10}\n"


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def run(curate, server, write_pool, tmp_path):
    """run(name) -> the folder of a run over 30 images in 3 shards."""
    (tmp_path / "all.yaml").write_text(RECIPE)
    pool = write_pool(tmp_path / "pool", server.rows(30))

    def make(name: str) -> pathlib.Path:
        out = tmp_path / name
        done = curate("--pool", pool, "--recipe", tmp_path / "all.yaml", "--allow-host", server.host, "--out", out)
        assert done.returncode == 0, done.stderr
        return out

    return make


def shards(out: pathlib.Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((out / "shards").iterdir())}


def numbers(ledger: pathlib.Path) -> set[str]:
    """The numbers of a shard's images."""
    return {pathlib.PurePosixPath(url).stem for url in pq.read_table(ledger)["url"].to_pylist()}


def test_a_retry_ends_as_a_luckier_run_would_have(run, curate, server):
    server.failing = {3: 503, 4: 404, 25: 503}
    out = run("run")
    before = shards(out)
    times = {p.name: p.stat().st_mtime_ns for p in (out / "shards").iterdir()}
    server.failing = {}
    server.requests.clear()
    done = curate("retry", out, "--status", "http_5xx", "--allow-host", server.host)
    assert done.returncode == 0, done.stderr
    assert sorted(server.requests) == ["/25.jpg", "/3.jpg"]
    record = json.loads((out / "manifest.json").read_text())
    assert record["samples"] == {"http_4xx": 1, "ok": 29}
    assert sum(json.loads((out / "shards/sizes.json").read_text()).values()) == 29
    server.failing = {4: 404}
    lucky = shards(run("lucky"))
    after = shards(out)
    mended = {p.stem for p in (out / "shards").glob("*.parquet") if {"3", "25"} & numbers(p)}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"{stem}.{kind}" for stem in mended for kind in ("tar", "parquet")} | {"sizes.json"}
    assert len(mended) == 2
    assert {n: b for n, b in after.items() if n.endswith(".tar")} == {
        n: b for n, b in lucky.items() if n.endswith(".tar")
    }
    untouched = {p.name for p in (out / "shards").iterdir() if p.stat().st_mtime_ns == times[p.name]}
    assert untouched == set(after) - changed
    # A run that is told so again has nothing left to do, and says so.
    again = curate("retry", out, "--status", "http_5xx", "--allow-host", server.host)
    assert again.returncode == 1
    assert "no sample ended as http_5xx. Its statuses: http_4xx 1, ok 29" in again.stderr


@pytest.mark.slow
def test_a_retry_in_vain_leaves_the_tars(run, curate, server):
    server.failing = {3: 503}
    out = run("run")
    tars = {p: p.stat().st_mtime_ns for p in (out / "shards").glob("*.tar")}
    done = curate("retry", out, "--status", "http_5xx,timeout", "--allow-host", server.host)
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in (out / "shards").glob("*.tar")} == tars
    assert json.loads((out / "manifest.json").read_text())["samples"] == {"http_5xx": 1, "ok": 29}


def test_without_allow_host_nothing_is_contacted_and_the_command_says_so(curate, server, write_pool, tmp_path):
    pool = write_pool(tmp_path / "pool", server.rows(5))
    done = curate("--pool", pool, "--recipe", "no_filter", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "none of the 5 images could be had" in done.stderr
    assert "Most ended as forbidden_address: `curate retry RUN --status forbidden_address --allow-host" in done.stderr
    assert json.loads((tmp_path / "run/manifest.json").read_text())["samples"] == {"forbidden_address": 5}
    assert server.requests == []


def test_select_only_can_be_continued_to_images(curate, server, write_pool, tmp_path):
    pool = write_pool(tmp_path / "pool", server.rows(5))
    args = ["--pool", pool, "--recipe", "no_filter", "--allow-host", server.host, "--out", tmp_path / "run"]
    assert curate(*args, "--select-only").returncode == 0
    assert not (tmp_path / "run/shards").exists()
    done = curate(*args)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/manifest.json").read_text())["samples"] == {"ok": 5}


def last_line(errors: str) -> str:
    """Of the progress."""
    return [line for line in errors.splitlines() if line.startswith("retrying: ")][-1]


def flipped(data: bytes) -> bytes:
    return data[:700] + bytes([data[700] ^ 1]) + data[701:]


@pytest.mark.parametrize(
    ("damage", "fetched"),  # images 3 and 4 are in the third shard, 25 in the second
    [
        pytest.param({}, 3, marks=pytest.mark.slow),
        pytest.param({"00000001.parquet": lambda _: b""}, 12, marks=pytest.mark.slow),
        pytest.param({"00000001.tar": flipped}, 12, marks=pytest.mark.slow),
        ({"00000000.parquet": None, "00000001.tar": None, "00000002.parquet": lambda data: data[:-9]}, 30),
    ],
)
def test_a_shard_that_is_not_whole_is_made_anew(run, curate, server, damage, fetched):
    server.failing = {3: 503, 4: 503, 25: 503}
    out = run("run")
    before = shards(out)
    server.failing = {}
    for name, change in damage.items():
        (out / "shards" / name).unlink()
        if change is not None:
            (out / "shards" / name).write_bytes(change(before[name]))
    server.requests.clear()
    done = curate("retry", out, "--status", "http_5xx", "--allow-host", server.host)
    assert done.returncode == 0, done.stderr
    assert len(server.requests) == fetched
    assert last_line(done.stderr).startswith(f"retrying: {fetched} of {fetched} samples (100%)")
    assert last_line(done.stderr).endswith(f", {fetched} ok, 0 not")
    assert json.loads((out / "manifest.json").read_text())["samples"] == {"ok": 30}
    assert shards(out).keys() == before.keys()


@pytest.mark.parametrize(
    ("finisher", "undone"),
    [
        ("retry", []),
        ("the run's command", ["tar", "parquet"]),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [
            ("retry", ["parquet"]), ("the run's command", ["parquet"]), ("the run's command", []),
        ]),
    ],
)
def test_a_stopped_retry_leaves_no_finished_run(run, curate, server, finisher, undone):
    server.failing = {3: 503, 4: 503, 25: 503}  # in two shards
    out = run("run")
    before = shards(out)
    server.failing = {}

    def stopped(build) -> None:
        """Is stopped when all shards are written, or one of them is not yet, or not its ledger."""
        engines.run_with("local", 1, [])(build)
        for ending in undone:
            (out / f"shards/00000001.{ending}").write_bytes(before[f"00000001.{ending}"])
        raise KeyboardInterrupt

    policy = FetchPolicy(allow_hosts=frozenset({server.host}))
    with pytest.raises(KeyboardInterrupt):
        retry(str(out), frozenset({"http_5xx"}), policy, stopped)
    with pytest.raises(CurateError, match="its run is unfinished"):
        shard_folders.open_whole(str(out))

    pool, recipe = out.parent / "pool", out.parent / "all.yaml"
    commands = {"retry": ("retry", out, "--status", "http_5xx"),
                "the run's command": ("--pool", pool, "--recipe", recipe, "--out", out)}  # fmt: skip
    done = curate(*commands[finisher], "--allow-host", server.host)
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "manifest.json").read_text())
    # The run's own command asks for what isn't whole, and not for what has failed.
    failed = 1 if finisher != "retry" and undone == ["tar", "parquet"] else 0
    assert record["samples"] == ({"http_5xx": failed} if failed else {}) | {"ok": 30 - failed}
    assert sum(json.loads((out / "shards/sizes.json").read_text()).values()) == 30 - failed
    hashes = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in record["sha256"]}
    assert hashes == record["sha256"]


def without_times(out: pathlib.Path) -> dict:
    return {k: v for k, v in json.loads((out / "manifest.json").read_text()).items() if k != "times"}


def test_a_run_that_has_lost_a_tar_is_unfinished_until_it_is_back(run, told, server, monkeypatch):
    out = run("run")
    before, tar = without_times(out), out / "shards/00000001.tar"
    data = tar.read_bytes()
    tar.unlink()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "add_shards", stop)
    command = ("--pool", out.parent / "pool", "--recipe", out.parent / "all.yaml", "--allow-host", server.host)
    with pytest.raises(KeyboardInterrupt):
        told(*command, "--workers", "1", "--out", out)
    assert tar.read_bytes() == data
    with pytest.raises(CurateError, match="its run is unfinished"):
        shard_folders.open_whole(str(out))
    run("run")
    assert without_times(out) == before


def test_a_choice_that_is_made_again_leaves_what_is_known_of_shards(run, told):
    out = run("run")
    before, data = without_times(out), (out / "subset.npy").read_bytes()
    (out / "subset.npy").unlink()
    code, _, errors = told("--pool", out.parent / "pool", "--recipe", out.parent / "all.yaml", "--workers", "1",
                           "--out", out, "--select-only")  # fmt: skip
    assert code == 0, errors
    assert (out / "subset.npy").read_bytes() == data
    assert without_times(out) == before


@pytest.mark.slow
def test_a_run_that_has_lost_dropped_rows_says_so(curate, toy_pool, tmp_path):
    command = ("--pool", toy_pool, "--recipe", "clip_score_l14_30_percent", "--select-only", "--keep-dropped",
               "--out", tmp_path / "run")  # fmt: skip
    assert curate(*command).returncode == 0
    (tmp_path / "run/dropped/000001.parquet").unlink()
    done = curate(*command)
    assert done.returncode == 1
    assert "dropped/000001.parquet is gone" in done.stderr


def test_a_missing_tar_is_made_anew_though_nothing_failed(run, curate, server):
    out = run("run")
    before = shards(out)
    (out / "shards/00000001.tar").unlink()
    done = curate("retry", out, "--status", "timeout", "--allow-host", server.host)
    assert done.returncode == 0, done.stderr
    assert shards(out)["00000001.tar"] == before["00000001.tar"]
    again = curate("retry", out, "--status", "timeout", "--allow-host", server.host)
    assert again.returncode == 1
    assert "no sample ended as timeout. Its statuses: ok 30." in again.stderr


def test_without_its_plan_a_run_is_left_as_it_is(run, told, server):
    server.failing = {3: 503}
    out = run("run")
    before = shards(out), (out / "manifest.json").read_bytes()
    (out / "work/select/000001.json").unlink()
    code, _, errors = told("retry", out, "--status", "http_5xx", "--allow-host", server.host)
    assert code == 1
    assert f"{out}/work: plans 20 samples, but the run has 30, and a retry goes by that plan. Put back" in errors
    assert (shards(out), (out / "manifest.json").read_bytes()) == before


@pytest.mark.parametrize("text", ["", "[]", '{"command": "reshard", "samples": {"written": 5}}', '{"finished": "shar'])
def test_a_manifest_of_something_else_is_told(told, tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    code, _, errors = told("retry", tmp_path, "--status", "timeout")
    assert code == 1
    assert f"{tmp_path}/manifest.json: is not what a run of `curate --pool …` writes (" in errors
