"""The nearest of many vectors, by products in blocks."""

import numpy as np

from filters.features import inner
from filters.vectors import Vectors

#: Products are taken of so many rows with so many vectors at a time: 32 MB of float32.
_ROWS = 1024
_VECTORS = 8192
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

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vector of each row, and their inner product.

        Products are taken in float32. Where its rounding leaves open which is the largest, float64 decides, and of
        equal products the lowest index. So the answer is exact, and the same in any batch and on any machine: to what
        a float32 product is rounded depends on both.

        Args:
            rows: float32, shape (rows, dims), in C order, finite.

        Returns:
            int64 and float64, shape (rows,).
        """
        index, product = np.zeros(len(rows), np.int64), np.full(len(rows), -np.inf)
        slack = 1.01 * self.slack * np.sqrt(np.einsum("ij,ij->i", rows, rows))
        space = np.empty(_ROWS * min(_VECTORS, len(self.vectors)), np.float32)
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            for first in range(0, len(self.vectors), _VECTORS):
                self._improve(rows[part], first, slack[part], space, index[part], product[part])
        return index, product

    def _improve(
        self, rows: np.ndarray, first: int, slack: np.ndarray, space: np.ndarray, index: np.ndarray, product: np.ndarray
    ) -> None:
        """Puts those of the vectors from `first` on that are nearer into `index` and `product`."""
        vectors = self.vectors[first : first + _VECTORS]
        n = len(vectors)
        rough = np.matmul(rows, vectors.T, out=space[: len(rows) * n].reshape(len(rows), n))
        largest = rough[np.arange(len(rows)), rough.argmax(axis=1)]  # faster than max
        hopeful = np.flatnonzero(largest >= product - slack)
        least = (np.maximum(largest, product) - slack)[hopeful]
        # Pairs in reach of the largest, found in one dimension, because numpy is slow to find them in two.
        pairs = np.flatnonzero((rough if len(hopeful) == len(rows) else rough[hopeful]) >= least[:, None])
        row, vector = hopeful[pairs // n], pairs % n
        exact = np.empty(len(pairs))
        for start in range(0, len(pairs), _PAIRS):
            part = slice(start, start + _PAIRS)
            exact[part] = inner(rows[row[part]], vectors[vector[part]])
        order = np.lexsort((vector, -exact, row))
        best = order[np.diff(row[order], prepend=-1) > 0]
        best = best[exact[best] > product[row[best]]]
        index[row[best]], product[row[best]] = first + vector[best], exact[best]
