"""Exact sums equal those of fractions, however the values are split, to the ends of float32."""

import math
import statistics
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from filters import exact_sums


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40), st.integers(1, 5))
def test_equal_fractions(values: list[float], parts: int) -> None:
    exact = [Fraction(value) for value in values]
    summed = sum(exact_sums.sums(np.array(values[n::parts], np.float32)) for n in range(parts))
    mean, deviation = exact_sums.mean_and_deviation(summed, len(values))
    assert mean == float(sum(exact) / len(exact))
    assert deviation == math.sqrt(statistics.pvariance(exact))


def test_reach_the_ends_of_float32() -> None:
    most = np.finfo(np.float32).max
    ends = exact_sums.sums(np.array([2**-149, most, -most, 0, -0.0], np.float32))
    assert ends.shape == exact_sums.SHAPE
    assert exact_sums.mean_and_deviation(ends, 5)[0] == 2**-149 / 5


def test_many_rows_that_cancel() -> None:
    most = np.finfo(np.float32).max
    values = np.tile(np.array([most, -most], np.float32), 1 << 19)
    mean, _ = exact_sums.mean_and_deviation(exact_sums.sums(values) + exact_sums.sums(np.ones(1, np.float32)), 1)
    assert mean == 1
