"""Uids in common: what sets give, for any subsets and any size of the blocks."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import overlaps

# Few different halves, so that uids are shared, repeat, and differ in their second half alone.
HALVES = st.sampled_from([0, 1, 2, 2**32, 2**63, 2**64 - 1])
SUBSETS = st.lists(st.lists(st.tuples(HALVES, HALVES), max_size=40).map(sorted), min_size=1, max_size=4)


def restated(subsets: list[list[tuple[int, int]]]) -> dict[int, int]:
    sets = [set(uids) for uids in subsets]
    return dict(collections.Counter(sum(1 << n for n, s in enumerate(sets) if uid in s) for uid in set().union(*sets)))


@settings(max_examples=300)
@given(subsets=SUBSETS, rows=st.integers(1, 50))
def test_it_is_what_sets_give(subsets, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlaps, "_ROWS_AT_ONCE", rows)
        found = overlaps.count_together([np.array(uids, "u8,u8") for uids in subsets])
    assert found == restated(subsets)


def test_large_subsets_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr(overlaps, "_ROWS_AT_ONCE", 1000)
    rng = np.random.default_rng(0)
    pool = [tuple(pair) for pair in rng.integers(0, 2**64, (20_000, 2), np.uint64).tolist()]
    chosen = [sorted(pool[:15_000]), sorted(pool[10_000:] + pool[10_000:12_000]), sorted(pool[::7])]
    for n, uids in enumerate(chosen):
        np.save(tmp_path / f"{n}.npy", np.array(uids, "u8,u8"))
    maps = [np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in range(3)]
    assert overlaps.count_together(maps) == restated(chosen)
