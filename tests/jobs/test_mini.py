"""The small study as a user runs it, tiny."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import kills
import pyarrow.parquet as pq
import pytest

from filters.recipes import open_recipe, recipe_columns
from jobs import mini
from metadata.errors import CurateError
from pipeline.pools.demo_pairs import TRUTH_COLUMN


def run(*options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jobs.mini", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_mistakes(tmp_path):
    done = run("run", "--out", tmp_path, "--recipes", "no_filter,balance")
    assert done.returncode == 1
    assert done.stderr.startswith("mini: --recipes: unknown recipe 'balance'. Did you mean 'balanced'?")
    done = run("eval-sets", "--out", tmp_path, "--per-concepts", 3)
    assert done.returncode == 2
    assert "unknown option '--per-concepts'. Did you mean --per-concept?" in done.stderr


def test_a_recipe_that_is_named_twice_is_one():
    assert mini._named("balanced,no_filter,balanced") == ("balanced", "no_filter")


@pytest.mark.parametrize("options", [
    ("run", "--per-concept", 5), ("eval-sets", "--out", "sets", "--pairs", 5), ("eval-sets",),
])  # fmt: skip
def test_a_step_takes_its_own_options_only(options):
    assert run(*options).returncode == 2


@pytest.mark.parametrize("step", ["run", "eval-sets"])
def test_a_folder_that_can_t_be_made_is_one_sentence(tmp_path, step):
    (tmp_path / "file").touch()
    done = run(step, "--out", tmp_path / "file/x")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"mini: {tmp_path}/file/x")
    assert done.stderr.splitlines()[-1].endswith(": Not a directory, but a folder must be there. Look at the path.")
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # it needs open_clip
@pytest.mark.parametrize(("number", "code", "send"), [
    (signal.SIGTERM, 143, os.kill), (signal.SIGTERM, 143, os.killpg), (signal.SIGINT, 130, os.killpg),
])  # fmt: skip
def test_a_study_ends_with_its_trainings(tmp_path, number, code, send):
    """Who sends SIGTERM sends it to the one process that it knows, or to all; a terminal Ctrl-C to all, and again."""
    (tmp_path / "data/no_filter").mkdir(parents=True)
    os.mkfifo(tmp_path / "data/no_filter/sizes.json")  # that a training waits for
    begin = "from jobs import mini; mini._run = mini._train_all; mini._AT_ONCE = 2; mini.entry()"
    command = [sys.executable, "-c", begin, "run", "--out", tmp_path, "--seeds", "3", "--recipes", "no_filter"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and len(kills.descendants(process.pid)) < 2:
        time.sleep(0.01)
    time.sleep(1)  # until they handle it themselves
    trainings = kills.descendants(process.pid)
    late = threading.Timer(60, lambda: os.killpg(process.pid, signal.SIGKILL))  # or a line would be waited for for ever
    late.start()
    send(process.pid, number)
    try:
        assert [process.stderr.readline() for _ in range(2)] == [
            "\n", "mini: stopped. What is finished is kept: run the same command again to go on.\n"
        ]  # fmt: skip
        send(process.pid, number)
        _, errors = process.communicate(timeout=20)
        assert not [pid for pid in trainings if pathlib.Path(f"/proc/{pid}").exists()]
    finally:
        late.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert len(trainings) == 2
    assert (process.returncode, errors) == (code, "")
    assert len(list((tmp_path / "log").iterdir())) == 2


def test_no_training_begins_when_one_has_failed(tmp_path, monkeypatch):
    begun = []

    def fail(study: mini.Study, name: str, seed: int) -> None:
        begun.append(seed)
        time.sleep(0.05)
        raise CurateError("train: ended with exit code 130")

    monkeypatch.setattr(mini, "_train", fail)
    monkeypatch.setattr(mini, "_AT_ONCE", 2)
    with pytest.raises(CurateError, match="exit code 130"):
        mini._train_all(mini.Study(str(tmp_path), 1, 1, 5, ("no_filter",)))
    assert sorted(begun) == [0, 1]


def test_no_recipe_reads_what_the_pool_knows_of_itself(tmp_path):
    study = mini.Study(str(tmp_path), 100, 100, 1, tuple(mini.RECIPES))
    read = {c for name in mini.RECIPES for c in recipe_columns(open_recipe(mini._recipe(study, name)))}
    # Not the two CLIP scores either, which the demo pool draws from the truth.
    assert read == {"uid", "text", "original_width", "original_height", "clip_dfn_similarity_score"}


@pytest.mark.long
def test_a_tiny_study_and_again(tmp_path):
    pytest.importorskip("open_clip")
    options = ["run", "--out", tmp_path, "--pairs", 300, "--samples-seen", 1280, "--seeds", 1,
               "--recipes", "no_filter,dfn_score"]  # fmt: skip
    done = run(*options)
    assert done.returncode == 0, done.stderr
    assert "mini: training 2 of 2 is done and evaluated" in done.stderr
    study = json.loads((tmp_path / "mini.json").read_text())
    assert done.stdout.startswith((tmp_path / "table.md").read_text())
    assert study["recipes"]["no_filter"]["rows"] == 300
    assert study["recipes"]["dfn_score"]["rows"] == int(0.3 * 300) + 1
    # What the scorer judged has an image.
    assert study["recipes"]["dfn_score"]["images"] == study["recipes"]["dfn_score"]["rows"]
    assert (tmp_path / "mini.svg").read_bytes().startswith(b"<?xml")
    # Every step after the scores reads this pool.
    assert TRUTH_COLUMN not in pq.read_schema(next((tmp_path / "scored/metadata").glob("*.parquet"))).names
    weights = tmp_path / "models/no_filter-0/checkpoints/epoch_latest.pt"
    before = weights.stat().st_mtime_ns
    assert run(*options).stdout == done.stdout
    assert weights.stat().st_mtime_ns == before
