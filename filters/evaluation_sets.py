"""The filter on evaluation sets: what is trained on must not hold the images that models are judged by."""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from filters import features, nearest, vectors
from filters.base import Filter
from metadata.errors import CurateError, unknown
from metadata.schema import FEATURES, is_feature

#: The cosine of CommonPool's `dedup` descriptors from which on DataComp holds two images for the same.
DEDUP_THRESHOLD = 0.604169


@dataclasses.dataclass(frozen=True)
class OutsideEvaluationSets(Filter):
    """Keeps pairs whose image is no near-duplicate of an evaluation image: no cosine with one is above `threshold`.

    The cosine is the inner product, which is taken in float64, so that it is exact and the same in any batch. A row
    without features is dropped: what stays has been compared. The manifest counts it in `rows_without_score`.

    Args:
        targets: path, or a glob of paths, of files of vectors of unit length (see filters.vectors.Vectors): features of
            the images of evaluation sets.
        threshold: -1 to 1; has to be given for all embeddings but `dedup`, whose is DEDUP_THRESHOLD.
        embedding: the column of features; the targets are of the same model.

    Source: DataComp (arXiv:2304.14108), which has cleaned CommonPool so, with the descriptors in `dedup`.
    """

    targets: str
    threshold: float | None = None
    embedding: str = "dedup"
    by_score: ClassVar[bool] = True
    paths: ClassVar[tuple[str, ...]] = ("targets",)

    def __post_init__(self) -> None:
        if not is_feature(self.embedding):
            raise unknown("embedding", self.embedding, FEATURES, where=self.name)
        if self.threshold is None:
            if self.embedding != "dedup":
                raise CurateError(f"{self.name}: threshold is missing, but only that of dedup is known. Add it.")
            object.__setattr__(self, "threshold", DEDUP_THRESHOLD)
        if math.isnan(self.threshold):  # type: ignore[arg-type]
            raise CurateError(f"{self.name}: threshold is NaN, but it is compared with. Give a number.")
        object.__setattr__(self, "columns", (self.embedding,))

    @property
    def _targets(self) -> tuple[str, str, str, bool]:
        """What Vectors takes: each target is of unit length."""
        return self.targets, self.embedding, f"{self.name}: targets", True

    def check_columns(self, schema: pa.Schema) -> None:
        vectors.check_dims(schema, *self._targets)

    def describe(self) -> dict[str, Any]:
        """The parameters, but the targets by their sha256; raises CurateError where Vectors does."""
        hashes = vectors.sha256(*self._targets)
        return {"targets_sha256": hashes, "threshold": self.threshold, "embedding": self.embedding}

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        values = features.matrix(batch.column(self.embedding))
        keep = np.zeros(len(values), bool)
        for part, rows, there in features.unit_blocks(values, self.embedding):
            find = nearest.load(*self._targets)
            cosines = features.inner(rows, find.vectors[find(rows)])
            keep[part] = there & (cosines <= self.threshold)
        return pa.array(keep)

    def lacking(self, batch: pa.RecordBatch) -> np.ndarray:
        return features.lacking(batch.column(self.embedding), self.embedding)
