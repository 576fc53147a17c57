"""The filter on what images show: of those that show much the same, one stays."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from filters import gpu, nearest, vectors
from filters.base import ROW, Grouping
from filters.features import inner, matrix, unit_blocks, widen
from metadata import balancing, uids
from metadata.errors import CurateError, unknown
from metadata.schema import FEATURES, is_feature

#: What stays of rows that are alike, and what the cosine with the centroid is multiplied by so that it comes first.
KEEP = {"hard": 1, "easy": -1}

#: Products are taken of so many rows with so many others at a time: 4 MB of float32.
_ROWS = 1024

#: Of a block of rows and itself: which products are not with an earlier row.
_NOT_EARLIER = np.tri(_ROWS, dtype=bool)


@dataclasses.dataclass(frozen=True)
class SemanticDistinct(Grouping):
    """Keeps rows whose cosine with no earlier row of their cluster is above 1 - eps.

    Rows are in the cluster of the nearest centroid: the one with the largest inner product, of equal ones the first.
    There they are in the order of their distance from it, and where that is the same in float32, as it is where the
    features are, in that of their hashes of (uid, seed). Earlier rows count whether or not they stay. Cosines are
    inner products of the features as they are, decided in float64 where float32's rounding leaves them open: so the
    same rows stay in any order of rows and files. An eps below 0.002 is less than what rounding to float16 can make of
    two lengths. A row without features is in no cluster: it is dropped, and the manifest counts it in
    `rows_in_no_group`.

    Args:
        centroids: path of a file of vectors (see filters.vectors.Vectors): of the clusters of a pool's images, 50,000
            for 440M rows in the paper.
        eps: above 0, below 1.
        keep: `hard`, the rows farthest from their centroid first, or `easy`, the nearest first.
        embedding: the column of features; the centroids are of the same model.
        seed: of the order of rows that are equally far, from 0.

    Source: SemDeDup (arXiv:2303.09540) and its published code, in which all earlier rows count, too.
    """

    centroids: str
    eps: float
    keep: str = "hard"
    embedding: str = "l14_img"
    seed: int = 0
    paths: ClassVar[tuple[str, ...]] = ("centroids",)
    passes: ClassVar[int] = 2  # to assign the rows, and to compare them
    keeps_others: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.keep not in KEEP:
            raise unknown("keep", self.keep, KEEP, where=self.name)
        if not is_feature(self.embedding):
            raise unknown("embedding", self.embedding, FEATURES, where=self.name)
        if not 0 < self.eps < 1:
            raise CurateError(f"{self.name}: eps is {self.eps:g}, but rows with a cosine above 1 - eps are held for "
                              f"the same. Give a number above 0 and below 1, such as 0.05.")  # fmt: skip
        balancing.check_seed(self.seed, self.name)
        object.__setattr__(self, "columns", ("uid", self.embedding))

    @property
    def carried(self) -> tuple[str, int]:  # type: ignore[override]
        return self.embedding, nearest.load(*self._centroids).vectors.shape[1]

    def check_columns(self, schema: pa.Schema) -> None:
        vectors.check_dims(schema, *self._centroids)

    def describe(self) -> dict[str, Any]:
        """The parameters, but the centroids by their sha256; raises CurateError if they can't be read."""
        own = dataclasses.asdict(self)
        del own["centroids"]
        return {"centroids_sha256": vectors.sha256(*self._centroids), **own}

    @property
    def _centroids(self) -> tuple[str, str, str]:
        """What Vectors takes."""
        return self.centroids, self.embedding, f"{self.name}: centroids"

    def rows(self, batch: pa.RecordBatch) -> np.ndarray:
        values = matrix(batch.column(self.embedding))
        find = nearest.load(*self._centroids)
        rows, has_features = np.zeros(len(values), ROW), np.zeros(len(values), bool)
        rows["rank"] = balancing.row_hashes(uids.parse(batch.column("uid")), self.seed)
        rows["row"] = np.arange(len(values))
        for part, units, there in unit_blocks(values, self.embedding):
            cluster = find(units)
            rows["high"][part] = cluster.astype(np.uint64) * np.uint64(((1 << 64) - 1) // len(find.vectors))
            rows["order"][part] = KEEP[self.keep] * inner(units, find.vectors[cluster])
            has_features[part] = there
        return rows[has_features]

    def judge(self, sizes: np.ndarray, places: np.ndarray, features: Callable[[int, int], np.ndarray]) -> np.ndarray:
        stay = np.ones(len(sizes), bool)
        for start in np.flatnonzero((places == 0) & (sizes > 1)).tolist():
            end = start + int(sizes[start])
            stay[start:end] = ~repeats(features, start, end, 1 - self.eps)
        return stay


def repeats(features: Callable[[int, int], np.ndarray], start: int, end: int, threshold: float) -> np.ndarray:
    """Which rows from `start` to the one before `end` have with an earlier one of them a product above the threshold.

    Args:
        features: see Grouping.judge.

    Returns:
        bool, shape (end - start,).
    """
    found = np.zeros(end - start, bool)
    for first in range(start, end, _ROWS):
        part = slice(first - start, min(first + _ROWS, end) - start)
        rows = _read(features, first, end)
        found[part] = _above(rows, rows, threshold)
        for other in range(start, first, _ROWS):
            open_rows = np.flatnonzero(~found[part])
            if not len(open_rows):
                break
            found[part][open_rows] = _above(_read(features, other, first), rows[open_rows], threshold)
    return found


def _read(rows: Callable[[int, int], np.ndarray], start: int, end: int) -> np.ndarray:
    """float32, of the block that begins at `start`."""
    return widen(rows(start, min(start + _ROWS, end)))


def _above(earlier: np.ndarray, rows: np.ndarray, threshold: float) -> np.ndarray:
    """Which rows have a product above the threshold with an earlier one: bool, shape (rows,).

    Args:
        earlier: float32; `rows` themselves, if of these those before a row are meant.
    """
    most = (gpu.most if gpu.device() else _most)(earlier, rows)
    # What rounding may change a float32 product of two rows of about unit length by, in whatever order it is summed.
    slack = 1.1 * rows.shape[1] * 2.0**-24
    above = most > threshold + slack
    for number in np.flatnonzero(~above & (most >= threshold - slack)):
        before = earlier[:number] if earlier is rows else earlier
        near = before[before @ rows[number] >= threshold - slack]
        above[number] = (inner(near, rows[number]) > threshold).any()
    return above


def _most(earlier: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What gpu.most gives, by the CPU."""
    products = earlier @ rows.T
    if earlier is rows:
        np.copyto(products, -np.inf, where=_NOT_EARLIER[: len(rows), : len(rows)])
    return products.max(axis=0)
