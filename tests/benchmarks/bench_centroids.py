"""Centroids: our iterations of k-means, checkpoints included, against faiss called directly."""

import json
import pathlib
import statistics
import sys
from collections.abc import Iterator

from measure import Row, run

HERE = pathlib.Path(__file__).parent


def rows(scratch: pathlib.Path, number: int, size: int = 100_000) -> Iterator[Row]:
    """The table's line.

    Args:
        scratch: not used: the vectors are made in memory.
        number: of alternating runs.
        size: vectors to cluster, into a hundredth as many clusters.
    """
    command = [sys.executable, str(HERE / "inside_centroids.py"), str(number), str(size), str(size // 100)]
    ours, other = zip(*json.loads(run(command).output.splitlines()[-1]), strict=True)
    found = statistics.median(b / a for a, b in zip(ours, other, strict=True))
    yield Row(f"k-means, {size:,} rows, {size // 100:,} centroids", f"{statistics.median(ours):.2f} s/iteration",
              f"{statistics.median(other):.2f} s/iteration faiss", f"{found:.2f}", ">= 1",
              found >= 1)  # fmt: skip
