"""The Filter that keeps scores from a threshold on, and the Fit of the threshold that leaves the best fraction."""

import abc
import copy
import dataclasses
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import quantile
from filters.base import Filter, Fit
from metadata.errors import CurateError


class AtLeast(Filter):
    """Keeps rows whose score is at least `threshold`, compared in float32; a row without a score is dropped.

    A score that is null or NaN is none; the manifest counts rows that have none in `rows_without_score`.
    """

    threshold: float
    by_score: ClassVar[bool] = True
    #: Rows that reached it and have no score: known where a Best, which sees them all, has found the threshold.
    without_score: int | None = None

    def scores(self, batch: pa.RecordBatch) -> pa.FloatArray:
        """Each row's score, float32: the first of the step's columns, where a subclass says nothing else."""
        return batch.column(self.columns[0])

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        threshold = pa.scalar(np.float32(self.threshold), pa.float32())
        return pc.greater_equal(self.scores(batch), threshold).fill_null(False)

    def lacking(self, batch: pa.RecordBatch) -> np.ndarray:
        return pc.is_null(self.scores(batch), nan_is_null=True).to_numpy(zero_copy_only=False)

    def describe(self) -> dict[str, Any]:
        counted = {} if self.without_score is None else {"rows_without_score": self.without_score}
        return super().describe() | counted

    def knowing(self, without_score: int) -> Self:
        """Itself, knowing how many of the rows that reached it have no score."""
        made = copy.copy(self)
        object.__setattr__(made, "without_score", without_score)
        object.__setattr__(made, "by_score", False)  # they need not be counted again
        return made


class Best(Fit):
    """Finishes as the filter that keeps rows of at least the score at index `place(rows)`, from 0, in descending order.

    Ties at that score stay. Null and NaN count as rows, below every score, and are never kept. Where fewer rows than
    that have a score, every row with a score stays.
    """

    fraction: float
    #: What the fraction is of: the rows that reached the `step`, or all of the `pool`.
    of: str = "step"
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise CurateError(f"{self.name}: fraction is {self.fraction}, but it lies above 0 and below 1. "
                              f"Give 0.3 for the best 30 percent.")

    def scores(self, batch: pa.RecordBatch) -> pa.FloatArray:
        """As of AtLeast. A row's is the same in whichever batch it comes."""
        return batch.column(self.columns[0])

    @abc.abstractmethod
    def at(self, threshold: float) -> AtLeast:
        """The filter that keeps rows of at least this score."""

    def place(self, rows: int) -> int:
        """Index of the least score that is kept, of so many: the last of int(rows * fraction), but of one at least."""
        return max(int(rows * self.fraction) - 1, 0)

    def empty(self) -> np.ndarray:
        """Counts by the high half of the score's key, then rows without one, then those that the steps before dropped.

        int64, shape (HALVES + 2,).
        """
        return np.zeros(quantile.HALVES + 2, np.int64)

    def add(self, state: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        keys = quantile.keys(self.scores(batch))
        state[:-2] += quantile.count(keys >> 16)
        state[-2] += batch.num_rows - len(keys)
        return state

    def skip(self, state: np.ndarray, rows: int) -> np.ndarray:
        state[-1] += rows
        return state

    def merge(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        state += other
        return state

    def finish(self, state: np.ndarray) -> Fit:
        counts, without_score = state[:-2], int(state[-2])
        scored = int(counts.sum())
        rows = scored + without_score + (int(state[-1]) if self.of == "pool" else 0)
        if not scored and not without_score:
            raise self.unreached()
        if not scored:
            which = "of the pool" if self.of == "pool" else "that reached it"
            raise CurateError(f"{self.name}: none of the {rows} rows {which} has a {self.columns[0]}, but a fraction "
                              f"needs at least one. Look at the pool and at the steps before.")
        high, n = quantile.locate(counts, min(self.place(rows), scored - 1))
        return _LowHalf(self, high, n, without_score)


@dataclasses.dataclass(frozen=True)
class _LowHalf(Fit):
    """The second pass of `best`: the threshold is the `n`-th largest score whose key begins with `high`."""

    best: Best
    high: int
    n: int
    without_score: int

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
        return self.best.at(quantile.score(self.high << 16 | low)).knowing(self.without_score)
