"""MetaCLIP's balancing as arithmetic: how frequent an entry may be, and which of a text's draws succeed.

A pair is kept if, for any of its entries, a draw from [0, 1) is below t / count. With each draw multiplied by its
entry's count, that is: if the least of these products is below t. So one number per pair, its cost, says from which t
on it is kept, and whatever t is asked for is found in the costs.

Source: MetaCLIP (arXiv:2309.16671), algorithm 1; MetaCLIP 2 (arXiv:2507.22062) for tail shares and languages.
"""

import numpy as np
import pyarrow as pa

from metadata.errors import CurateError
from metadata.uids import UID_DTYPE

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(words: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: uint64 in, uint64 out, each bit of which depends on every bit that came in."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def check_seed(seed: int, where: str) -> None:
    """Raises CurateError if it is no seed of `row_hashes`."""
    if not 0 <= seed < 1 << 64:
        raise CurateError(f"{where}: seed is {seed}, but it lies from 0 to 2**64 - 1. Give 0.")


def row_hashes(uids: np.ndarray, seed: int) -> np.ndarray:
    """A hash of each uid and the seed: uint64, shape (len(uids),). All that is left to chance comes from it.

    Args:
        uids: UID_DTYPE.
        seed: 0 to 2**64 - 1.
    """
    assert uids.dtype == UID_DTYPE
    return _mix(uids["f1"] + _mix(uids["f0"] + _mix(np.array([seed], np.uint64) + _GOLDEN)))


def draws(row_hashes: np.ndarray, matches: pa.ListArray) -> np.ndarray:
    """For each match a number in [0, 1), independent of all others: float64, shape (matches in all,).

    It is made of the row's hash and the entry's number in its list, so it is the same in any order of the rows.
    """
    entries = matches.flatten().to_numpy(zero_copy_only=False)
    return numbered_draws(np.repeat(row_hashes, lengths(matches)), entries)


def numbered_draws(row_hashes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """For each hash its draw of that number, in [0, 1) and independent of all others: float64, shape (rows,).

    Args:
        numbers: whole numbers from 0, shape (rows,) or (1,).
    """
    words = row_hashes + (numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    return (_mix(words) >> np.uint64(11)) * 2.0**-53


def lengths(matches: pa.ListArray) -> np.ndarray:
    """How many entries each text matches: int64, shape (len(matches),)."""
    return np.diff(matches.offsets.to_numpy()).astype(np.int64)


def costs(row_hashes: np.ndarray, matches: pa.ListArray, scale: np.ndarray) -> np.ndarray:
    """The least of each row's draws, each times its entry's scale: float64, shape (rows,); inf where nothing matches.

    Args:
        scale: float64, shape (entries,): the entry's count, over its t where that is known.
    """
    drawn = draws(row_hashes, matches)
    drawn *= scale[matches.flatten().to_numpy(zero_copy_only=False)]
    found = np.full(len(matches), np.inf)
    some = np.flatnonzero(lengths(matches))
    if len(some):
        starts = matches.offsets.to_numpy()[some] - matches.offsets[0].as_py()
        found[some] = np.minimum.reduceat(drawn, starts)
    return found


def keep_probabilities(matches: pa.ListArray, probability: np.ndarray) -> np.ndarray:
    """1 - prod(1 - p) over each text's entries: float64, shape (len(matches),)."""
    some = np.flatnonzero(lengths(matches))
    found = np.zeros(len(matches))
    if len(some):
        missed = 1 - probability[matches.flatten().to_numpy(zero_copy_only=False)]
        starts = matches.offsets.to_numpy()[some] - matches.offsets[0].as_py()
        found[some] = 1 - np.multiply.reduceat(missed, starts)
    return found


def count(matches: pa.ListArray, entries: int) -> np.ndarray:
    """How many texts match each entry: int64, shape (entries,)."""
    return np.bincount(matches.flatten().to_numpy(zero_copy_only=False), minlength=entries)


def tail_share(counts: np.ndarray, t: float) -> float:
    """The share of all matches that belongs to entries with a count below t; 0 where there is no match."""
    total = counts.sum()
    return float(counts[counts < t].sum() / total) if total else 0.0


def t_of_tail_share(counts: np.ndarray, share: float) -> int:
    """The count at which the counts, added up from the least, come nearest to `share` of all; at least 1."""
    ascending = np.sort(counts)
    total = int(ascending.sum())
    if not total:
        return 1
    nearest = int(np.argmin(np.abs(np.cumsum(ascending) / total - share)))
    return max(1, int(ascending[nearest]))
