"""How many uids subsets have in common: all of them walked through at once, a block of each in memory."""

import collections
from collections.abc import Sequence

import numpy as np

from pipeline.subset import UID_DTYPE

#: Uids of each subset that are looked at together: 16 MB.
_ROWS_AT_ONCE = 1 << 20


def count_together(subsets: Sequence[np.ndarray]) -> dict[int, int]:
    """How many different uids each combination of subsets has, and no other subset has.

    Args:
        subsets: UID_DTYPE, each sorted, such as memory maps; at most 64. A uid that one has more than once counts once.

    Returns:
        Numbers of uids by the combination that has them: the sum of 1 << n over its subsets' places n. Combinations
        without a uid are left out.
    """
    found: collections.Counter[int] = collections.Counter()
    starts = [0] * len(subsets)
    while True:
        blocks = [np.asarray(uids[at : at + _ROWS_AT_ONCE]) for uids, at in zip(subsets, starts, strict=True)]
        if not any(map(len, blocks)):
            return dict(found)
        # Of the uids up to the least last one all that there are lie in these blocks, but for repeats of itself.
        last = [b[-1].item() for b, uids, at in zip(blocks, subsets, starts, strict=True) if at + len(b) < len(uids)]
        ends = [_not_after(block, min(last)) if last else len(block) for block in blocks]
        found.update(_combinations([block[:end] for block, end in zip(blocks, ends, strict=True)]))
        starts = [at + end for at, end in zip(starts, ends, strict=True)]
        if last:
            starts = [_skip(uids, at, min(last)) for uids, at in zip(subsets, starts, strict=True)]


def _not_after(block: np.ndarray, uid: tuple[int, int]) -> int:
    """How many uids of a sorted block are `uid` or before it."""
    high, low = np.uint64(uid[0]), np.uint64(uid[1])
    first, end = np.searchsorted(block["f0"], high, "left"), np.searchsorted(block["f0"], high, "right")
    return int(first + np.searchsorted(block["f1"][first:end], low, "right"))


def _skip(uids: np.ndarray, at: int, uid: tuple[int, int]) -> int:
    """Where the uids after `uid` begin, `at` or later."""
    while at < len(uids) and uids[at].item() == uid:
        at += _not_after(np.asarray(uids[at : at + _ROWS_AT_ONCE]), uid)
    return at


def _combinations(blocks: Sequence[np.ndarray]) -> dict[int, int]:
    """`count_together` of blocks as they are."""
    uids = np.concatenate([*blocks, np.empty(0, UID_DTYPE)])
    if not len(uids):
        return {}
    owner = np.repeat(np.uint64(1) << np.arange(len(blocks), dtype=np.uint64), [len(block) for block in blocks])
    order = np.argsort(uids["f0"], kind="stable")  # runs that are sorted are but merged
    high, low = uids["f0"][order], uids["f1"][order]
    tied = high[1:] == high[:-1]
    if (tied & (low[1:] != low[:-1])).any():  # different uids with the same first half: hardly ever
        order = np.lexsort((uids["f1"], uids["f0"]))
        high, low = uids["f0"][order], uids["f1"][order]
        tied = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    first = np.flatnonzero(np.append(True, ~tied))
    which, times = np.unique(np.bitwise_or.reduceat(owner[order], first), return_counts=True)
    return dict(zip(which.tolist(), times.tolist(), strict=True))
