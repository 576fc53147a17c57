"""Names of pools: the known ones, addresses, and what is said to a slip of the pen."""

import json
import os
import pathlib

import pytest

from metadata.errors import CurateError
from pipeline import pieces
from pipeline.pools import commonpool, entry_lists, open_pool


def refused(name: str, scale: str | None = None, **columns: str) -> str:
    with pytest.raises(CurateError) as error:
        open_pool(name, scale, columns)
    return str(error.value)


@pytest.mark.parametrize("name", [
    "./pool", "pool/", "/data/pool", "pool.parquet", "*.parquet", "s3://bucket/pool", "gs://b/p/*.parquet",
    "hf://datasets/a/b@main", "https://host/x.parquet?download=true", "memory://x", "demo/metadata", "./demo:10",
])  # fmt: skip
def test_anything_with_a_slash_a_dot_or_a_star_is_an_address(name):
    pool = open_pool(name, None, {"text": "TEXT"})
    assert (pool.name, pool.address, dict(pool.columns), pool.hidden) == (name, name, {"text": "TEXT"}, frozenset())
    with pool.serve() as resolve:
        assert resolve == ()


@pytest.mark.parametrize(("name", "scale", "repo"), [
    ("commoncrawl", "small", "datacomp_small"), ("commoncrawl", "medium", "datacomp_medium"),
    ("commoncrawl", "large", "datacomp_large"), ("commoncrawl", "xlarge", "datacomp_xlarge"),
    ("datacomp_1b", None, "datacomp_1b"),
])  # fmt: skip
def test_the_pools_on_the_hub(monkeypatch, name, scale, repo):
    monkeypatch.setattr(commonpool, "address", lambda repo: f"hf://datasets/mlfoundations/{repo}@0123")
    assert open_pool(name, scale, {}).address == f"hf://datasets/mlfoundations/{repo}@0123"


@pytest.mark.parametrize(("name", "scale", "sentence"), [
    ("commoncrawl", None,
     "--pool commoncrawl: no --scale was given, but it needs one of small, medium, large, xlarge."),
    ("commoncrawl", "smal",
     "--scale: unknown scale 'smal'. Did you mean 'small'? Known: small, medium, large, xlarge."),
    ("datacomp_1b", "small",
     "--scale small: given with --pool datacomp_1b, but only commoncrawl has scales. Leave it out."),
    ("./pool", "small", "--scale small: given with --pool ./pool, but only commoncrawl has scales. Leave it out."),
    ("demo", "small", "--scale small: given with --pool demo, but only commoncrawl has scales. Leave it out."),
    *(("comoncrawl", scale,
       "--pool: unknown pool 'comoncrawl'. Did you mean 'commoncrawl'? Known: commoncrawl, datacomp_1b, demo. "
       "A path has a slash in it, as in ./comoncrawl.") for scale in (None, "small")),
    ("commoncrawl:5", None,
     "--pool: unknown pool 'commoncrawl:5'. Did you mean 'commoncrawl'? Known: commoncrawl, datacomp_1b, demo. "
     "A path has a slash in it, as in ./commoncrawl:5."),
    ("", None, "--pool: unknown pool ''. Known: commoncrawl, datacomp_1b, demo. A path has a slash in it, as in ./."),
    *((f"demo:{size}", None,
       f"--pool demo:{size}: the number of pairs is '{size}', but a whole number from 1 to 99,999,999 is needed. "
       "Write for example demo:4000.") for size in ("many", "0", "100000000", "9" * 20)),
])  # fmt: skip
def test_a_slip_of_the_pen(name, scale, sentence):
    assert refused(name, scale) == sentence


def test_only_a_uid_can_be_made():
    assert open_pool("./pool", None, {"uid": ""}).columns == {"uid": ""}
    assert refused("./pool", url="URL", text="") == (
        "--columns text=: no name is given, but only uid can be made. Name the pool's column."
    )


@pytest.fixture
def demo(tmp_path: pathlib.Path, monkeypatch):
    """A small demo pool."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def opened(**columns: str):
        return open_pool("demo:40", None, columns)

    return opened


def test_the_demo_pool_is_made_once_in_the_cache(demo, tmp_path):
    pool = demo()
    assert pool.address.startswith(f"{tmp_path}/cache/clip-curate/demo-")
    assert pieces.inspect(pool, ["uid", "text"]).rows == 40
    made = os.stat(pool.address).st_mtime_ns
    assert demo().address == pool.address
    assert os.stat(pool.address).st_mtime_ns == made


def test_images_of_a_scored_demo_pool_come_from_the_demo_s_server(demo, tmp_path):
    """Of one that was scored twice, too; what only says that it was is an address as any other."""
    with demo().serve() as resolve:
        hosts = {host for host, _, _ in resolve}
    for place, scored in ("once", "demo:40"), ("twice", f"{tmp_path}/once/metadata/"), ("loop", f"{tmp_path}/loop"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "scores.json").write_text(json.dumps({"pool": scored, "scale": None}))
    for address in (f"{tmp_path}/once", f"{tmp_path}/once/metadata/", f"{tmp_path}/twice/metadata"):
        pool = open_pool(address, None, {})
        assert (pool.name, pool.address, pool.hidden) == (address, address, frozenset())
        assert entry_lists(address) == entry_lists("demo")
        with pool.serve() as resolve:
            assert hosts
            assert {host for host, _, _ in resolve} == hosts
    for text in (None, "{", "[]", '{"pool": 3, "scale": null}'):
        if text:
            (tmp_path / "loop/scores.json").write_text(text)
        with open_pool(f"{tmp_path}/loop", None, {}).serve() as resolve:
            assert resolve == ()


def test_a_pool_by_name_is_not_a_folder_that_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, scored in ("commoncrawl", "demo"), ("demo", "./other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps({"pool": scored, "scale": None}))
    assert entry_lists("commoncrawl") == {}
    assert entry_lists("./commoncrawl") == entry_lists("demo") != {}


@pytest.mark.parametrize("mapping", [{}, {"text": "truth"}, {"anything": "truth"}, {"uid": "truth"}], ids=str)
def test_no_step_reads_the_demo_s_truth(demo, mapping):
    pool = demo(**mapping)
    assert pool.hidden == {"truth"}
    for asked in ("truth", *mapping):
        with pytest.raises(CurateError, match=r"unknown column 'truth'\. Known: "):
            pieces.inspect(pool, [asked])


def test_the_demo_s_truth_is_not_among_its_columns(demo):
    found = pieces.inspect(demo(), ["uid"], ["truth", "sha256"])
    assert "truth" not in found.schema.names
    assert found.optional == ("sha256",)


def test_a_column_called_truth_may_be_another_of_the_demo_s(demo):
    """The name is ours to give: what is read is the caption."""
    found = pieces.inspect(demo(truth="text"), ["truth", "text"])
    batch = next(pieces.batches(found.pieces[0], ["truth", "text"]))
    assert batch.column("truth").equals(batch.column("text"))


def test_the_command_refuses_the_demo_s_truth(told, tmp_path, demo):
    demo()
    recipe = tmp_path / "r.yaml"
    recipe.write_text('name: peek\nsteps:\n  - where: "truth is not null"\n')
    for mapping in ([], ["--columns", "text=truth"]):
        given, _, errors = told("--pool", "demo:40", "--recipe", recipe, "--select-only", "--out", "run", *mapping)
        assert given == 1
        assert "unknown column 'truth'" in errors
