"""Groups in memory that doesn't grow with the pool."""

import hashlib
import importlib
import json
import pathlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import groups

HERE = pathlib.Path(__file__).parent


def test_rows_are_ordered_by_key_and_rank():
    rng = np.random.default_rng(0)
    for number, most in ((0, 1), (1, 1), (2000, 1), (2000, 3), (2000, 40), (2000, 2**63)):
        rows = np.zeros(number, groups.ROW)
        for name in ("high", "low", "order", "rank"):
            rows[name] = rng.integers(0, most, number)
        rows["row"] = np.arange(number)
        ordered, by = rows[groups._order(rows)], ["high", "low", "order", "rank"]
        assert ordered[by].tolist() == sorted(rows[by].tolist())
        assert sorted(ordered["row"]) == list(range(number))


def test_sizes_and_places():
    rows = np.array([(1, 1, 0, 0, 0), (1, 2, 0, 0, 0), (1, 2, 1, 0, 0), (2, 2, 0, 0, 0), (3, 0, 0, 0, 0)], groups.ROW)
    order = np.array([4, 2, 0, 1, 3])
    rows[order] = rows.copy()
    sizes, places = groups._sizes_and_places(groups._begins(rows, order))
    assert sizes.tolist() == [1, 2, 2, 1, 1]
    assert places.tolist() == [0, 0, 1, 0, 0]
    assert [part.tolist() for part in groups._sizes_and_places(groups._begins(rows[:0], order[:0]))] == [[], []]


def write_pool(folder: pathlib.Path, files: int) -> pathlib.Path:
    folder.mkdir()
    for n in range(files):
        uids = [hashlib.md5(b"%d/%d" % (n, row)).hexdigest() for row in range(250_000)]
        # Three in four captions are one row's alone, and one caption a tenth of the pool's.
        texts = ["" if uid < "1a" else uid if uid < "c" else uid[:4] for uid in uids]
        pq.write_table(pa.table({"uid": uids, "text": texts}), folder / f"{n}.parquet")
    return folder


@pytest.mark.long
def test_eight_times_the_rows_take_hardly_more_memory(tmp_path: pathlib.Path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE.parent / "benchmarks"))
    measure = importlib.import_module("measure")
    (tmp_path / "r.yaml").write_text("{name: r, steps: [{distinct: text}, {group_size: {by: text, at_most: 1}}]}")
    peaks = []
    for files in (1, 8):  # 2 million rows
        pool, out = write_pool(tmp_path / f"pool-{files}", files), tmp_path / f"run-{files}"
        command = ["--pool", pool, "--recipe", tmp_path / "r.yaml", "--select-only", "--workers", 2, "--out", out]
        peaks.append(measure.run([sys.executable, "-m", "jobs.cli", *map(str, command)]).one_mb)
    assert peaks[1] < peaks[0] + 100
    assert peaks[1] < 600


def write_features(folder: pathlib.Path, files: int, rows: int = 25_000) -> pathlib.Path:
    """Images of ten subjects, a tenth of which are the same as another."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    subjects = rng.standard_normal((10, 768), np.float32)
    np.save(folder / "centroids.npy", subjects)
    for n in range(files):
        values = subjects[rng.integers(0, 10, rows)] + rng.standard_normal((rows, 768), np.float32) / 2
        values[: rows // 10] = values[-rows // 10 :]
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        np.savez(folder / f"{n}.npz", l14_img=values.astype(np.float16))
        uids = [hashlib.md5(b"%d/%d" % (n, row)).hexdigest() for row in range(rows)]
        pq.write_table(pa.table({"uid": uids}), folder / f"{n}.parquet")
    return folder


@pytest.mark.long
def test_four_times_the_features_take_hardly_more_memory(tmp_path: pathlib.Path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE.parent / "benchmarks"))
    measure = importlib.import_module("measure")
    (tmp_path / "r.yaml").write_text("{name: r, steps: [{semantic_distinct: {centroids: c, eps: 0.01}}]}")
    peaks = []
    for files in (1, 4):  # 38 and 154 MB
        pool, out = write_features(tmp_path / f"pool-{files}", files), tmp_path / f"run-{files}"
        command = ["--pool", pool, "--recipe", tmp_path / "r.yaml", "--file", f"c={pool}/centroids.npy",
                   "--select-only", "--workers", 2, "--out", out]  # fmt: skip
        peaks.append(measure.run([sys.executable, "-m", "jobs.cli", *map(str, command)]).one_mb)
        assert json.loads((out / "manifest.json").read_text())["rows"]["kept"] == files * 22_500
    assert peaks[1] < peaks[0] + 50
    assert peaks[1] < 500
