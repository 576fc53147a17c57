"""NormSim: how alike an image is to target images, to all of them together or to the nearest one."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import features, vectors
from filters.base import Filter, Step
from filters.best import Best
from filters.nearest import Nearest
from metadata.errors import CurateError, printable, unknown
from metadata.schema import FEATURES, is_feature

NORMS = ("l2", "linf")


@dataclasses.dataclass(frozen=True)
class NormSim(Filter):
    """Keeps pairs whose image has a NormSim of at least `threshold`; one without features is dropped.

    NormSim is the norm of an image's inner products with all target images: l2, the root of the sum of their squares,
    or linf, the largest of them. It is computed in float64 and compared in float32.

    Args:
        targets: path, or a glob of paths, of files of vectors of unit length (see filters.vectors.Vectors): features of
            the images to be alike to.
        threshold: with l2 it grows as the root of the number of targets; with linf it is a cosine.
        norm: `l2` or `linf`.
        embedding: the column of features; the targets are of the same model.

    Source: negCLIPLoss and NormSim (arXiv:2405.19547), which calls these norms 2 and infinity.
    Differs: the norm is of the inner products and not of their absolute values, which matters for linf only where an
        image's inner products are all negative.
    """

    targets: str
    threshold: float
    norm: str = "l2"
    embedding: str = "l14_img"
    paths: ClassVar[tuple[str, ...]] = ("targets",)
    name = "normsim"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _columns(self.norm, self.embedding))
        if math.isnan(self.threshold):
            raise CurateError("normsim: threshold is NaN, but it is compared with. Give a number.")

    def describe(self) -> dict[str, Any]:
        """The parameters, but the targets by their sha256; raises CurateError if they can't be read."""
        return _described(self, self.targets)

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        scores = normsim(batch.column(self.embedding), self.targets, self.norm, self.embedding)
        return pc.greater_equal(scores, pa.scalar(np.float32(self.threshold), pa.float32()))


@dataclasses.dataclass(frozen=True)
class NormSimFraction(Best):
    """Finishes as the NormSim that keeps the int(rows * fraction) rows that score highest, and ties with the last.

    Args:
        targets: as in NormSim, as are `norm` and `embedding`.
        fraction: above 0, below 1.
        of: `step`, of the rows that reached the step, or `pool`, of all the pool's rows. Where fewer rows have a score,
            all of these stay.

    Source: as NormSim; the paper keeps 20 percent of the pool, of the 30 percent that negCLIPLoss has left.
    """

    targets: str
    fraction: float
    of: str = "step"
    norm: str = "l2"
    embedding: str = "l14_img"
    paths: ClassVar[tuple[str, ...]] = ("targets",)
    name = "normsim"  # type: ignore[assignment]  # what it finishes as

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _columns(self.norm, self.embedding))
        super().__post_init__()
        if self.of not in ("step", "pool"):
            raise CurateError(f"normsim: of is {printable(self.of)!r}, but it is step or pool. Leave it out for step.")

    def describe(self) -> dict[str, Any]:
        """The parameters, but the targets by their sha256; raises CurateError if they can't be read."""
        return _described(self, self.targets)

    def scores(self, batch: pa.RecordBatch) -> pa.FloatArray:
        return normsim(batch.column(self.embedding), self.targets, self.norm, self.embedding)

    def at(self, threshold: float) -> Filter:
        return NormSim(self.targets, threshold, self.norm, self.embedding)


def _columns(norm: str, embedding: str) -> tuple[str, ...]:
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS, where="normsim")
    if not is_feature(embedding):
        raise unknown("embedding", embedding, FEATURES, where="normsim")
    return (embedding,)


def _described(step: Step, targets: str) -> dict[str, Any]:
    own = dataclasses.asdict(step)  # type: ignore[call-overload]
    del own["targets"]
    return {"targets_sha256": vectors.sha256(targets, own["embedding"], "normsim: targets"), **own}


def normsim(column: pa.FixedSizeListArray, targets: str, norm: str, embedding: str) -> pa.FloatArray:
    """Each row's NormSim, float32; NaN where there are no features. A row's is the same in whichever batch it comes."""
    values = features.matrix(column)
    scores = np.empty(len(values), np.float32)
    for part, rows, there in features.unit_blocks(values, embedding):
        scores[part] = np.where(there, _measure(targets, norm, embedding)(rows), np.nan)
    return pa.array(scores, from_pandas=False)


@functools.lru_cache(maxsize=4)
def _measure(targets: str, norm: str, embedding: str) -> Callable[[np.ndarray], np.ndarray]:
    """float32 (rows, dims) to float64 (rows,).

    To what products of float32 are rounded depends on a row's neighbours. In float64 that is far below what float32 can
    tell, so the score it is rounded to is the same in the passes of a fit and in the filter.
    """
    found = vectors.Vectors(targets, embedding, "normsim: targets")
    form = np.zeros((found.dims, found.dims))
    for block in found.blocks():
        wide = features.unit(block, f"normsim: targets {targets}")[0].astype(np.float64)
        if norm == "l2":
            form += wide.T @ wide
    if norm == "l2":
        return lambda rows: _roots(rows, form)
    nearest = Nearest(found)
    return lambda rows: features.inner(rows, nearest.vectors[nearest(rows)])


def _roots(rows: np.ndarray, form: np.ndarray) -> np.ndarray:
    """The root of x' form x of each row x: with the sum of gg' over all targets g, that is the l2 norm."""
    vectors.check_dims(rows, len(form))
    wide = rows.astype(np.float64)
    squares = np.einsum("ij,ij->i", wide @ form, wide)
    return np.sqrt(np.maximum(squares, 0))  # rounding may take nothing below nothing
