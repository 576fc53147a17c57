"""ClipScore compares in float32; ClipScoreFraction gives DataComp's threshold."""

import json
import math
import pickle

import numpy as np
import pyarrow as pa
import pytest

from filters.base import Filter, Fit
from filters.clip_score import ClipScore, ClipScoreFraction
from metadata.errors import CurateError

NAN = float("nan")


def batch_of(scores: list[float | None] | np.ndarray, model: str = "l14") -> pa.RecordBatch:
    return pa.record_batch({f"clip_{model}_similarity_score": pa.array(scores, pa.float32(), from_pandas=False)})


def fitted(fit: Fit, *batches: pa.RecordBatch) -> Filter:
    for _ in range(type(fit).passes):
        state = fit.empty()
        for batch in batches:
            state = fit.add(state, batch)
        fit = fit.finish(state)
    return fit


def test_the_threshold_is_rounded_to_float32_as_the_scores_are() -> None:
    just = np.float32(0.28)
    assert float(just) > 0.28 or float(just) < 0.28
    below = np.nextafter(just, np.float32(0))
    scores = [just, below, 0.3, None, NAN, math.inf, -math.inf]
    assert ClipScore("b32", 0.28).keep(batch_of(scores, "b32")).to_pylist() == [
        True, False, True, False, False, True, False,
    ]  # fmt: skip


def test_the_model_names_the_column() -> None:
    assert ClipScore("b32", 0.1).columns == ("clip_b32_similarity_score",)
    assert ClipScoreFraction("l14", 0.1).columns == ("clip_l14_similarity_score",)
    assert ClipScoreFraction("l14", 0.1).name == ClipScore("l14", 0.1).name == "clip_score"
    for make in (ClipScore, ClipScoreFraction):
        with pytest.raises(CurateError, match=r"clip_score: unknown model 'L14'\. Did you mean 'l14'"):
            make("L14", 0.1)


def test_one_row_more_than_the_fraction_and_ties() -> None:
    scores = [i / 10 for i in range(10)]
    assert sum(fitted(ClipScoreFraction("l14", 0.3), batch_of(scores)).keep(batch_of(scores)).to_pylist()) == 4
    ties = [0.5] * 7 + [0.1] * 3
    assert sum(fitted(ClipScoreFraction("l14", 0.3), batch_of(ties)).keep(batch_of(ties)).to_pylist()) == 7


def test_equals_a_sort_of_the_column() -> None:
    scores = np.random.default_rng(0).normal(0.2, 0.05, 100_000).astype(np.float32).round(3)
    for fraction in (1e-6, 0.1, 0.3, 0.999999):
        expected = -np.sort(-scores)[int(len(scores) * fraction)]
        found = fitted(ClipScoreFraction("l14", fraction), *(batch_of(part) for part in np.array_split(scores, 7)))
        assert found == ClipScore("l14", float(expected))


def test_rows_without_a_score_count_but_are_never_kept() -> None:
    scores = [0.1, 0.2, 0.3, None, NAN, None, NAN, None, NAN, None]
    found = fitted(ClipScoreFraction("l14", 0.2), batch_of(scores))
    assert found == ClipScore("l14", float(np.float32(0.1)))  # index 2 of 10 rows, not of 3
    # The index lies among rows without a score: all with one stay.
    assert fitted(ClipScoreFraction("l14", 0.9), batch_of(scores)) == found
    assert sum(found.keep(batch_of(scores)).to_pylist()) == 3


def test_a_single_row_and_zeros_of_both_signs() -> None:
    assert fitted(ClipScoreFraction("l14", 0.5), batch_of([0.25])) == ClipScore("l14", 0.25)
    zeros = batch_of([0.0, -0.0, -0.1])
    assert fitted(ClipScoreFraction("l14", 0.1), zeros).keep(zeros).to_pylist() == [True, True, False]


def test_no_scores_at_all() -> None:
    with pytest.raises(CurateError, match="clip_score: none of the 2 rows that reached it has a clip_l14"):
        fitted(ClipScoreFraction("l14", 0.3), batch_of([None, NAN]))


def test_no_rows_are_the_fault_of_the_steps_before() -> None:
    with pytest.raises(CurateError, match=r"clip_score: no row reaches it, but it needs some\. The steps before"):
        fitted(ClipScoreFraction("l14", 0.3), batch_of([]))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 30.0, NAN])
def test_fractions_lie_between_0_and_1(fraction: float) -> None:
    with pytest.raises(CurateError, match=rf"fraction is {fraction}, but it lies above 0 and below 1\. Give 0\.3 for"):
        ClipScoreFraction("l14", fraction)


def test_nan_is_no_threshold() -> None:
    with pytest.raises(CurateError, match="threshold is NaN"):
        ClipScore("l14", NAN)


def test_what_is_fitted_can_be_stored_as_json_and_reused() -> None:
    scores = np.random.default_rng(1).normal(0.2, 0.05, 1000).astype(np.float32)
    found = fitted(ClipScoreFraction("l14", 0.3), batch_of(scores))
    described = json.loads(json.dumps(found.describe()))
    assert described.pop("rows_without_score") == 0
    again = ClipScore(**described)
    assert again == found
    assert again.keep(batch_of(scores)).equals(found.keep(batch_of(scores)))
    assert eval(repr(found)) == found
    assert pickle.loads(pickle.dumps(found)).columns == found.columns


def test_the_state_does_not_grow_with_the_pool() -> None:
    fit = ClipScoreFraction("l14", 0.3)
    state = fit.empty()
    for _ in range(5):
        state = fit.add(state, batch_of(np.random.default_rng(2).random(10_000, np.float32)))
    assert state.nbytes == fit.empty().nbytes < 600_000
