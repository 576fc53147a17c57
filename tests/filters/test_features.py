"""Feature columns become matrices without a copy, and rows that are no unit vectors are found."""

import numpy as np
import pyarrow as pa
import pytest

from filters.features import TOLERANCE, inner, matrix, unit, widen
from metadata.errors import CurateError

RNG = np.random.default_rng(0)


def column(values: np.ndarray, nulls: list[int] | None = None) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = pa.array([i in nulls for i in range(len(values))]) if nulls else None
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def units(rows: int, dims: int = 768, dtype: type = np.float16) -> np.ndarray:
    values = RNG.standard_normal((rows, dims))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(dtype)


def test_a_column_is_a_matrix_that_shares_its_memory() -> None:
    values = units(10, 4)
    whole = column(values)
    assert matrix(whole).tobytes() == values.tobytes()
    assert np.shares_memory(matrix(whole), whole.values.to_numpy())
    assert matrix(whole.slice(3, 5)).tobytes() == values[3:8].tobytes()
    batch = pa.record_batch({"x": whole})
    assert matrix(batch.take(pa.array([7, 1])).column(0)).tobytes() == values[[7, 1]].tobytes()
    keep = RNG.random(10) < 0.5
    assert matrix(batch.slice(0, 10).filter(pa.array(keep)).column(0)).tobytes() == values[keep].tobytes()
    assert matrix(column(values[:0])).shape == (0, 4)


def test_nulls_are_nan() -> None:
    values = units(5, 4)
    found = matrix(column(values, nulls=[1, 3]).slice(1, 3))
    assert np.isnan(found).tolist() == [[True] * 4, [False] * 4, [True] * 4]
    assert found.dtype == np.float16
    inside = pa.array([np.float16(1), None, np.float16(0), np.float16(0)], pa.float16())
    found = matrix(pa.FixedSizeListArray.from_arrays(inside, 2))
    assert np.isnan(found).tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("below", [1.0, 65536.0, np.inf, np.nan], ids=str)
def test_every_float16_is_widened_exactly(below: float) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    some = every if np.isnan(below) else every[np.abs(every.astype(np.float32)) < below]
    for values in (some.reshape(-1, 1), some.reshape(2, -1), some.reshape(2, -1).T, some.reshape(2, -1)[:, ::3]):
        found, wanted = widen(values), values.astype(np.float32)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        assert np.array_equal(found, wanted, equal_nan=True)
        assert np.array_equal(np.signbit(found), np.signbit(wanted))


def test_what_is_wide_is_copied() -> None:
    for values in (np.float32([[0.1, np.nan]]), np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float16)):
        found = widen(values)
        assert np.array_equal(found, values, equal_nan=True)
        assert found.dtype == np.float32
        assert not np.shares_memory(found, values)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_unit_vectors_in_any_rounding_are_unit_vectors(dtype: type) -> None:
    values = units(2000, dtype=dtype)
    with np.errstate(all="raise"):
        found, there = unit(values, "x")
    assert there.all()
    assert np.array_equal(found, values.astype(np.float32))
    # Divided by their length in float16, as some write them.
    raw = RNG.standard_normal((2000, 768)).astype(np.float16)
    assert unit(raw / np.linalg.norm(raw.astype(np.float32), axis=1, keepdims=True).astype(np.float16), "x")[1].all()


def test_rows_without_features() -> None:
    values = units(4)
    values[0], values[2, 5] = 0, np.nan
    found, there = unit(values, "x")
    assert there.tolist() == [False, True, False, True]
    assert not found[[0, 2]].any()
    assert unit(values[:0], "x")[0].shape == (0, 768)
    assert not unit(values[[0, 0]], "x")[1].any()


@pytest.mark.parametrize(("factor", "told"), [
    (10, "(1 to 10)"), (0.1, "(0.1 to 1)"), (1 + 1.2 * TOLERANCE, "(1 to 1.012)"), (np.inf, "to inf)"),
])  # fmt: skip
def test_other_lengths_are_told(factor: float, told: str) -> None:
    values = units(3, dtype=np.float32)
    values[1] *= np.float32(factor)
    if np.isinf(factor):
        values[1] = np.inf
    with pytest.raises(CurateError) as error:
        unit(values, "l14_img")
    assert str(error.value).startswith("l14_img: features that are not of unit length (")
    assert told in str(error.value)


def test_an_inner_product_is_the_same_in_any_company() -> None:
    a, b = units(999, dtype=np.float32), units(999, dtype=np.float32)
    whole = inner(a, b)
    assert whole.dtype == np.float64
    assert np.allclose(whole, np.einsum("ij,ij->i", a.astype(float), b.astype(float)), rtol=0, atol=1e-14)
    for start in range(0, 999, 37):
        assert np.array_equal(inner(a[start : start + 5], b[start : start + 5]), whole[start : start + 5])
