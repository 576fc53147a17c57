"""The Fit that keeps the best: a fraction of the rows, those whose scores are highest."""

import abc
import dataclasses
from typing import ClassVar

import numpy as np
import pyarrow as pa

from filters import quantile
from filters.base import Filter, Fit
from metadata.errors import CurateError


class Best(Fit):
    """Finishes as the filter that keeps rows of at least the score at index `place(rows)`, from 0, in descending order.

    Ties at that score stay. Null and NaN count as rows, below every score, and are never kept. Where fewer rows than
    that have a score, every row with a score stays. A subclass says what a row's score is.
    """

    fraction: float
    #: What the fraction is of: the rows that reached the `step`, or all of the `pool`.
    of: str = "step"
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise CurateError(f"{self.name}: fraction is {self.fraction}, but it lies above 0 and below 1. "
                              f"Give 0.3 for the best 30 percent.")

    @abc.abstractmethod
    def scores(self, batch: pa.RecordBatch) -> pa.FloatArray:
        """Each row's score, float32. A row's is the same in whichever batch it comes."""

    @abc.abstractmethod
    def at(self, threshold: float) -> Filter:
        """The filter that keeps rows of at least this score."""

    def place(self, rows: int) -> int:
        """Index of the least score that is kept, of so many: the last of int(rows * fraction), but of one at least."""
        return max(int(rows * self.fraction) - 1, 0)

    def empty(self) -> np.ndarray:
        """Counts by the high half of the score's key, then the number of rows: int64, shape (HALVES + 1,)."""
        return np.zeros(quantile.HALVES + 1, np.int64)

    def add(self, state: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        state[:-1] += quantile.count(quantile.keys(self.scores(batch)) >> 16)
        state[-1] += batch.num_rows
        return state

    def skip(self, state: np.ndarray, rows: int) -> np.ndarray:
        if self.of == "pool":
            state[-1] += rows
        return state

    def merge(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        state += other
        return state

    def finish(self, state: np.ndarray) -> Fit:
        counts, rows = state[:-1], int(state[-1])
        scored = int(counts.sum())
        if not scored:
            which = "of the pool" if self.of == "pool" else "that reached it"
            raise CurateError(f"{self.name}: none of the {rows} rows {which} has a {self.columns[0]}, but a fraction "
                              f"needs at least one. Look at the pool and at the steps before.")
        high, n = quantile.locate(counts, min(self.place(rows), scored - 1))
        return _LowHalf(self, high, n)


@dataclasses.dataclass(frozen=True)
class _LowHalf(Fit):
    """The second pass of `best`: the threshold is the `n`-th largest score whose key begins with `high`."""

    best: Best
    high: int
    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", self.best.columns)
        object.__setattr__(self, "scorers", self.best.scorers)

    @property
    def name(self) -> str:
        return self.best.name

    def empty(self) -> np.ndarray:
        return np.zeros(quantile.HALVES, np.int64)

    def add(self, state: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        keys = quantile.keys(self.best.scores(batch))
        state += quantile.count(keys[keys >> 16 == self.high] & (quantile.HALVES - 1))
        return state

    def merge(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        state += other
        return state

    def finish(self, state: np.ndarray) -> Filter:
        low, _ = quantile.locate(state, self.n)
        return self.best.at(quantile.score(self.high << 16 | low))
