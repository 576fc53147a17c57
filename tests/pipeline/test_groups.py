"""Groups in memory that doesn't grow with the pool."""

import hashlib
import importlib
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
        for name in ("high", "low", "rank"):
            rows[name] = rng.integers(0, most, number)
        rows["row"] = np.arange(number)
        ordered = rows[groups._order(rows)]
        assert [row[:3] for row in ordered.tolist()] == sorted(row[:3] for row in rows.tolist())
        assert sorted(ordered["row"]) == list(range(number))


def test_sizes_and_places():
    rows = np.array([(1, 1, 0, 0), (1, 2, 0, 0), (1, 2, 1, 0), (2, 2, 0, 0), (3, 0, 0, 0)], groups.ROW)
    sizes, places = groups._sizes_and_places(rows)
    assert sizes.tolist() == [1, 2, 2, 1, 1]
    assert places.tolist() == [0, 0, 1, 0, 0]
    assert [part.tolist() for part in groups._sizes_and_places(rows[:0])] == [[], []]


def write_pool(folder: pathlib.Path, files: int) -> pathlib.Path:
    folder.mkdir()
    for n in range(files):
        uids = [hashlib.md5(b"%d/%d" % (n, row)).hexdigest() for row in range(250_000)]
        # Three in four captions are one row's alone, and one caption a tenth of the pool's.
        texts = ["" if uid < "1a" else uid if uid < "c" else uid[:4] for uid in uids]
        pq.write_table(pa.table({"uid": uids, "text": texts}), folder / f"{n}.parquet")
    return folder


@pytest.mark.slow
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
