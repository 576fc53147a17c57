"""Keys keep the order of float32 scores, and selection by halves finds the n-th largest."""

import math

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from filters import quantile

FLOAT32 = st.floats(width=32, allow_nan=False)


@given(FLOAT32, FLOAT32)
def test_keys_are_ordered_as_scores(a: float, b: float) -> None:
    x, y = (int(key) for key in quantile.keys(pa.array([a, b], pa.float32())))
    assert (x < y, x == y) == (a < b, a == b)


@given(FLOAT32)
def test_a_key_gives_its_score_back(value: float) -> None:
    (key,) = quantile.keys(pa.array([value], pa.float32()))
    assert quantile.score(int(key)) == value
    assert np.float32(float(repr(quantile.score(int(key))))) == np.float32(value)


def test_edges_of_float32() -> None:
    tiny = float(np.float32(1e-45))
    edges = [-math.inf, -3.4028234663852886e38, -1.0, -tiny, 0.0, tiny, 1.0, 3.4028234663852886e38, math.inf]
    keys = quantile.keys(pa.array(edges, pa.float32()))
    assert keys.dtype == np.uint32
    assert np.all(np.diff(keys.astype(np.int64)) > 0)
    assert [quantile.score(int(key)) for key in keys] == edges


def test_null_and_nan_have_no_key_and_the_zeros_have_one() -> None:
    scores = pa.array([None, float("nan"), -0.0, 0.0, None], pa.float32())
    keys = quantile.keys(scores)
    assert len(keys) == 2
    assert keys[0] == keys[1]
    assert len(quantile.keys(scores.slice(1, 2))) == 1


@given(st.lists(st.integers(0, quantile.HALVES - 1), min_size=1, max_size=50), st.data())
def test_locate_finds_the_nth_largest(halves: list[int], data: st.DataObject) -> None:
    n = data.draw(st.integers(0, len(halves) - 1))
    half, place = quantile.locate(quantile.count(np.array(halves, np.uint32)), n)
    descending = sorted(halves, reverse=True)
    assert half == descending[n]
    assert place == n - descending.index(half)
