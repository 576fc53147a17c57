"""Several scores as one: each scaled, weighed, and added up."""

import abc
import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from filters import exact_sums, joined
from filters.base import Fit
from filters.best import AtLeast, Best
from filters.joined import JoinedScore
from metadata.errors import CurateError, printable, unknown

SCALES = ("standardise", "min_max")

#: The largest weight's size, between these, keeps a fused score where float32 has all its digits.
_WEIGHTS = (1e-20, 1e20)


class Fused(Fit):
    """The first pass of what chooses by a fused score: finishes as what `then` makes of the scales.

    A fused score is the sum over the columns of weight * (score - offset) / divisor. Standardised, offset and divisor
    are the column's mean and its standard deviation (of a population); min-maxed, its least value and how far that is
    from its greatest. They are of the rows that reached the step and have all the scores. A row that lacks one (null,
    NaN and infinity are none) counts as a row, is counted besides, and is never kept.
    """

    weights: dict
    files: str | None
    scale: str
    _hashes: dict[str, str]
    paths: ClassVar[tuple[str, ...]] = ("files",)

    def __post_init__(self) -> None:
        if not self.weights:
            raise CurateError(f"{self.name}: weights are empty, but at least one score is needed. Write for example: "
                              f"weights: {{clip_l14_similarity_score: 0.5, dfn: 1}}")
        for name, weight in self.weights.items():
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not isinstance(name, str) or not number or not 0 < abs(weight) <= sys.float_info.max:
                raise CurateError(f"{self.name}: the weight of {printable(name)!r} is {printable(weight)!r}, but it is "
                                  f"a number other than 0 by the name of a column. Mend it, or leave it out.")
        largest = max(map(abs, self.weights.values()))
        if not _WEIGHTS[0] <= largest <= _WEIGHTS[1]:
            raise CurateError(f"{self.name}: the largest weight is {largest:g}, but fused scores are compared in "
                              f"float32. Multiply all weights by one number, so that the largest is near 1.")
        if self.scale not in SCALES:
            raise unknown("scale", self.scale, SCALES, where=self.name)
        object.__setattr__(self, "weights", {name: float(weight) for name, weight in self.weights.items()})
        object.__setattr__(self, "columns", tuple(self.weights))

    def with_files(self, files: Mapping[str, str]) -> "Fused":
        """Itself, with the files looked at.

        Raises:
            CurateError: they are not there, can't be read, are no scores, or have none of the columns.
        """
        made = super().with_files(files)
        assert isinstance(made, Fused)
        if made.files is None:
            return made
        found = joined.sources(made.files, list(self.weights), self.name)
        sources = {name: paths for name, paths in found.items() if paths}
        if not sources:
            names = " or ".join(map(printable, self.weights))
            raise CurateError(f"{self.name}: {made.files} has no column named {names}, but scores are read from there. "
                              f"Mend the names, or leave `files` out.")
        made = dataclasses.replace(made)  # type: ignore[type-var]
        object.__setattr__(made, "scorers", tuple(JoinedScore(name, paths) for name, paths in sources.items()))
        object.__setattr__(made, "_hashes", {name: joined.sha256(paths) for name, paths in sources.items()})
        return made

    def check_columns(self, schema: pa.Schema) -> None:
        """Raises CurateError where neither its files nor the pool, whose columns these are, has one of its columns."""
        lacking = [name for name in self.weights if name not in self._hashes and name not in schema.names]
        if self.files is not None and lacking:
            raise CurateError(f"{self.name}: {self.files} has no column {printable(', '.join(lacking))}, and neither "
                              f"has the pool, but every score with a weight is needed. Add it to the files of scores, "
                              f"or leave it out of the weights.")

    def describe(self) -> dict[str, Any]:
        """The parameters, but the files by column and sha256: where they lie does not matter."""
        files = {"files": self._hashes} if self._hashes else {}
        return {"weights": self.weights, **files, "scale": self.scale}

    @abc.abstractmethod
    def then(self, fused: "FusedScore") -> Fit:
        """The Fit of the next pass, which chooses by `fused.scores`."""

    def empty(self) -> dict[str, Any]:
        """Rows; rows that have all scores; and by column, in the order of the weights: rows that lack it, float32 least
        and greatest, and `exact_sums.sums`."""
        n = len(self.weights)
        return {"rows": 0, "whole": 0, "lacking": np.zeros(n, np.int64),
                "sums": np.zeros((n, *exact_sums.SHAPE), np.int64),
                "least": np.full(n, np.inf, np.float32), "most": np.full(n, -np.inf, np.float32)}  # fmt: skip

    def add(self, state: dict[str, Any], batch: pa.RecordBatch) -> dict[str, Any]:
        scores = [joined.numbers(batch.column(name), name, self.name) for name in self.weights]
        whole = ~np.isnan(scores).any(axis=0)
        state["rows"] += batch.num_rows
        state["whole"] += int(whole.sum())
        state["lacking"] += np.isnan(scores).sum(axis=1)
        for n, values in enumerate(values[whole] for values in scores):
            state["sums"][n] += exact_sums.sums(values)
            state["least"][n] = values.min(initial=state["least"][n])
            state["most"][n] = values.max(initial=state["most"][n])
        return state

    def merge(self, state: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        for name in ("rows", "whole", "lacking", "sums"):
            state[name] += other[name]
        np.minimum(state["least"], other["least"], out=state["least"])
        np.maximum(state["most"], other["most"], out=state["most"])
        return state

    def finish(self, state: dict[str, Any]) -> Fit:
        lacking = dict(zip(self.weights, state["lacking"].tolist(), strict=True))
        self._check_join(state["rows"], state["whole"], lacking)
        offsets, divisors = {}, {}
        for n, name in enumerate(self.weights):
            if self.scale == "standardise":
                offsets[name], divisors[name] = exact_sums.mean_and_deviation(state["sums"][n], state["whole"])
            else:
                offsets[name] = float(state["least"][n])
                divisors[name] = float(state["most"][n]) - offsets[name]
            if not divisors[name]:
                raise CurateError(f"{self.name}: {printable(name)} is {offsets[name]:g} in every row in float32, but "
                                  f"what is scaled must differ. Leave it out of the weights.")
        counted = {"rows": state["rows"], "rows_without_score": state["rows"] - state["whole"], "rows_lacking": lacking}
        return self.then(FusedScore(self, offsets, divisors, -math.inf, counted))

    def _check_join(self, rows: int, whole: int, lacking: dict[str, int]) -> None:
        """Raises CurateError where most rows lack a score: then it is of another pool; or where there is no row."""
        if not rows:
            raise self.unreached()
        name, most = max(lacking.items(), key=lambda item: item[1])
        if 2 * most > rows:
            given = f"{most:,} of the {rows:,} rows that reach it ({most / rows:.1%}) have no {printable(name)}"
        elif not whole:
            given = f"none of the {rows:,} rows that reach it has all the scores"
        else:
            return
        raise CurateError(f"{self.name}: {given}, but a row without a score is dropped. Check that the scores are of "
                          f"this pool: they are joined by uid.")


@dataclasses.dataclass(frozen=True)
class FusedScoreFraction(Fused):
    """Finishes as the FusedScore that keeps the int(rows * fraction) rows whose fused score is highest, and ties.

    See Fused for what a fused score is.

    Args:
        weights: by column, of the files or of the pool; a name that files have is theirs.
        fraction: above 0, below 1.
        files: path, or a glob of paths, of parquet files with a column `uid` and columns of scores. A column may be
            spread over several files; a uid has one score in each column.
        scale: `standardise` or `min_max`.

    Source: M-FLYT (arXiv:2503.08805) publishes weights of twelve scores of DataComp's medium pool.
    """

    weights: dict
    fraction: float
    files: str | None = None
    scale: str = "standardise"
    _hashes: dict[str, str] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)
    passes: ClassVar[int] = 3  # one for the scales, two for the threshold
    name = "fused_score"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction < 1:
            raise CurateError(f"fused_score: fraction is {self.fraction}, but it lies above 0 and below 1. "
                              f"Give 0.3 for the best 30 percent.")

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"fraction": self.fraction}

    def then(self, fused: "FusedScore") -> Fit:
        return _BestFused(fused, self.fraction)


@dataclasses.dataclass(frozen=True)
class FusedScore(AtLeast):
    """Keeps rows whose fused score, computed in float64 and compared in float32, is at least `threshold`.

    A row that lacks a score is dropped. See Fused.
    """

    fit: Fused
    offsets: dict[str, float]
    divisors: dict[str, float]
    threshold: float
    counted: dict[str, Any]
    by_score: ClassVar[bool] = False  # the fit has counted what lacks one

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", self.fit.columns)
        object.__setattr__(self, "scorers", self.fit.scorers)

    def describe(self) -> dict[str, Any]:
        found = {"offsets": self.offsets, "divisors": self.divisors, "threshold": self.threshold}
        return self.fit.describe() | found | self.counted

    def scores(self, batch: pa.RecordBatch) -> pa.FloatArray:
        """float32; null for a row that lacks one of its scores."""
        total = np.zeros(batch.num_rows)
        for name, weight in self.fit.weights.items():
            values = joined.numbers(batch.column(name), name, self.fit.name).astype(np.float64)
            total += weight * ((values - self.offsets[name]) / self.divisors[name])
        return pa.array(total.astype(np.float32), mask=np.isnan(total))


@dataclasses.dataclass(frozen=True)
class _BestFused(Best):
    """The passes after the first: finishes as the FusedScore with its threshold."""

    fused: FusedScore
    fraction: float
    name = "fused_score"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name in ("columns", "scorers"):
            object.__setattr__(self, name, getattr(self.fused, name))

    def scores(self, batch: pa.RecordBatch) -> pa.FloatArray:
        return self.fused.scores(batch)

    def at(self, threshold: float) -> FusedScore:
        return dataclasses.replace(self.fused, threshold=threshold)
