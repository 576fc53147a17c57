"""The filter on what an image shows: whether it is alike to images of a benchmark."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from filters import features, nearest, vectors
from filters.base import Filter
from metadata.errors import unknown
from metadata.schema import FEATURES, is_feature


@dataclasses.dataclass(frozen=True)
class ImageBased(Filter):
    """Keeps pairs whose image's nearest centroid is also the nearest of a target image.

    The nearest has the largest inner product; of equal ones, the first. A row without features is dropped, and
    the manifest counts it in `rows_without_score`.

    Args:
        centroids: path of a file of vectors (see filters.vectors.Vectors): of the clusters of a pool's images, 100,000
            in the paper.
        targets: path, or a glob of paths, of files of vectors: features of the images to be alike to, ImageNet's in the
            paper.
        embedding: the column of features; centroids and targets are of the same model.

    Source: DataComp (arXiv:2304.14108), image-based filtering.
    """

    centroids: str
    targets: str
    embedding: str = "l14_img"
    by_score: ClassVar[bool] = True
    paths: ClassVar[tuple[str, ...]] = ("centroids", "targets")

    def __post_init__(self) -> None:
        if not is_feature(self.embedding):
            raise unknown("embedding", self.embedding, FEATURES, where=self.name)
        object.__setattr__(self, "columns", (self.embedding,))

    def _vectors(self, kind: str) -> tuple[str, str, str]:
        """What Vectors takes, of the files in that parameter."""
        return getattr(self, kind), self.embedding, f"{self.name}: {kind}"

    def check_columns(self, schema: pa.Schema) -> None:
        for kind in self.paths:
            vectors.check_dims(schema, *self._vectors(kind))

    def describe(self) -> dict[str, Any]:
        """The embedding, and the files by their sha256: where they lie does not matter.

        Raises:
            CurateError: a file can't be read, or is not of such vectors.
        """
        hashes = {f"{kind}_sha256": vectors.sha256(*self._vectors(kind)) for kind in self.paths}
        return hashes | {"embedding": self.embedding}

    @functools.cached_property
    def wanted(self) -> np.ndarray:
        """Which centroids are the nearest of a target: bool, shape (centroids,)."""
        find = self._nearest()
        wanted = np.zeros(len(find.vectors), bool)
        for block in vectors.Vectors(*self._vectors("targets")).blocks():
            wanted[find(block, features.inner(block, block).max() ** 0.5)] = True
        return wanted

    def _nearest(self) -> nearest.Nearest:
        return nearest.load(*self._vectors("centroids"))

    def __getstate__(self) -> dict[str, Any]:
        # Workers get `wanted` with the step: to find it takes as long for a million targets as to filter so many rows.
        return self.__dict__ | {"wanted": self.wanted}

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        values = features.matrix(batch.column(self.embedding))
        keep = np.zeros(len(values), bool)
        for part, rows, there in features.unit_blocks(values, self.embedding):
            keep[part] = there & self.wanted[self._nearest()(rows)]
        return pa.array(keep)

    def lacking(self, batch: pa.RecordBatch) -> np.ndarray:
        return features.lacking(batch.column(self.embedding), self.embedding)
