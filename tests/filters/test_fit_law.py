"""The law of fits: any split of the rows into batches and any order of merges finish as the plain restatement says.

Some fits count the rows of the pool that the steps before have dropped, too: these come in any order with the others.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.base import Filter, Fit
from filters.best import Best
from filters.clip_score import ClipScore, ClipScoreFraction

SCORES = st.none() | st.floats(width=32) | st.sampled_from([0.1, 0.2, 0.25, -0.0, 0.0])


@dataclasses.dataclass(frozen=True)
class BestOf(Best):
    """The best by a column, as a fraction of the step's rows or the pool's."""

    fraction: float
    of: str
    columns = ("clip_l14_similarity_score",)

    def scores(self, batch: pa.RecordBatch) -> pa.FloatArray:
        return batch.column(0)

    def at(self, threshold: float) -> Filter:
        return ClipScore("l14", threshold)


def highest_scores(fit: ClipScoreFraction, rows: pa.RecordBatch, dropped: int) -> Filter | None:
    """What ClipScoreFraction must finish as: a sort of the whole column; None where no row has a score."""
    scores = sorted((s for s in rows.column(0).to_pylist() if s is not None and s == s), reverse=True)
    if not scores:
        return None
    return ClipScore(fit.model, scores[min(int(rows.num_rows * fit.fraction), len(scores) - 1)])


def best_scores(fit: BestOf, rows: pa.RecordBatch, dropped: int) -> Filter | None:
    """What a Best must finish as: the least of the int(rows * fraction) highest scores."""
    scores = sorted((s for s in rows.column(0).to_pylist() if s is not None and s == s), reverse=True)
    if not scores:
        return None
    total = rows.num_rows + (dropped if fit.of == "pool" else 0)
    best = scores[: max(int(total * fit.fraction), 1)]
    return ClipScore("l14", best[-1])


def score_rows(model: str) -> st.SearchStrategy[pa.RecordBatch]:
    name = f"clip_{model}_similarity_score"
    return st.lists(SCORES, min_size=1, max_size=60).map(lambda s: pa.record_batch({name: pa.array(s, pa.float32())}))


#: Every fit, rows it may meet, and its plain restatement.
FITS = [
    (ClipScoreFraction("l14", 0.3), score_rows("l14"), highest_scores),
    (ClipScoreFraction("b32", 0.01), score_rows("b32"), highest_scores),
    (ClipScoreFraction("l14", 0.97), score_rows("l14"), highest_scores),
    (BestOf(0.2, "pool"), score_rows("l14"), best_scores),
    (BestOf(0.5, "step"), score_rows("l14"), best_scores),
]


def split_and_merged(fit: Fit, rows: pa.RecordBatch, dropped: int, data: st.DataObject) -> Filter:
    """The fit over drawn batches of `rows`, in any number of states that are merged in any order."""
    for _ in range(type(fit).passes):
        cuts = sorted({0, rows.num_rows, *data.draw(st.lists(st.integers(0, rows.num_rows), max_size=5))})
        batches = [rows.slice(a, b - a) for a, b in itertools.pairwise(cuts)] + [rows.slice(0, 0)]
        states = [fit.empty()]
        for batch in data.draw(st.permutations(batches)):
            if data.draw(st.booleans()):
                states.append(fit.empty())
            states[-1] = fit.add(states[-1], batch)
        for some in (dropped // 3, dropped - dropped // 3):
            at = data.draw(st.integers(0, len(states) - 1))
            states[at] = fit.skip(states[at], some)
        while len(states) > 1:
            one = states.pop(data.draw(st.integers(0, len(states) - 1)))
            at = data.draw(st.integers(0, len(states) - 1))
            states[at] = fit.merge(states[at], one) if data.draw(st.booleans()) else fit.merge(one, states[at])
        fit = fit.finish(states[0])
    assert isinstance(fit, Filter)
    return fit


@pytest.mark.parametrize(("fit", "strategy", "restated"), FITS, ids=lambda x: repr(x) if isinstance(x, Fit) else "")
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_split_and_any_merges_give_the_same(
    fit: Fit, strategy: st.SearchStrategy, restated: Callable, data: st.DataObject
) -> None:
    rows = data.draw(strategy)
    dropped = data.draw(st.integers(0, 100))
    expected = restated(fit, rows, dropped)
    if expected is not None:
        found = split_and_merged(fit, rows, dropped, data)
        assert found == expected
        assert np.array_equal(found.keep(rows), expected.keep(rows))
