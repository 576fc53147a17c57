"""Scoring: a worker of `curate score`, from tars to files, against a plain loop over decoded batches, on one core."""

import json
import pathlib
import statistics
import sys
from collections.abc import Iterator

from measure import Row, run

HERE = pathlib.Path(__file__).parent


def rows(scratch: pathlib.Path, number: int, size: int = 64) -> Iterator[Row]:
    """The table's line; `size` rows are scored, and 5 times as many for the memory."""
    command = [sys.executable, str(HERE / "inside_score.py"), str(number), str(size)]
    found = json.loads(run(command).output.splitlines()[-1])
    ours, other = zip(*found["seconds"], strict=True)
    ratio = statistics.median(b / a for a, b in found["seconds"])
    few, many = found["peak_mb"]
    yield Row(f"score {size:,} photographs, ViT-B-32, a core", f"{size / statistics.median(ours):,.1f} images/s",
              f"{size / statistics.median(other):,.1f} images/s decoded", f"{ratio:.2f}", ">= 0.9", ratio >= 0.9,
              f"{few:,.0f} MB, of 5 times the rows {many:,.0f} MB")  # fmt: skip
