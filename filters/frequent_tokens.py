"""The filter on rare words: a caption stays if all its words, and all pairs of neighbours, are frequent in the pool."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.base import Filter, Fit
from metadata.errors import CurateError

#: Times this, modulo 2**64, the hash of a pair's first word: pairs must not be the same either way round.
_ODD = np.uint64(0x9E3779B97F4A7C15)

_MOST_CELLS = 1 << 32
_FULL = np.iinfo(np.uint32).max


@dataclasses.dataclass(frozen=True)
class FrequentTokens(Fit):
    """Finishes as the FrequentOnly that knows the `most` most frequent tokens of the pool, and ties with the last.

    Tokens are the words of `str.split()`, as written, and all pairs of neighbouring words; unigrams and bigrams are
    ranked together, by how often they occur in the captions that reach the step.

    How many different ones a pool has grows with it, so they are not counted one by one: each adds to one of `cells`
    counters, which its hash picks, and it is the `most` fullest of these that are kept. Two tokens in one cell are
    taken for one another. That errs mostly by keeping: a rare token whose cell a frequent one shares passes, with a
    chance of most / cells, 1 in 17 by default. And where a cell that only rare tokens fill outranks that of a token
    just frequent enough, captions with the latter are dropped; it may happen where the manifest's `cells_in_use` comes
    near `cells`. Then give more cells: 4 bytes each, held a few times over by a worker and a dozen times by the driver.

    In a small pool the last of the `most` may occur once, like all that tie with it; then nothing is dropped, and the
    manifest's `least_count` is 1.

    Args:
        most: tokens that count as frequent. ALIGN's are 100 million, of some billion captions.
        cells: at least 4 times `most`, at most 2**32.

    Source: ALIGN (arXiv:2102.05918), which drops alt texts with a token outside of the 100 million most frequent
        unigrams and bigrams, and does not say how words are split, nor whether case counts.
    Differs: counting is approximate, see above. Counters stop at 2**32 - 1.
    """

    most: int = 250_000
    cells: int = 1 << 22
    columns = ("text",)
    is_told_by_sample = False  # it has fewer different tokens

    def __post_init__(self) -> None:
        if self.most < 1:
            raise CurateError(f"frequent_tokens: most is {self.most}, but it is at least 1. Give the number of tokens "
                              f"that count as frequent.")
        if not 4 * self.most <= self.cells <= _MOST_CELLS:
            raise CurateError(f"frequent_tokens: cells are {self.cells:,}, but {4 * self.most:,}, 4 times most, to "
                              f"{_MOST_CELLS:,} are needed. Give 16 times most.")

    def empty(self) -> np.ndarray:
        """What the cells have counted: uint32, shape (cells,)."""
        return np.zeros(self.cells, np.uint32)

    def add(self, state: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        found, _ = _cells(batch.column("text"), self.cells)
        cells, counts = np.unique(found, return_counts=True)
        state[cells] = np.minimum(state[cells] + counts, _FULL)
        return state

    def merge(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        state += other
        state[state < other] = _FULL  # it has run over
        return state

    def finish(self, state: np.ndarray) -> Filter:
        place = self.cells - self.most
        least = max(int(np.partition(state, place)[place]), 1)
        return FrequentOnly(self, np.packbits(state >= least), least, int(np.count_nonzero(state)))


@dataclasses.dataclass(frozen=True, eq=False)
class FrequentOnly(Filter):
    """Keeps captions all of whose tokens are frequent; see FrequentTokens. One without a word stays, null is dropped.

    Args:
        frequent: a bit for each cell. uint8.
        least_count: of a frequent cell.
        in_use: cells that have counted anything.
    """

    fit: FrequentTokens
    frequent: np.ndarray
    least_count: int
    in_use: int
    columns = ("text",)
    name = "frequent_tokens"  # type: ignore[assignment]

    def describe(self) -> dict[str, Any]:
        return self.fit.describe() | {
            "least_count": self.least_count,
            "frequent_cells": int(np.unpackbits(self.frequent).sum()),
            "cells_in_use": self.in_use,
        }

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        texts = batch.column("text")
        cells, rows = _cells(texts, self.fit.cells)
        is_frequent = self.frequent[cells >> 3] >> (7 - (cells & 7)) & 1
        keep = texts.is_valid().to_numpy(zero_copy_only=False)
        keep[rows[is_frequent == 0]] = False
        return pa.array(keep)


def _cells(texts: pa.Array, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each unigram, then of each bigram, and the rows of these: int64 both."""
    trimmed = pc.utf8_trim_whitespace(texts)
    words = pc.utf8_split_whitespace(pc.if_else(pc.equal(trimmed, ""), None, trimmed))  # "" would be split in one word
    each = words.flatten().dictionary_encode()
    hashes = _hashes(each.dictionary)[each.indices.to_numpy()]
    rows = pc.list_parent_indices(words).to_numpy()
    pairs = np.flatnonzero(rows[1:] == rows[:-1])
    both = np.concatenate([hashes, hashes[pairs] * _ODD + hashes[pairs + 1]])
    # The high half of the hash as a fraction of all cells.
    found = (both >> np.uint64(32)) * np.uint64(cells) >> np.uint64(32)
    return found.astype(np.int64), np.concatenate([rows, rows[pairs]])


def _hashes(words: pa.StringArray) -> np.ndarray:
    """Of each word 64 bits, the same on every machine: uint64, shape (len(words),)."""
    digests = (hashlib.blake2b(word, digest_size=8).digest() for word in words.cast(pa.binary()).to_pylist())
    return np.frombuffer(b"".join(digests), "<u8")
