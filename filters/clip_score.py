"""Filters on CLIP's own opinion of how well image and caption fit."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import quantile
from filters.base import Filter, Fit
from metadata.errors import CurateError, unknown

SCORES = {"b32": "clip_b32_similarity_score", "l14": "clip_l14_similarity_score"}


def _columns(model: str) -> tuple[str, ...]:
    if model not in SCORES:
        raise unknown("model", model, SCORES, where="clip_score")
    return (SCORES[model],)


@dataclasses.dataclass(frozen=True)
class ClipScore(Filter):
    """Keeps pairs whose CLIP score is at least `threshold`.

    Compared in float32, as the scores are: a threshold of 0.28 is the float32 nearest to 0.28. A score that is null or
    NaN is dropped.

    Args:
        model: whose score: `b32` for OpenAI's ViT-B/32, `l14` for its ViT-L/14.
        threshold: a cosine.

    Source: DataComp (arXiv:2304.14108), clip_score with a threshold.
    """

    model: str
    threshold: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _columns(self.model))
        if math.isnan(self.threshold):
            raise CurateError("clip_score: threshold is NaN, but it is a cosine. Give a number, such as 0.28.")

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        threshold = pa.scalar(np.float32(self.threshold), pa.float32())
        return pc.greater_equal(batch.column(self.columns[0]), threshold).fill_null(False)


@dataclasses.dataclass(frozen=True)
class ClipScoreFraction(Fit):
    """Finishes as the ClipScore that keeps the `fraction` of all rows whose scores are highest.

    The threshold is the score at index int(rows * fraction), from 0, of all scores in descending order; rows are those
    that reached the step. Scores at the threshold stay, so it keeps one row more than int(rows * fraction), and ties.
    Null and NaN count as rows, below every score, and are never kept.

    Args:
        model: as in ClipScore.
        fraction: above 0, below 1.

    Source: DataComp (arXiv:2304.14108), clip_score with a fraction.
    Differs: where fewer rows than that have a score, every row with a score stays; DataComp keeps none.
    """

    model: str
    fraction: float
    passes: ClassVar[int] = 2
    name = "clip_score"  # type: ignore[assignment]  # what it finishes as

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _columns(self.model))
        if not 0 < self.fraction < 1:
            raise CurateError(f"clip_score: fraction is {self.fraction}, but it lies above 0 and below 1. "
                              f"Give 0.3 for the best 30 percent.")

    def empty(self) -> np.ndarray:
        """Counts by the high half of the score's key, then the number of rows: int64, shape (HALVES + 1,)."""
        return np.zeros(quantile.HALVES + 1, np.int64)

    def add(self, state: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        state[:-1] += quantile.count(quantile.keys(batch.column(self.columns[0])) >> 16)
        state[-1] += batch.num_rows
        return state

    def merge(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        state += other
        return state

    def finish(self, state: np.ndarray) -> Fit:
        counts, rows = state[:-1], int(state[-1])
        scored = int(counts.sum())
        if not scored:
            raise CurateError(f"clip_score: none of the {rows} rows that reached it has a {self.columns[0]}, but a "
                              f"fraction needs at least one. Look at the pool and at the steps before.")
        high, n = quantile.locate(counts, min(int(rows * self.fraction), scored - 1))
        return _LowHalf(self.model, high, n)


@dataclasses.dataclass(frozen=True)
class _LowHalf(Fit):
    """The second pass of ClipScoreFraction: the threshold is the `n`-th largest score whose key begins with `high`."""

    model: str
    high: int
    n: int
    name = "clip_score"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _columns(self.model))

    def empty(self) -> np.ndarray:
        return np.zeros(quantile.HALVES, np.int64)

    def add(self, state: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        keys = quantile.keys(batch.column(self.columns[0]))
        state += quantile.count(keys[keys >> 16 == self.high] & (quantile.HALVES - 1))
        return state

    def merge(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        state += other
        return state

    def finish(self, state: np.ndarray) -> Filter:
        low, _ = quantile.locate(state, self.n)
        return ClipScore(self.model, quantile.score(self.high << 16 | low))
