"""Features of a batch as matrices: rows of numbers of unit length, in the type that products are taken in."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from metadata.errors import CurateError

#: How far a length may be from 1. Rounding a unit vector to float16 changes its length by less than 0.0005, dividing by
#: the length in float16 by less than 0.001; what is ten times as far was never of unit length.
TOLERANCE = 0.01

#: Rows that are converted at a time: 6 MB of float32. A product of fewer packs the other side too often.
_ROWS = 2048

#: Numbers that are widened at a time, which a cache holds; where float16's exponent, sign and fraction come to lie in a
#: float32 by a shift; and what the exponent lacks then.
_NUMBERS = 1 << 17
_BITS, _SHIFT, _MISSING = np.uint32(0x8FFFE000).view(np.int32), 13, np.float32(2.0**112)


def matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    """The column's numbers, shape (rows, dims), in its type; a null is NaN. Where there is none, nothing is copied."""
    if not pa.types.is_fixed_size_list(column.type):
        raise CurateError(f"features: a column is of type {column.type}, but features are lists of one length. Name "
                          f"another column.")  # fmt: skip
    dims = column.type.list_size
    values = column.values.slice(column.offset * dims, len(column) * dims)
    found = values.to_numpy(zero_copy_only=not values.null_count).reshape(len(column), dims)
    if column.null_count:
        found = found.copy()
        found[column.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return found


def widen(values: np.ndarray) -> np.ndarray:
    """float16 or float32 of two dimensions as float32, in C order and in memory of its own."""
    return _widen(values)[0]


def _widen(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values as float32, float16 in little more than half of the time that numpy takes; each row's squares' sum."""
    wide, squares = np.empty(values.shape, np.float32), np.empty(len(values), np.float32)
    rows = max(1, _NUMBERS // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        narrow, own = values[start : start + rows], wide[start : start + rows]
        if values.dtype == np.float16:
            bits = own.view(np.int32)
            bits[:] = narrow.view(np.int16)  # the sign is repeated to its left
            bits <<= _SHIFT
            bits &= _BITS
            own *= _MISSING
            found = np.vecdot(own, own)
            # Infinity and NaN have become finite ones of 65536 and more, above all that are finite in float16.
            if found.max() < 65536.0**2:
                squares[start : start + rows] = found
                continue
        own[:] = narrow
        with np.errstate(all="ignore"):  # a NaN says itself what it is
            squares[start : start + rows] = np.vecdot(own, own)
    return wide, squares


def unit(features: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features in float32, and which rows have any: a row of zeros alone, and one with a NaN, has none.

    They are not scaled: a length is what rounding has made of 1.

    Args:
        features: float16 or float32, shape (rows, dims).
        name: of what they are, for the error.

    Returns:
        float32, shape (rows, dims), with zeros in the rows that have none; bool, shape (rows,).

    Raises:
        CurateError: a row is of another length than 1, by more than TOLERANCE.
    """
    units, squares = _widen(features)
    lengths = np.sqrt(squares)
    there = ~(np.isnan(lengths) | (lengths == 0))
    if (np.abs(lengths[there] - 1) > TOLERANCE).any():
        least, most = lengths[there].min(), lengths[there].max()
        raise CurateError(f"{name}: features that are not of unit length ({least:.4g} to {most:.4g}), but their inner "
                          f"products are compared as cosines. Divide each by its length.")  # fmt: skip
    if not there.all():
        units[~there] = 0
    return units, there


def unit_blocks(features: np.ndarray, name: str) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Which rows they are, and `unit` of them, about two thousand rows at a time."""
    for start in range(0, len(features), _ROWS):
        part = slice(start, start + _ROWS)
        yield part, *unit(features[part], name)


def lacking(column: pa.FixedSizeListArray, name: str) -> np.ndarray:
    """Which rows have no features, see `unit`: bool, shape (rows,)."""
    found = np.zeros(len(column), bool)
    for part, _, there in unit_blocks(matrix(column), name):
        found[part] = ~there
    return found


def inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The inner product of each row of `a` with the same row of `b`: float64, the same whatever the other rows are."""
    return (a.astype(np.float64) * b).sum(axis=1)
