"""The nearest of many vectors, by products in blocks."""

import functools

import numpy as np

from filters import gpu
from filters.features import TOLERANCE, inner
from filters.vectors import Vectors

#: Products are taken of so many rows with so many vectors at a time: 32 MB of float32.
_ROWS = 2048
_VECTORS = 4096
#: Rows of products that are looked through twice, so that the second time a cache has them.
_CACHED = 256
#: Pairs that are decided in float64 at a time: few enough for a cache.
_PAIRS = 128


class Nearest:
    """Finds the vector that has the largest inner product with a row.

    Attributes:
        vectors: in memory: float32, shape (vectors, dims).
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = np.empty((len(vectors), vectors.dims), np.float32)
        first = longest = 0
        for block in vectors.blocks():
            self.vectors[first : first + len(block)] = block
            first, longest = first + len(block), max(longest, inner(block, block).max())
        # Twice what rounding may change a float32 product with a row of length 1 by, in whatever order it is summed.
        self.slack = 2 * vectors.dims * 2.0**-24 * longest**0.5
        self.gpu = gpu.Largest(self.vectors) if gpu.device() else None

    def __call__(self, rows: np.ndarray, longest: float = 1 + TOLERANCE) -> np.ndarray:
        """Which vector is the nearest of each row.

        Products are taken in float32. Where its rounding leaves open which is the largest, float64 decides, and of
        equal products the lowest index. So the answer is exact, and the same in any batch and on any machine: to what
        a float32 product is rounded depends on both. A GPU, where there is one, finds all that its float32 leaves no
        doubt of.

        Args:
            rows: float32, shape (rows, dims), in C order, finite.
            longest: the length that no row exceeds.

        Returns:
            int64, shape (rows,).
        """
        slack = np.float32(1.01 * self.slack * longest)
        if self.gpu is None:
            return self._search(rows, slack)
        index, lead = self.gpu(rows)
        open_rows = np.flatnonzero(lead <= slack)
        index[open_rows] = self._search(rows[open_rows], slack)
        return index

    def _search(self, rows: np.ndarray, slack: np.float32) -> np.ndarray:
        """All of it on the CPU; products that differ by no more than `slack` may be the same."""
        index, largest = np.zeros(len(rows), np.int64), np.full(len(rows), -np.inf, np.float32)
        space = np.empty(_ROWS * min(_VECTORS, len(self.vectors)), np.float32)
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            for first in range(0, len(self.vectors), _VECTORS):
                self._improve(rows[part], first, slack, space, index[part], largest[part])
        return index

    def _improve(
        self, rows: np.ndarray, first: int, slack: np.float32, space: np.ndarray, index: np.ndarray, largest: np.ndarray
    ) -> None:
        """Puts those of the vectors from `first` on that are nearer into `index`, and their products into `largest`."""
        vectors = self.vectors[first : first + _VECTORS]
        n = len(vectors)
        products = np.matmul(rows, vectors.T, out=space[: len(rows) * n].reshape(len(rows), n))
        best, most, second = _two_largest(products)
        before, old = largest.copy(), index.copy()
        nearer = most > before
        largest[nearer], index[nearer] = most[nearer], first + best[nearer]

        # A row is open where others are in reach: a second of these vectors, or what was the nearest before. One of
        # zeros is not: all its products are 0, and the first is taken already.
        least = largest - slack
        open_rows = np.flatnonzero(np.maximum(second, np.minimum(before, most)) >= least)
        open_rows = open_rows[rows[open_rows].any(axis=1)]
        row, vector = np.nonzero(products[open_rows] >= least[open_rows, None])
        known = open_rows[before[open_rows] >= least[open_rows]]
        row, vector = np.concatenate([known, open_rows[row]]), np.concatenate([old[known], first + vector])
        self._decide(rows, row, vector, index)

    def _decide(self, rows: np.ndarray, row: np.ndarray, vector: np.ndarray, index: np.ndarray) -> None:
        """Puts into `index`, of each row's pairs with vectors, the one of the largest product in float64."""
        exact = np.empty(len(row))
        for start in range(0, len(row), _PAIRS):
            part = slice(start, start + _PAIRS)
            exact[part] = inner(rows[row[part]], self.vectors[vector[part]])
        order = np.lexsort((vector, -exact, row))
        best = order[np.diff(row[order], prepend=-1) > 0]
        index[row[best]] = vector[best]


def _two_largest(products: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row the index of the largest product, the first of equal ones; that product; and the next one."""
    best, most, second = np.empty(len(products), np.int64), *np.empty((2, len(products)), np.float32)
    for start in range(0, len(products), _CACHED):
        some = products[start : start + _CACHED]
        part, own = slice(start, start + len(some)), np.arange(len(some))
        best[part] = where = some.argmax(axis=1)  # faster than max
        most[part] = some[own, where]
        some[own, where] = -np.inf
        second[part] = some[own, some.argmax(axis=1)]
        some[own, where] = most[part]
    return best, most, second


@functools.lru_cache(maxsize=4)
def load(path: str, embedding: str, where: str, of_unit_length: bool = False) -> Nearest:
    """Of the vectors in the file or files of that path, kept for the process; raises CurateError where Vectors does."""
    return Nearest(Vectors(path, embedding, where, of_unit_length))
