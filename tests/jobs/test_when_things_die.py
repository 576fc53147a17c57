"""Processes killed, disks full, stores gone: it is told in a sentence, no final name has half a file, and the same
command goes on to the same bytes."""

import functools
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
from demo_runs import command, outputs, run, seconds


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
    """A run undisturbed."""
    out = tmp_path_factory.mktemp("demo") / "run"
    run(out).check_returncode()
    return out


def finals(out: pathlib.Path) -> dict[str, bytes]:
    """What is under final names, but for what has times in it or differs by how often a run was begun."""
    names = {p.relative_to(out): p for p in out.rglob("*") if p.is_file() and not p.name.startswith(".")}
    return {
        str(name): path.read_bytes()
        for name, path in names.items()
        if name.parts[:2] not in (("work", "progress"), ("work", "passes")) and name.name != "manifest.json"
    }


def check_and_go_on(done: subprocess.CompletedProcess, code: int, words: str, out: pathlib.Path, whole: pathlib.Path):
    """Asserts what the title says."""
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("curate: ")]
    assert len(sentences) == 2, sentences  # the first says what the run is
    assert not (out / "manifest.json").exists()
    good = finals(whole)
    for name, data in finals(out).items():
        assert data == good[name], name
    assert run(out).returncode == 0
    assert outputs(out) == outputs(whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_kill_9_at_a_random_point_and_start_again(whole, tmp_path, seed):
    rng = random.Random(seed)
    out = tmp_path / "run"
    for _ in range(3):
        process = subprocess.Popen(command(out, "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.5, 1 + seconds(whole)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = run(out)
    assert done.returncode == 0, done.stderr
    assert outputs(out) == outputs(whole)


@pytest.mark.parametrize(("number", "code", "step"), [
    (signal.SIGINT, 130, "work/select"),
    pytest.param(signal.SIGINT, 130, "work/progress", marks=pytest.mark.slow),
    pytest.param(signal.SIGTERM, 143, "work/progress", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_signal_stops_a_run_which_says_how_to_go_on(whole, tmp_path, number, code, step):
    (tmp_path / "temporary").mkdir()
    process = subprocess.Popen(
        command(tmp_path / "run", "2"),
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not (tmp_path / "run" / step).exists():
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as a terminal does with Ctrl-C, and a system that shuts down
    _, errors = process.communicate(timeout=60)
    assert not list((tmp_path / "temporary").iterdir())
    done = subprocess.CompletedProcess(process.args, process.returncode, "", errors)
    check_and_go_on(done, code, "run the same command again to go on", tmp_path / "run", whole)


@pytest.mark.slow
def test_a_second_ctrl_c_disturbs_nothing(tmp_path):
    process = subprocess.Popen(command(tmp_path / "run", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)  # fmt: skip
    assert process.stderr is not None
    while not (tmp_path / "run/work").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    while "stopped" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert not errors


@pytest.mark.parametrize("gone", ["reader", "streams"])
def test_work_goes_on_where_nobody_reads_its_progress(toy_pool, tmp_path, gone):
    args = [sys.executable, "-m", "jobs.cli", "--pool", toy_pool, "--select-only", "--out", tmp_path / "run"]
    closed = {"preexec_fn": lambda: [os.close(stream) for stream in range(3)]} if gone == "streams" else {}
    process = subprocess.Popen([*map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, **closed)  # fmt: skip
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "run/manifest.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("all_processes", [False, True])
def test_a_study_that_is_asked_to_end_hands_that_on(whole, tmp_path, all_processes):
    """Who sends SIGTERM sends it to the one process that it knows, or to all."""
    (tmp_path / "study").mkdir()
    command(tmp_path / "study/run", "2")  # writes the recipe
    choose = f"{{pool: demo:400, recipe: {tmp_path}/study/recipe.yaml, workers: 2}}"
    (tmp_path / "study.yaml").write_text(f"out: {tmp_path}/study\nchoose: {choose}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "run", tmp_path / "study.yaml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not (tmp_path / "study/run/work").exists():
        time.sleep(0.01)
    (os.killpg if all_processes else os.kill)(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    done = subprocess.CompletedProcess(process.args, process.returncode, "", errors)
    check_and_go_on(done, 143, "run the same command again to go on", tmp_path / "study/run", whole)


@pytest.mark.slow
@pytest.mark.parametrize(("most", "where"), [
    (5_000, "work/built/entry_matches"),  # by the driver
    (7_000, "kept/000000.parquet"),  # by a worker
    (20_000, "balance.svg"),
    (200_000, "shards"),
])  # fmt: skip
def test_where_a_file_cannot_be_written_to_its_end(whole, tmp_path, most, where):
    """What a full disk does, without a disk: no file may be larger than that."""
    out = tmp_path / "run"
    done = run(out, preexec_fn=functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most)))
    check_and_go_on(done, 1, f"curate: {out}/{where}: File too large. What is finished is kept", out, whole)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_told_in_a_sentence(curate, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no mounting here")
    try:
        done = curate("--pool", "demo:400", "--recipe", "no_filter", "--out", disk / "run")
        assert done.returncode == 1
        assert "No space left on device. What is finished is kept" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list((disk / "run/shards").glob("*.tar"))
    finally:
        subprocess.run(["umount", disk], check=True)


STORE = """
import os, sys
import fsspec
from fsspec.implementations.local import LocalFileSystem

class Failure(Exception):
    pass  # as object stores have errors of their own, which are no OSErrors

class Store(LocalFileSystem):
    '''Local files, until the file that GONE_AFTER names is there.'''
    protocol = "store"

    @classmethod
    def _strip_protocol(cls, path):
        if os.path.exists(os.environ.get("GONE_AFTER", "/nowhere/at/all")):
            raise Failure("no route to host")
        return super()._strip_protocol(path.removeprefix("store://"))

fsspec.register_implementation("store", Store)

if __name__ == "__main__":
    from jobs import cli
    cli.as_command(lambda: cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", ["work/uids/000000.bin", "subset.npy", "shards/00000000.tar"])
def test_a_store_that_is_gone(whole, tmp_path, after):
    (tmp_path / "store.py").write_text(STORE)
    root = str(pathlib.Path(__file__).parents[2])

    def on_store(**environment):
        args = command(tmp_path / "run", "1")
        args[args.index("--out") + 1] = f"store://{tmp_path}/run"
        return subprocess.run(
            [sys.executable, tmp_path / "store.py", *args[3:]],
            env={**os.environ, "PYTHONPATH": root, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    done = on_store(GONE_AFTER=str(tmp_path / "run" / after))
    assert done.returncode == 1, done.stderr
    assert "can't be reached (no route to host). What is finished is kept" in done.stderr
    assert f"curate: store://{tmp_path}/run/" in done.stderr
    assert "Traceback" not in done.stderr
    good = finals(whole)
    for name, data in finals(tmp_path / "run").items():
        assert data == good[name], name
    done = on_store()
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path / "run") == outputs(whole)
