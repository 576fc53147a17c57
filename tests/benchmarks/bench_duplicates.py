"""Exact duplicates: whole commands that keep one row of each caption, at two sizes, against DuckDB in memory.

DuckDB only finds a row of each caption and counts them, and holds all captions to do so; ours leaves a subset. Both
find as many.
"""

import functools
import json
import pathlib
from collections.abc import Iterator

from bench_choose import command, script
from bench_pool import make_pool
from measure import Row, pairs


def rows(scratch: pathlib.Path, number: int, size: int = 2_000_000, workers: int = 2) -> Iterator[Row]:
    """The table's lines.

    Args:
        scratch: a folder for pools, which stay, and outputs.
        number: of alternating runs.
        size: rows of the larger pool; the other has a quarter.
    """
    recipe = scratch / "distinct.yaml"
    recipe.write_text("{name: distinct, steps: [{distinct: {by: text}}]}")
    peaks = []
    for count in (size // 4, size):
        pool = make_pool(scratch, count)
        work = functools.partial(command, pool, scratch / "ours", str(recipe), workers)
        measured = pairs(work, functools.partial(script, "floor_duplicates.py", pool, workers), number)
        kept = json.loads((scratch / "ours" / "manifest.json").read_text())["rows"]["kept"]
        if int(measured.other[0].output) != kept:
            raise RuntimeError(f"{kept} rows were kept, but DuckDB counts {measured.other[0].output}")
        ours, floor = (f"{count / wall_s:,.0f} rows/s" for wall_s in measured.wall_s())
        peaks.append(max(cost.one_mb for cost in measured.ours))
        yield Row(f"distinct by text, {count:,} rows", ours, f"{floor} DuckDB", f"{measured.ratio():.2f}", "", None,
                  measured.memory())  # fmt: skip
    growth = peaks[1] / peaks[0]
    yield Row("  memory with four times the rows", f"{peaks[1]:,.0f} MB", f"{peaks[0]:,.0f} MB", f"{growth:.2f}",
              "<= 1.5 times, < 600 MB", growth <= 1.5 and peaks[1] < 600)  # fmt: skip
