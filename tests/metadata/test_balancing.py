"""The arithmetic of balancing: equal to its restatement, and what it calls chance behaves like chance."""

import hashlib
import itertools

import numpy as np
import pyarrow as pa
import pytest
import restated_metaclip as plain
from hypothesis import given
from hypothesis import strategies as st

from metadata import balancing, uids

UIDS = [hashlib.md5(str(n).encode()).hexdigest() for n in range(300)] + ["0" * 32, "f" * 32]
WORDS = uids.parse(pa.array(UIDS))


def lists(values: list[list[int]]) -> pa.ListArray:
    return pa.array(values, pa.list_(pa.uint32()))


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_draws_are_the_restatements(seed: int) -> None:
    matches = lists([[n % 7, 7 + n % 3] if n % 5 else [] for n in range(len(UIDS))])
    found = balancing.draws(balancing.row_hashes(WORDS, seed), matches)
    expected = [plain.draw(uid, seed, e) for uid, own in zip(UIDS, matches.to_pylist(), strict=True) for e in own]
    assert found.tolist() == expected


def test_draws_are_even_and_independent() -> None:
    words = np.zeros(20_000, uids.UID_DTYPE)
    words["f1"] = np.arange(20_000)  # uids as alike as can be
    matches = lists([[0, 1]] * 20_000)
    drawn = balancing.draws(balancing.row_hashes(words, 0), matches).reshape(-1, 2)
    assert np.abs(np.histogram(drawn, 20, (0, 1))[0] / 2000 - 1).max() < 0.1
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03
    assert abs(np.corrcoef(drawn[1:, 0], drawn[:-1, 0])[0, 1]) < 0.03
    other = balancing.draws(balancing.row_hashes(words, 1), matches).reshape(-1, 2)
    assert abs(np.corrcoef(drawn[:, 0], other[:, 0])[0, 1]) < 0.03


def test_a_cost_says_from_which_t_on_a_row_is_kept() -> None:
    matches = lists([[n % 4, 4] if n % 3 else [n % 4] if n % 2 else [] for n in range(len(UIDS))])
    counts = balancing.count(matches, 6)
    assert counts.tolist() == plain.count(matches.to_pylist(), 6)
    costs = balancing.costs(balancing.row_hashes(WORDS, 5), matches, counts.astype(float))
    for t in (1, 10, 60, 1000):
        expected = plain.kept(UIDS, matches.to_pylist(), counts, lambda _, t=t: t, 5)
        assert np.flatnonzero(costs < t).tolist() == expected


def test_slices_of_matches_and_none_at_all() -> None:
    matches = lists([[0], [1, 2], [], [2]])
    hashes, scale = balancing.row_hashes(WORDS[:4], 0), np.array([3.0, 2.0, 1.0])
    whole = balancing.costs(hashes, matches, scale)
    assert balancing.costs(hashes[1:3], matches.slice(1, 2), scale).tolist() == whole[1:3].tolist()
    assert balancing.keep_probabilities(matches.slice(1, 2), np.array([0, 0.5, 0.5])).tolist() == [0.75, 0]
    assert balancing.count(matches.slice(3), 3).tolist() == [0, 0, 1]
    assert balancing.costs(hashes[2:3], matches.slice(2, 1), scale).tolist() == [np.inf]
    assert len(balancing.costs(hashes[:0], matches.slice(0, 0), scale)) == 0


def test_as_many_rows_are_kept_as_the_probabilities_say() -> None:
    probability = np.array([0.3, 0.05, 1.0])
    matches = lists([[0, 1]] * 2)
    (p, _) = balancing.keep_probabilities(matches, probability)
    assert p == pytest.approx(1 - 0.7 * 0.95)
    kept = [
        balancing.costs(balancing.row_hashes(WORDS[:1], seed), matches.slice(0, 1), 1 / probability)[0] < 1
        for seed in range(4000)
    ]
    assert np.mean(kept) == pytest.approx(p, abs=0.03)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.floats(0.001, 0.999))
def test_t_and_tail_share_are_the_restatements(counts: list[int], share: float) -> None:
    if not sum(counts):
        assert balancing.t_of_tail_share(np.array(counts), share) == 1
        assert balancing.tail_share(np.array(counts), 3) == 0
        return
    assert balancing.t_of_tail_share(np.array(counts), share) == plain.t_of(counts, share)
    for t in itertools.islice(counts, 3):
        assert balancing.tail_share(np.array(counts), t) == plain.tail_share(counts, t)
