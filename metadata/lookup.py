"""Where 64-bit keys stand in a sorted table, for many keys at once."""

import numpy as np


def index(keys: np.ndarray) -> np.ndarray:
    """Where in the sorted keys each value of their high bits begins. uint32, shape (2**k + 1,), from 0 to len(keys)."""
    bits = max(1, len(keys).bit_length())
    counts = np.bincount((keys >> np.uint64(64 - bits)).view(np.int64), minlength=1 << bits)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)


def find(wanted: np.ndarray, keys: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the wanted keys there are, and where.

    Args:
        wanted: uint64; of evenly spread high bits, as the keys, or it is slow.
        keys: uint64, sorted, distinct.
        first: `index(keys)`.

    Returns:
        Indices into `wanted` and into `keys`, in no order.
    """
    bucket = (wanted >> np.uint64(65 - len(first).bit_length())).view(np.int64)
    at, end = first[bucket], first[bucket + 1]
    left = np.flatnonzero(at < end)
    at, end = at[left], end[left]
    found, where = [left[:0]], [at[:0]]
    while len(left):
        equal = keys[at] == wanted[left]
        found.append(left[equal])
        where.append(at[equal])
        on = np.flatnonzero(~equal & (at + 1 < end))
        left, at, end = left[on], at[on] + 1, end[on]
    return np.concatenate(found), np.concatenate(where)
