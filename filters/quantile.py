"""The n-th largest of any number of float32 scores, exactly, in memory that does not grow with their number.

Scores become 32-bit keys of the same order. One pass counts the keys by their high half and finds the half that holds
the n-th largest; a second counts, within it, the low halves.
"""

import numpy as np
import pyarrow as pa

#: How many values half a key has.
HALVES = 1 << 16

_SIGN = np.uint32(1 << 31)


def keys(scores: pa.Array) -> np.ndarray:
    """Numbers in the order of the scores that are not null and not NaN; -0.0 and 0.0 are one score.

    Args:
        scores: float32.

    Returns:
        uint32, shape (scores that are numbers,), in the order given.
    """
    values = scores.drop_null().to_numpy(zero_copy_only=False)
    bits = (values[~np.isnan(values)] + np.float32(0)).view(np.uint32)  # adding 0 makes -0.0 into 0.0
    # Negative floats grow as their bits shrink, so all their bits are flipped; of the others only the sign.
    return bits ^ ((bits.view(np.int32) >> 31).view(np.uint32) | _SIGN)


def score(key: int) -> float:
    """The score of a key; a float32 in a float, so `repr` of it is exact."""
    bits = np.uint32(key)
    bits = bits ^ _SIGN if bits & _SIGN else ~bits
    return float(bits.view(np.float32))


def count(halves: np.ndarray) -> np.ndarray:
    """How often each half of a key occurs: int64, shape (HALVES,)."""
    return np.bincount(halves, minlength=HALVES)


def locate(counts: np.ndarray, n: int) -> tuple[int, int]:
    """The half in which the n-th largest lies, counted from 0, and its place there, again from the largest."""
    from_top = np.cumsum(counts[::-1])
    steps = int(np.searchsorted(from_top, n, side="right"))
    half = HALVES - 1 - steps
    return half, n - int(from_top[steps] - counts[half])
