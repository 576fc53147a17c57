"""Balancing as users run it: the same rows whatever the order and the workers, and clear words for what is wrong."""

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

ENTRIES = ["a", "the", "of", "best", "the best", "house", "red", "two words", "dog", "bicycle", "never"]


@pytest.fixture
def recipe(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "entries.json").write_text(json.dumps(ENTRIES))
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nsteps:\n  - balance: {{entries: {tmp_path}/entries.json, t: 60, seed: 5}}\n")
    return path


def test_the_same_rows_with_other_workers_and_in_another_order(curate, recipe, write_pool, toy_rows, tmp_path):
    runs = {
        "two": (write_pool(tmp_path / "a", toy_rows, 3), 2),
        "one": (tmp_path / "a", 1),
        "other": (write_pool(tmp_path / "b", toy_rows[::-1], 5), 2),
    }
    for name, (pool, workers) in runs.items():
        where = ("--pool", pool, "--workers", workers, "--out", tmp_path / name)
        done = curate(*where, "--recipe", recipe, "--select-only")
        assert done.returncode == 0, done.stderr
    subsets = [(tmp_path / name / "subset.npy").read_bytes() for name in runs]
    counts = [(tmp_path / name / "entry_counts.parquet").read_bytes() for name in runs]
    assert subsets[0] == subsets[1] == subsets[2]
    assert counts[0] == counts[1] == counts[2]
    assert 100 < len(np.load(tmp_path / "two/subset.npy")) < 900


def test_what_a_run_tells_adds_up(curate, recipe, toy_pool, tmp_path):
    done = curate("--pool", toy_pool, "--recipe", recipe, "--select-only", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/manifest.json").read_text())
    told, (fitted,) = record["told"]["balance"], (step["balance"] for step in record["fitted"])
    assert told["rows_kept"] == record["rows"]["kept"]
    assert fitted["rows"] == record["rows"]["in"] == 1000
    assert told["rows_matching_nothing"] + fitted["rows_matching"] == 1000
    assert told["rows_expected"] == pytest.approx(told["rows_kept"], rel=0.15)
    table = pq.read_table(tmp_path / "run/entry_counts.parquet")
    kept = [pq.read_table(path)["entry_matches"] for path in (tmp_path / "run/kept").iterdir()]
    after = np.bincount(np.concatenate([column.combine_chunks().flatten() for column in kept]), minlength=len(ENTRIES))
    assert table["kept"].to_pylist() == after.tolist()
    assert {"balance.svg", "entry_counts.parquet"} <= set(record["sha256"])
    for words in ("rows_expected", "entries_without_match", "balance.svg"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can't be read (No such file or directory), but the entry list is needed"),
        ("[]", "has no entry"),
        ('["a", "a"]', "occur more than once ('a')"),
        ('{"en": 5}', "but an entry list is needed. Give parquet"),
        ("PAR1 and then nothing", "it is damaged parquet"),
    ],
)
def test_lists_that_are_none(curate, toy_pool, tmp_path, content, words):
    if content is not None:
        (tmp_path / "list.json").write_text(content)
    done = curate("--pool", toy_pool, "--entries", tmp_path / "list.json", "--select-only", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_target_that_is_too_large_names_what_there_is(curate, toy_pool, tmp_path):
    (tmp_path / "r.yaml").write_text("name: r\nsteps:\n  - balance: {target: 5000}\n")
    done = curate("--pool", toy_pool, "--recipe", tmp_path / "r.yaml", "--select-only", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "target is 5,000 rows, but " in done.stderr
    assert " of the 1,000 that reach the step match an entry. Lower it." in done.stderr


def test_worldwide_says_what_it_needs(curate, toy_pool, tmp_path):
    done = curate("--pool", toy_pool, "--recipe", "metaclip_worldwide", "--select-only", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "needs an entry list with languages, but none was named" in done.stderr
    assert "--entries FILE" in done.stderr
