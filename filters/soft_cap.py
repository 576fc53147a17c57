"""Soft-cap sampling: rows are drawn by their score, over and over, and each draw makes a row's next less likely.

Drawn one at a time, with probabilities that are the softmax of what the rows' scores are by then, this is a race of
clocks. A row of score s waits for its first draw a time that is exponentially distributed with rate e**s; for its next,
as the penalty has lowered its score, one with rate e**(s - penalty), and so on. Whichever clock rings first over the
whole pool is drawn with just its softmax probability, and what has passed of the other waits does not matter. So the
first `samples` rings are the draws.

A row's rings depend on nothing but its score and chance, and chance is a hash of (uid, seed, draw): which rings are
the first is a selection of the smallest, the same in any order of the rows. It takes three passes: one counts the
scores, from which follows about when the last draw is; one counts the rings around then in 65,536 bins; and one sorts
those of the last draw's bin. In the last two, and in the filter, a row costs a hash and two logarithms for each draw.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from filters import quantile
from filters.base import Filter, Fit, Step
from filters.fused_score import Fused, FusedScore
from metadata import balancing, uids
from metadata.errors import CurateError, printable

_BINS = 1 << 16

#: The column of kept/ that says how often a row is taken.
COPIES = "copies"

#: Samples a row, on average, that may be asked for: each costs a hash, three times over.
_MOST_COPIES = 5_000

#: The penalties and weights that make sense: e**1000 is no number.
_LEAST_PENALTY, _MOST_PENALTY, _MOST_WEIGHT = 1e-3, 100.0, 1000.0


@dataclasses.dataclass(frozen=True)
class SoftCap(Fused):
    """Finishes as the SoftCapped that takes exactly so many samples, rows of a high score several times.

    Samples are drawn one after the other, each with the softmax of the rows' scores; every time a row is drawn its
    score falls by `penalty`. Scores are fused ones, see Fused: standardised, a row that is a standard deviation
    better is at first drawn e**weight times as often. A row without a score is counted, and is never
    drawn. It must be the last step of a recipe.

    Args:
        weights: as in FusedScoreFraction, as are `files` and `scale`; a single score is a single weight.
        samples: how many are drawn, at most 5,000 of a row on average; None for as many as the pool has rows, on which
            DataComp trains.
        penalty: 0.001 to 100; e**penalty is how much rarer a row becomes each time that it is drawn.
        seed: of the draws, from 0.

    Source: M-FLYT (arXiv:2503.08805), soft cap sampling, with a penalty of 0.15.
    Differs: the paper draws batches, without replacement, and subtracts the penalty after each; here a batch is one
        sample. A batch takes a row once at most, so it is the first batches that differ, which would be of little but
        the best rows; those that come short there have kept their score, and catch up. With 1,280 batches (128M samples
        in batches of 100,000) and scores with a deviation of 3, the best twentieth of the rows has 12.06 copies each on
        average, here 12.12, and 24.4 percent of all rows are taken, here 24.2. With 64 batches it is 11.9 and 24.8.
    """

    weights: dict
    files: str | None = None
    samples: int | None = None
    penalty: float = 0.15
    seed: int = 0
    scale: str = "standardise"
    _hashes: dict[str, str] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)
    passes: ClassVar[int] = 4  # one for the scales, three for the last draw
    comes_last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "columns", ("uid", *self.weights))
        for name, weight in self.weights.items():
            if abs(weight) > _MOST_WEIGHT:
                raise CurateError(f"soft_cap: the weight of {printable(name)!r} is {weight:g}, but a row is drawn "
                                  f"e**weight times as often as one that is a unit worse. Give 1, or about that.")
        if self.samples is not None and self.samples < 1:
            raise CurateError(f"soft_cap: samples is {self.samples}, but it is a whole number of at least 1. Leave it "
                              f"out for as many as the pool has rows.")
        if not _LEAST_PENALTY <= self.penalty <= _MOST_PENALTY:
            raise CurateError(f"soft_cap: penalty is {self.penalty}, but it lies from {_LEAST_PENALTY:g} to "
                              f"{_MOST_PENALTY:g}. M-FLYT's is 0.15.")
        balancing.check_seed(self.seed, self.name)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"samples": self.samples, "penalty": self.penalty, "seed": self.seed}

    def then(self, fused: FusedScore) -> Fit:
        return _Scores(self, fused)

    def rings(
        self, fused: FusedScore, batch: pa.RecordBatch, until: float
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All rings until a time, the first of each row, then the second, and so on; times are their logarithms.

        Yields:
            int64, the rows of the batch that ring, ascending; float64, of the same shape: when they do.
        """
        scores = fused.scores(batch)
        rows = np.flatnonzero(scores.is_valid())
        score = scores.drop_null().to_numpy().astype(np.float64)
        hashes = balancing.row_hashes(uids.parse(batch.column("uid")), self.seed)[rows]
        waited, draw = np.zeros(len(rows)), 0
        while len(rows):
            # A row's time so far, in units of its mean wait for this draw: it grows neither above all bounds nor to 0.
            waited = waited * math.exp(-self.penalty) - np.log1p(-balancing.numbered_draws(hashes, np.array([draw])))
            with np.errstate(divide="ignore"):  # a wait of 0 is one in 2**53
                when = np.log(waited) + (self.penalty * draw - score)
            early = when <= until
            rows, score, hashes, waited, when = (of[early] for of in (rows, score, hashes, waited, when))
            yield rows, when
            draw += 1


@dataclasses.dataclass(frozen=True)
class _OfSoftCap(Step):
    """What the passes after the first and the filter have in common."""

    step: SoftCap
    fused: FusedScore

    def __post_init__(self) -> None:
        for name in ("columns", "scorers"):
            object.__setattr__(self, name, getattr(self.step, name))

    @property
    def name(self) -> str:
        return self.step.name


@dataclasses.dataclass(frozen=True)
class _Scores(_OfSoftCap, Fit):
    """Counts rows by score, and tells from it between which times the last draw is.

    The state is int64, shape (HALVES + 2,): rows by the high half of their score's key, then the rows that were there
    to be seen, and those of the pool, which are more where a sample is seen.
    """

    def empty(self) -> np.ndarray:
        return np.zeros(quantile.HALVES + 2, np.int64)

    def add(self, state: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        state[:-2] += quantile.count(quantile.keys(self.fused.scores(batch)) >> 16)
        state[-2:] += batch.num_rows
        return state

    def skip(self, state: np.ndarray, rows: int) -> np.ndarray:
        state[-2:] += rows
        return state

    def merge(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        state += other
        return state

    def grown(self, state: np.ndarray, times: float) -> np.ndarray:
        state[-1] = round(int(state[-1]) * times)
        return state

    def finish(self, state: np.ndarray) -> Fit:
        """The next pass, with times between which the last draw is, but for a chance below 1 in 10**12.

        Of the mean m of a row's draws until a time t, with y = t * e**score, it is known that
        log(1 + penalty * y) <= penalty * m <= log(1 + (e**penalty - 1) * y), and that m <= y (by Jensen's inequality);
        and draws, each of which makes the next less likely, scatter less than if they were independent.

        Raises:
            CurateError: so many samples are asked for that drawing them would hardly end.
        """
        seen, pool = map(int, state[-2:])
        asked, scored = self.step.samples or pool, int(state[:-2].sum()) * pool // seen
        if asked > _MOST_COPIES * scored:
            raise CurateError(f"soft_cap: {asked:,} samples are to be drawn of the {scored:,} rows with a score that "
                              f"reach it, but {_MOST_COPIES * scored:,} are the most, {_MOST_COPIES:,} of each on "
                              f"average. Give fewer samples.")
        samples = max(1, asked * seen // pool)  # a sample of a pool is drawn from as much less
        halves = np.flatnonzero(state[:-2])
        rows, penalty = state[halves], self.step.penalty
        least, most = (np.array([quantile.score(int(half) << 16 | low) for half in halves])
                       for low in (0, quantile.HALVES - 1))  # fmt: skip

        def few(when: float) -> float:
            return float(rows @ np.logaddexp(0, np.log(penalty) + least + when)) / penalty

        def many(when: float) -> float:
            capped = np.logaddexp(0, np.log(-np.expm1(-penalty)) + penalty + most + when) / penalty
            return float(rows @ np.minimum(capped, np.exp(np.minimum(most + when, 700))))

        scatter = 10 * math.sqrt(samples) + 30
        first, last = _solve(many, max(samples - scatter, samples / 2)), _solve(few, samples + scatter)
        return _Bins(self.step, self.fused, samples, first, last)


def _solve(rising: Callable[[float], float], value: float) -> float:
    """Where the function has the value, as near as 60 halvings come."""
    low, high = -1.0, 1.0
    while rising(low) > value:
        low *= 2
    while rising(high) < value:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return high


@dataclasses.dataclass(frozen=True)
class _Bins(_OfSoftCap, Fit):
    """Counts the rings between two times by bins, and finds that of the last draw.

    The state is int64, shape (_BINS,); what rings before the first time is in the first bin.
    """

    samples: int
    first: float
    last: float

    def bins(self, when: np.ndarray) -> np.ndarray:
        """int64, ascending with the time."""
        return np.clip((when - self.first) * (_BINS / (self.last - self.first)), 0, _BINS - 1).astype(np.int64)

    def empty(self) -> np.ndarray:
        return np.zeros(_BINS, np.int64)

    def add(self, state: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        for _, when in self.step.rings(self.fused, batch, self.last):
            state += np.bincount(self.bins(when), minlength=_BINS)
        return state

    def merge(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        state += other
        return state

    def finish(self, state: np.ndarray) -> Fit:
        until = np.cumsum(state)
        if until[-1] < self.samples:
            raise CurateError(f"soft_cap: {int(until[-1]):,} draws came where {self.samples:,} were expected with "
                              f"certainty, but for bad luck. Give another seed than {self.step.seed}.")
        number = int(np.searchsorted(until, self.samples))
        return _LastBin(self.step, self.fused, self, number, int(until[number] - state[number]))


@dataclasses.dataclass(frozen=True)
class _LastBin(_OfSoftCap, Fit):
    """Sorts the rings in the bin of the last draw.

    The state is their times: float64, in any order. It is the one that grows with the samples, but hardly: a bin has
    less than (last - first) / 65,536 of them, where times are logarithms and mostly less than 1 apart.
    """

    bins: _Bins
    number: int
    before: int

    def empty(self) -> np.ndarray:
        return np.zeros(0)

    def add(self, state: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        rings = self.step.rings(self.fused, batch, self.bins.last)
        return np.concatenate([state, *(when[self.bins.bins(when) == self.number] for _, when in rings)])

    def merge(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.concatenate([state, other])

    def finish(self, state: np.ndarray) -> Filter:
        times = np.sort(state)
        n = self.bins.samples - self.before
        # Half way to the next ring, where no rounding of a logarithm can matter.
        until = float(times[n - 1] + times[n]) / 2 if n < len(times) else float(times[n - 1])
        drawn = self.before + int(np.searchsorted(times, until, "right"))
        return SoftCapped(self.step, self.fused, until, drawn)


@dataclasses.dataclass(frozen=True)
class SoftCapped(_OfSoftCap, Filter):
    """Takes a row as often as it rings until a time; see SoftCap.

    Args:
        until: a logarithm.
        samples: how many that are; what was asked for, and more only where times are equal.
    """

    until: float
    samples: int

    def describe(self) -> dict[str, Any]:
        scales = {"offsets": self.fused.offsets, "divisors": self.fused.divisors}
        return self.step.describe() | {"samples": self.samples, "until": self.until} | scales | self.fused.counted

    def copies(self, batch: pa.RecordBatch) -> np.ndarray:
        """int64, shape (batch.num_rows,)."""
        found = np.zeros(batch.num_rows, np.int64)
        for rows, _ in self.step.rings(self.fused, batch, self.until):
            found[rows] += 1
        return found

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        return pa.array(self.copies(batch) > 0)
