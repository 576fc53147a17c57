"""FrequentTokens drops captions with a rare word or pair: exactly where cells suffice, and one-sidedly where not."""

import collections
import hashlib
import itertools
import random

import numpy as np
import pyarrow as pa
import pytest

from filters.frequent_tokens import FrequentOnly, FrequentTokens
from metadata.errors import CurateError

CAPTIONS = [
    "a dog on the beach", "a dog", "the dog", "dog a", "Dog", " a  dog\n", "a\u3000dog", "a\u200bdog", "", " ", None,
    "café", "犬 が", "rare words here", "a a a", "x" * 5000,
]  # fmt: skip


def tokens(text: str | None) -> list[tuple[str, ...]]:
    words = (text or "").split()
    return [*((word,) for word in words), *itertools.pairwise(words)]


def exact(texts: list[str | None], most: int) -> list[bool]:
    """What ALIGN's rule keeps, every token counted on its own; ties with the last stay."""
    counts = collections.Counter(token for text in texts for token in tokens(text))
    least = sorted(counts.values(), reverse=True)[: most][-1]
    return [text is not None and all(counts[token] >= least for token in tokens(text)) for text in texts]


def fitted(fit: FrequentTokens, *parts: list[str | None]) -> FrequentOnly:
    states = [fit.add(fit.empty(), batch(part)) for part in parts]
    while len(states) > 1:
        states[0] = fit.merge(states[0], states.pop())
    found = fit.finish(states[0])
    assert isinstance(found, FrequentOnly)
    return found


def batch(texts: list[str | None]) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(texts, pa.string())})


@pytest.mark.parametrize("most", [1, 3, 8, 20, 1000])
def test_keeps_what_exact_counts_keep_while_no_two_share_a_cell(most: int) -> None:
    draw = random.Random(1)
    texts = draw.choices(CAPTIONS, k=300)
    distinct = {token for text in texts for token in tokens(text)}
    found = fitted(FrequentTokens(most, 1 << 22), texts[:100], texts[100:], [])
    assert found.describe()["cells_in_use"] == len(distinct)  # none is shared
    assert found.keep(batch(texts)).to_pylist() == exact(texts, most)
    assert found.keep(batch(["a dog never seen", "never"])).to_pylist() == [False, False]
    assert found.keep(batch(texts).slice(50, 100)).to_pylist() == exact(texts, most)[50:150]
    assert found.keep(batch([])).to_pylist() == []


def test_a_pair_is_rare_though_its_words_are_not() -> None:
    texts = ["a dog"] * 50 + ["b cat"] * 50 + ["dog a", "a cat"]
    assert fitted(FrequentTokens(6, 1 << 20), texts).keep(batch(texts)).to_pylist() == [True] * 100 + [False] * 2
    assert all(fitted(FrequentTokens(8, 1 << 20), texts).keep(batch(texts)).to_pylist())


def test_a_word_is_in_the_cell_that_its_published_hash_says() -> None:
    fit = FrequentTokens(1, 1000)
    first, second = (int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little") for word in (b"a", b"dog"))
    pair = (first * 0x9E3779B97F4A7C15 + second) % 2**64
    state = fit.add(fit.empty(), batch(["a dog"]))
    assert np.flatnonzero(state).tolist() == sorted((value >> 32) * 1000 >> 32 for value in (first, second, pair))


def test_crowded_cells_let_rare_tokens_pass_about_as_often_as_said() -> None:
    frequent = [f"word{n}" for n in range(1000)]
    fit = FrequentTokens(1000, 16_000)
    found = fitted(fit, frequent * 20)
    strange = [f"strange{n}" for n in range(20_000)]
    passing = sum(found.keep(batch(strange)).to_pylist()) / len(strange)
    assert passing == pytest.approx(1000 / 16_000, rel=0.2)
    assert all(found.keep(batch(frequent)).to_pylist())


def test_counters_stop_when_they_are_full() -> None:
    fit = FrequentTokens(1, 4)
    full, nearly = np.array([2**32 - 1, 5, 0, 0], np.uint32), np.array([3, 2**32 - 3, 0, 1], np.uint32)
    assert fit.merge(full.copy(), nearly).tolist() == [2**32 - 1, 2**32 - 1, 0, 1]
    assert fit.merge(nearly.copy(), full).tolist() == [2**32 - 1, 2**32 - 1, 0, 1]
    state = np.full(4, 2**32 - 2, np.uint32)
    assert sorted(fit.add(state, batch(["a", "a a", "b"])).tolist())[-1] == 2**32 - 1


def test_the_state_does_not_grow_with_the_pool() -> None:
    fit = FrequentTokens(100, 10_000)
    state = fit.add(fit.empty(), batch([f"a{n} b{n} c{n}" for n in range(20_000)]))
    assert state.nbytes == fit.empty().nbytes == 40_000


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"most": 0}, "most is 0, but it is at least 1"),
        ({"most": 10, "cells": 39}, r"cells are 39, but 40, 4 times most, to 4,294,967,296 are needed"),
        ({"most": 10, "cells": 2**32 + 1}, "cells are 4,294,967,297, but 40"),
    ],
)
def test_parameters_out_of_range(given: dict, words: str) -> None:
    with pytest.raises(CurateError, match=f"^frequent_tokens: {words}"):
        FrequentTokens(**given)
