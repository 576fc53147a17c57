"""Sums of float32 without any rounding, so that they are the same in whatever order, and in however many parts."""

import math
from fractions import Fraction

import numpy as np

#: Powers of two that a float32 may lie below: 2**-148 to 2**128.
_POWERS = 277
_LEAST_POWER = -148
_MANTISSA = 1 << 24

#: Of a column's sums.
SHAPE = (3, _POWERS)


def sums(values: np.ndarray) -> np.ndarray:
    """The sum of the values and that of their squares, as whole numbers by the power of two that they count.

    A float32 is m * 2**(e - 24) with a whole m below 2**24, so the m of one e add up exactly. A square has 48 bits,
    which are summed as two halves. There is room for 2**39 rows in all, and 2**29 in one call.

    Args:
        values: float32, finite.

    Returns:
        int64, of SHAPE: for each e, from the least, the sums of m, of the high half of m * m and of its low half. Add
        them to those of other values.
    """
    mantissas, powers = np.frexp(values.astype(np.float64))
    whole = mantissas * _MANTISSA
    squares = whole * whole
    high = np.floor(squares / _MANTISSA)
    parts = (whole, high, squares - high * _MANTISSA)
    return np.stack([np.bincount(powers - _LEAST_POWER, part, _POWERS) for part in parts]).astype(np.int64)


def mean_and_deviation(summed: np.ndarray, rows: int) -> tuple[float, float]:
    """The mean, and the standard deviation of a population, as near to their exact values as floats come.

    Args:
        summed: `sums` of all values, added up.
        rows: how many values these are.
    """
    total = square = Fraction(0)
    for power in np.flatnonzero(summed.any(axis=0)).tolist():
        unit = Fraction(2) ** (power + _LEAST_POWER - 24)
        value, high, low = summed[:, power].tolist()
        total += value * unit
        square += (high * _MANTISSA + low) * unit * unit
    mean = total / rows
    return float(mean), math.sqrt(square / rows - mean * mean)
