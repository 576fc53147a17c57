"""ImageSize and AspectRatio, at their edges."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.base import Filter
from filters.sizes import AspectRatio, ImageSize
from metadata.errors import CurateError

INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 1000)


def keep(step: Filter, sides: list[tuple[int | None, int | None]]) -> list[bool]:
    columns = zip(*sides, strict=True) if sides else ((), ())
    names = ("original_width", "original_height")
    batch = pa.record_batch({name: pa.array(column, pa.int64()) for name, column in zip(names, columns, strict=True)})
    return step.keep(batch).to_pylist()


def test_the_shorter_side_counts() -> None:
    sides = [(200, 200), (199, 5000), (5000, 199), (200, 10_000), (None, 300), (300, None), (None, None), (0, 0)]
    assert keep(ImageSize(), sides) == [True, False, False, True, False, False, False, False]
    assert keep(ImageSize(min_side_px=1), [(1, 1), (0, 5), (-5, 5)]) == [True, False, False]


def test_the_ratio_is_taken_either_way_round() -> None:
    sides = [(300, 100), (100, 300), (301, 100), (100, 301), (None, 1), (7, 7)]
    assert keep(AspectRatio(), sides) == [True, True, False, False, False, True]


def test_sides_that_are_not_positive_are_dropped_without_raising() -> None:
    sides = [(0, 0), (0, 100), (100, 0), (-100, 100), (100, -100), (-2, -1)]
    assert keep(AspectRatio(), sides) == [False] * 6


@given(st.lists(st.tuples(INT64, INT64), max_size=20), st.floats(1, 10))
def test_equals_numpy_in_float64(sides: list[tuple[int, int]], max_ratio: float) -> None:
    with np.errstate(all="ignore"):
        expected = [bool(min(s) > 0 and np.float64(max(s)) / np.float64(min(s)) <= max_ratio) for s in sides]
    assert keep(AspectRatio(max_ratio), sides) == expected


def test_bounds_that_keep_nothing_or_everything_are_refused() -> None:
    with pytest.raises(CurateError, match=r"^image_size: min_side_px is 0, but the least is 1\. Give pixels\."):
        ImageSize(0)
    for ratio in (0.5, float("nan")):
        with pytest.raises(CurateError, match=rf"^aspect_ratio: max_ratio is {ratio}, but it is at least 1"):
            AspectRatio(ratio)
