"""Words and pairs counted as a dictionary would, in arrays; pruning loses only what is rare."""

import collections
import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata import ngrams
from metadata.ngrams import Counts
from metadata.wikitext import BREAK, tokens


def counted(texts: list[str], spaced: bool = True) -> tuple[collections.Counter, collections.Counter]:
    """The definition: words, and pairs of neighbours in one text."""
    words, pairs = collections.Counter(), collections.Counter()
    for text in texts:
        found = tokens(text, spaced)
        words.update(token for token in found if token != BREAK)
        pairs.update(pair for pair in itertools.pairwise(found) if BREAK not in pair)
    return words, pairs


def count(texts: list[str], **options) -> Counts:
    counts = Counts(**options)
    for text in texts:
        counts.add(text)
    counts.flush()
    return counts


def words_of(counts: Counts) -> dict[str, int]:
    return {word: int(counts.words[n]) for word, n in counts.numbers.items() if n}


def pairs_of(counts: Counts) -> dict[tuple[str, str], int]:
    names = list(counts.numbers)
    return {(names[pair >> 32], names[pair & (2**32 - 1)]): n
            for pair, n in zip(counts.pairs.tolist(), counts.pair_counts.tolist(), strict=True)}  # fmt: skip


TEXTS = st.lists(st.text(st.sampled_from("aabbc雨   .-\n")))


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(ngrams, "_BATCH_TOKENS", 7)
    monkeypatch.setattr(ngrams, "_MAX_KNOWN", 5)


@given(TEXTS, st.booleans())
def test_counts_are_those_of_a_dictionary(texts, spaced):
    words, pairs = counted(texts, spaced)
    counts = count(texts, spaced=spaced)
    assert words_of(counts) == words
    assert pairs_of(counts) == pairs
    assert (np.diff(counts.pairs) > 0).all()


def zipf_texts(n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{int(rng.paretovariate(0.7))}"[:6] for _ in range(rng.randint(0, 40))) for _ in range(n)]


@pytest.mark.usefixtures("small_batches")
def test_batches_change_nothing():
    texts = zipf_texts(400)
    words, pairs = counted(texts)
    counts = count(texts)
    assert words_of(counts) == words
    assert pairs_of(counts) == pairs


def test_mutual_information_is_the_formula():
    texts = zipf_texts(200, seed=1)
    words, pairs = counted(texts)
    counts = count(texts)
    expected = {(a, b): math.log2(sum(words.values()) * c**3 / (words[a] * words[b])) for (a, b), c in pairs.items()}
    names = list(counts.numbers)
    figures = counts.mutual_information().tolist()
    found = {(names[pair >> 32], names[pair & (2**32 - 1)]): figure
             for pair, figure in zip(counts.pairs.tolist(), figures, strict=True)}  # fmt: skip
    assert found == pytest.approx(expected)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("most", [1, 10, 200])
def test_pruning_bounds_what_is_held_and_what_it_loses(most):
    texts = zipf_texts(600)
    words, pairs = counted(texts)
    counts = count(texts, prune=most)
    held = pairs_of(counts)
    assert len(held) <= most < len(pairs)
    assert words_of(counts) == words  # these are never pruned
    assert counts.dropped > 0
    for pair, n in pairs.items():
        assert n - counts.dropped <= held.get(pair, 0) <= n
    assert pairs_of(count(texts, prune=most)) == held


@pytest.mark.usefixtures("small_batches")
def test_pruning_that_is_never_needed_changes_nothing():
    texts = zipf_texts(100)
    counts = count(texts, prune=100_000)
    assert counts.dropped == 0
    assert pairs_of(counts) == counted(texts)[1]


def test_nothing_is_counted_of_nothing():
    counts = count([])
    assert (words_of(counts), pairs_of(counts)) == ({}, {})
    assert counts.mutual_information().shape == (0,)
