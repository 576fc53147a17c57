"""The command as users run it: what it prints, and how it fails."""

import importlib.metadata
import ipaddress
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from demo_runs import outputs, run

from jobs import main
from jobs.cli import folder
from jobs.main import listed

YAML = """
name: mine
steps:
  - where: "original_width >= 150 and text is not null"
  - clip_score: {model: l14, fraction: 0.5}
shards: {samples: 50}
"""


def test_a_yaml_recipe_on_a_folder(curate, toy_pool, tmp_path):
    (tmp_path / "mine.yaml").write_text(YAML)
    done = curate("--pool", toy_pool, "--recipe", tmp_path / "mine.yaml", "--select-only", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/manifest.json").read_text())
    subset = np.load(tmp_path / "run/subset.npy", allow_pickle=False)
    assert len(subset) == record["rows"]["kept"] > 100
    assert f"{record['rows']['kept']:,}" in done.stdout
    assert record["rows"]["in"] == 1000 == record["rows"]["kept"] + sum(s["dropped"] for s in record["rows"]["dropped"])


def test_a_finished_run_does_nothing_and_another_recipe_is_refused(curate, toy_pool, tmp_path):
    def again(*more):
        return curate("--pool", toy_pool, "--select-only", "--out", tmp_path / "run", *more)

    assert again().returncode == 0
    before = (tmp_path / "run/manifest.json").stat().st_mtime_ns
    done = again()
    assert done.returncode == 0
    assert "nothing to do" in done.stdout
    assert (tmp_path / "run/manifest.json").stat().st_mtime_ns == before
    refused = again("--recipe", "no_filter")
    assert refused.returncode == 1
    assert "holds another run (recipe was" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert again("--recipe", "no_filter", "--overwrite").returncode == 0
    assert len(np.load(tmp_path / "run/subset.npy")) == 1000


def test_a_folder_of_other_things_is_left_alone(told, toy_pool, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    for more in ((), ("--overwrite",)):
        given, _, errors = told("--pool", toy_pool, "--select-only", "--out", tmp_path / "mine", *more)
        assert given == 1
        assert "holds thesis.txt but no run" in errors
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_a_pool_in_the_runs_own_folder_is_refused(told, toy_pool, tmp_path):
    (tmp_path / "run/metadata").mkdir(parents=True)
    (tmp_path / "run/run.json").write_text('{"command": "curate"}')
    (next(toy_pool.iterdir())).rename(tmp_path / "run/metadata/x.parquet")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/x.parquet").symlink_to("../run/metadata/x.parquet")
    for pool in ("run/", "./run/metadata", f"{tmp_path}/run/metadata/x.parquet", "*/metadata/*", "linked/"):
        given, _, errors = told("--pool", pool, "--select-only", "--out", "run", "--overwrite")
        assert given == 1
        assert "x.parquet: lies in --out run, but what is read must not be written over. Give another" in errors
    assert (tmp_path / "run/metadata/x.parquet").exists()


def test_runs_may_lie_in_the_pool(curate, toy_pool):
    """As they do by default where the pool is the current folder."""
    for recipe, words in (("no_filter", "rows in"), ("no_filter", "nothing to do"), ("basic_filter", "rows in  ")):
        done = curate("--pool", ".", "--recipe", recipe, "--select-only", cwd=toy_pool)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
        record = json.loads((toy_pool / f"runs/pool-{recipe}/manifest.json").read_text())
        assert record["rows"]["in"] == 1000


def test_a_manifest_that_is_cut_is_told_and_can_be_made_again(curate, told, toy_pool, tmp_path):
    args = ("--pool", toy_pool, "--recipe", "no_filter", "--select-only", "--out", tmp_path / "run")
    assert curate(*args).returncode == 0
    whole = outputs(tmp_path / "run")
    os.truncate(tmp_path / "run/manifest.json", 10)
    given, _, errors = told(*args)
    assert given == 1
    assert "manifest.json: is not what a run of `curate --pool …` writes (JSONDecodeError" in errors
    assert "remove this file and run its command again." in errors
    (tmp_path / "run/manifest.json").unlink()
    assert curate(*args).returncode == 0
    assert outputs(tmp_path / "run") == whole


def test_kept_rows_that_are_gone_are_told(curate, told, toy_pool, tmp_path):
    args = ("--pool", toy_pool, "--recipe", "no_filter", "--select-only", "--out", tmp_path / "run")
    assert curate(*args).returncode == 0
    for name in ("manifest.json", "kept/000001.parquet"):
        (tmp_path / "run" / name).unlink()
    given, _, errors = told(*args)
    assert given == 1
    assert f"{tmp_path}/run: kept/000001.parquet is gone, but its rows were chosen and counted." in errors
    assert not (tmp_path / "run/manifest.json").exists()


@pytest.mark.parametrize(("given", "meant"), [
    ("/", "/"), ("a/", "a"), ("/a//", "/a"), ("s3://b/a/", "s3://b/a"), ("memory://", "memory://"),
])  # fmt: skip
def test_slashes_at_a_folders_end(given, meant):
    assert folder(given) == meant


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--poool", "demo"], 2, "Did you mean --pool?"),
        (["--pool", "demo", "--sel"], 2, "unknown option '--sel'. Did you mean --select-only?"),
        (["--pool", "demo", "--q"], 2, "unknown option '--q'.\n"),
        (["--pool", "demoo"], 1, "unknown pool 'demoo'. Did you mean 'demo'?"),
        (["--pool", "demo:few"], 1, "the number of pairs is 'few'"),
        (["--pool", "commoncrawl"], 1, "needs one of small, medium, large, xlarge"),
        (["--pool", "commoncrawl", "--scale", "smal"], 1, "Did you mean 'small'?"),
        (["--pool", "demo", "--scale", "small"], 1, "only commoncrawl has scales"),
        (
            ["--pool", "{pool}", "--recipe", "clip_score_l14_30_percents"],
            1,
            "Did you mean 'clip_score_l14_30_percent'?",
        ),
        (["--pool", "{pool}", "--recipe", "nowhere.yaml"], 1, "nowhere.yaml"),
        (["--pool", "{pool}", "--columns", "text=caption", "--recipe", "basic_filter"], 1, "unknown column 'caption'"),
        (["--pool", "{pool}", "--columns", "text"], 2, "OURS=THEIRS"),
        (["--pool", "{pool}", "--columns", "url=url, url=text"], 2, "'url' is given twice (url, text), but"),
        (["--pool", "{pool}", "--limit-files", "0"], 2, "a whole number above 0"),
        (["--pool", "{pool}", "--workers", "two"], 2, "a whole number above 0"),
        (["--pool", "{pool}", "--min-kept", "3"], 2, "a number from 0 to 1"),
        (["--pool", "{pool}", "--flink_mastr", "x:1"], 2, "unknown option '--flink_mastr'.\n"),
        (["--versoin"], 2, "Did you mean --version?"),
        *((["--pool", "{pool}", "--timeout", given], 2, f"argument --timeout: {given!r} is given, but a number of")
          for given in ("inf", "1e400", "nan", "0", "x")),
        *((["--pool", "{pool}", "--allow-host", given], 2, f"argument --allow-host: {given!r} is given, but a host's")
          for given in ("", "*", "*.test", "http://localhost:18099", "http://x", "localhost/", "[::1", "a:b:c", "a@b")),
        *((["--pool", "{pool}", "--allow-host", f"[::1]:{given}"], 2, f"--allow-host: '[::1]:{given}' is given, but")
          for given in ("", "0", "65536", "80/", "x", "-1")),
        (["--pool", "{pool}", "--flink_master", "x:1"], 2, "name a --runner"),
        (["--pool", "{pool}", "--file", "a=b", "--file", "a=c"], 1, "--file a: is given twice (b, c), but"),
        (["--pool", "/no/such/pool"], 1, "/no/such/pool"),
        (["--pool", "{pool}", "--out", "/"], 1, "lies in --out /, but"),
        (["--pool", "{pool}", "--out", ""], 2, "a folder's path or address is needed"),
        (["reshard", "--shards", "{pool}", "--subset", "{pool}", "--out", "/"], 1, "lies in --out /, but"),
        (["retri", "x"], 2, "Did you mean 'retry'?"),
        (["retry", "{pool}", "--status", "timeout"], 1, "holds no run whose shards are finished"),
        (["retry", "{pool}", "--status", "timeot"], 1, "Did you mean 'timeout'?"),
        (["retry", "{pool}", "--status", "ok"], 1, "these images are there"),
    ],
)
def test_mistakes_are_told_in_a_sentence(told, toy_pool, args, code, words):
    given, _, errors = told(*(a.format(pool=toy_pool) for a in args))
    assert given == code, errors
    assert words in errors


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", [["recipes"], ["recipes", "--help"], ["--version"]], ids=" ".join)
def test_what_is_printed_onto_a_full_disk_is_told(args, unbuffered):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "jobs.cli", *args], stdout=full, stderr=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONUNBUFFERED": unbuffered})  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("curate: No space left on device.")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_has_seen_enough_is_no_error(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "jobs.cli", "recipes"], stdout=writer, stderr=subprocess.PIPE,
                          env=os.environ | {"PYTHONUNBUFFERED": unbuffered})  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_error_is_told_though_nobody_reads_what_was_printed_before():
    failing = """
import sys
from jobs import cli
from metadata.errors import CurateError

def fail(argv):
    print("counts")
    raise CurateError("none could be had.")

cli._command = fail
sys.exit(cli.main([]))
"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", failing], stdout=writer, stderr=subprocess.PIPE, text=True,
                          env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"})  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "curate: none could be had.\n")


@pytest.mark.parametrize(
    ("where", "more", "words"),
    [
        ("text = 'nowhere to be found'", [], "keeps none of the 1,000 rows that reach it"),
        ("url like '%00%' and original_width > 1700", ["--min-kept", "0.5"], "less than --min-kept 0.5"),
    ],
)
def test_a_step_that_keeps_nearly_nothing_stops_the_run(curate, toy_pool, tmp_path, where, more, words):
    (tmp_path / "r.yaml").write_text(f'name: r\nsteps:\n  - where: "{where}"\n')
    done = curate(
        "--pool", toy_pool, "--recipe", tmp_path / "r.yaml", "--select-only", "--out", tmp_path / "run", *more
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert not (tmp_path / "run/subset.npy").exists()


@pytest.mark.parametrize("command", [(), ("plan",)], ids=["run", "plan"])
def test_an_entry_list_that_no_step_asks_for(told, toy_pool, tmp_path, command):
    (tmp_path / "own.json").write_text('["dog"]')
    (tmp_path / "own.yaml").write_text(f"name: own\nsteps:\n- balance: {{entries: {tmp_path}/own.json, t: 5}}\n")
    for recipe, name in (("no_filter", "no_filter"), (tmp_path / "own.yaml", "own")):
        given, _, errors = told(*command, "--pool", toy_pool, "--recipe", recipe, "--entries", "nosuch.parquet")
        assert given == 1
        words = f"is given, but recipe {name} doesn't balance by the entries of a run. Leave it out."
        assert errors == f"curate: --entries nosuch.parquet: {words}\n"


def test_what_is_not_given_is_not_listed():
    assert listed({"min_words": 3, "max_words": None, "sha256": "a", "files": {}}) == "min_words 3"


def test_an_output_folder_that_cannot_be_written(told, toy_pool, tmp_path):
    (tmp_path / "file").write_text("")
    given, _, errors = told("--pool", toy_pool, "--select-only", "--out", tmp_path / "file/run")
    assert given == 1
    assert f"--out {tmp_path}/file/run: Not a directory, but the run must write there" in errors


def test_help_is_quick_and_names_everything():
    times = []
    for _ in range(3):
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "jobs.cli", "--help"], capture_output=True, text=True, check=True)
        times.append(time.monotonic() - start)
    assert min(times) < 1
    for word in ("--pool", "commoncrawl", "--select-only", "reshard", "retry", "recipes"):
        assert word in done.stdout
    slow = "import atexit, sys, jobs.cli; atexit.register(lambda: print(*sys.modules)); jobs.cli.main(['--help'])"
    loaded = subprocess.run([sys.executable, "-c", slow], capture_output=True, text=True, check=True).stdout
    assert not {"apache_beam", "img2dataset", "torch", "pyarrow", "duckdb"} & set(loaded.split())


def test_the_help_of_a_command_begins_with_what_it_does(told):
    _, shown, _ = told("train", "--help")
    assert "\n\nTrain a CLIP model on the shards of runs, as DataComp does.\n\n" in shown


def test_a_terminal_without_every_character_or_none_at_all():
    command = [sys.executable, "-m", "jobs.cli"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, env=ascii_only, check=True)
    assert "OURS=THEIRS,\\u2026" in done.stdout
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command, "recipes"], capture_output=True, check=True)
    assert closed.stderr == b""


@pytest.mark.parametrize(
    ("shards", "words"),
    [
        ("shards", "curate: nosuch.npy: No such file or directory, but it must be there. Look at the path.\n"),
        ("shards/0.tar", "curate: shards/0.tar: Not a directory, but a folder must be there. Look at the path.\n"),
    ],
)
def test_where_nothing_was_begun_nothing_is_kept(told, tmp_path, shards, words):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/0.tar").touch()
    code, _, errors = told("reshard", "--shards", shards, "--subset", "nosuch.npy", "--out", "out")
    assert (code, errors) == (1, words)


def test_the_version_is_told_without_what_is_slow():
    slow = "import atexit, sys, jobs.cli; atexit.register(lambda: print(*sys.modules)); jobs.cli.main(['--version'])"
    version, loaded = subprocess.run(
        [sys.executable, "-c", slow], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert version == f"curate {importlib.metadata.version('clip-curate')}"
    assert not {"apache_beam", "torch", "pyarrow", "duckdb"} & set(loaded.split())


def test_hosts_that_are_allowed_are_written_as_they_are_looked_for():
    given = ["LocalHost", "Localhost:8080", "x:80", "::1", "0:0::1", "[0::1]:80", "[::FFFF:127.0.0.1]", "10.1",
             "b\xfccher.x"]  # fmt: skip
    args = main.parser().parse_args([word for host in given for word in ("--allow-host", host)])
    mapped = ipaddress.IPv6Address("::ffff:127.0.0.1")  # which Python 3.13 writes in another way
    assert args.allow_host == ["localhost", "localhost:8080", "x:80", "[::1]", "[::1]", "[::1]:80", f"[{mapped}]",
                               "10.0.0.1", "xn--bcher-kva.x"]  # fmt: skip


def test_recipes_are_listed_with_their_source(curate):
    done = curate("recipes")
    assert done.returncode == 0
    assert "clip_score_balanced (the default)" in done.stdout
    assert "arXiv:2304.14108" in done.stdout


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory) -> pathlib.Path:
    """A run of a small demo pool, undisturbed."""
    out = tmp_path_factory.mktemp("demo") / "run"
    run(out, "2").check_returncode()
    return out


def test_the_demo_accounts_for_every_sample(demo_run):
    import pyarrow.parquet as pq

    record = json.loads((demo_run / "manifest.json").read_text())
    assert record["rows"]["kept"] == sum(record["samples"].values()) == 150
    assert record["samples"]["ok"] > 80
    ledgers = [pq.read_table(p) for p in sorted((demo_run / "shards").glob("*.parquet"))]
    assert [t.num_rows for t in ledgers] == [40, 40, 40, 30]
    sizes = json.loads((demo_run / "shards/sizes.json").read_text())
    assert sum(sizes.values()) == record["samples"]["ok"]


def test_one_worker_writes_the_same_bytes(demo_run, tmp_path):
    run(tmp_path / "run", "1").check_returncode()
    assert outputs(tmp_path / "run") == outputs(demo_run)


def test_two_at_once_on_one_folder_are_refused(curate, toy_pool, tmp_path):
    import fcntl

    args = ("--pool", toy_pool, "--select-only", "--out", tmp_path / "run")
    assert curate(*args).returncode == 0
    handle = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    done = curate(*args, "--overwrite")
    os.close(handle)
    assert done.returncode == 1
    assert "another process is at work on this run" in done.stderr


def test_what_a_killed_run_left_under_temporary_names_is_removed(curate, toy_pool, tmp_path):
    args = ("--pool", toy_pool, "--select-only", "--out", tmp_path / "run")
    assert curate(*args).returncode == 0
    (tmp_path / "run/kept/.000000.parquet.abc.tmp").touch()
    assert curate(*args).returncode == 0
    assert not list((tmp_path / "run").rglob(".*.tmp"))
