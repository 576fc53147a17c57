"""NormSim: how alike an image is to target images, to all of them together or to the nearest one."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from filters import features, vectors
from filters.base import Scorer, Step
from filters.best import AtLeast, Best
from filters.nearest import Nearest
from metadata.errors import CurateError, printable, unknown
from metadata.schema import FEATURES, is_feature

NORMS = ("l2", "linf")

#: Of a form that a product is taken with at a time: with fewer, more of the time goes into what surrounds it.
_COLUMNS = 192


@dataclasses.dataclass(frozen=True)
class NormSimScores(Scorer):
    """Adds `normsim_l2` or `normsim_linf`, float32: NormSim, see there; NaN where there are no features.

    It is computed in float64, so a row's is the same in whichever batch it comes: to what products of float32 are
    rounded depends on a row's neighbours, and of equal rows one might be kept without the other.
    """

    targets: str
    norm: str
    embedding: str

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS, where="normsim")
        if not is_feature(self.embedding):
            raise unknown("embedding", self.embedding, FEATURES, where="normsim")
        object.__setattr__(self, "columns", (self.embedding,))

    @property
    def column(self) -> str:  # type: ignore[override]
        return f"normsim_{self.norm}"

    def check_columns(self, schema: pa.Schema) -> None:
        vectors.check_dims(schema, *self.target_vectors)

    def build(self) -> pa.Buffer:
        """Of l2 the sum of gg' over all targets g: float64, shape (dims, dims). Of linf nothing."""
        if self.norm == "linf":
            return super().build()
        found = vectors.Vectors(*self.target_vectors)
        form = np.zeros((found.dims, found.dims))
        for block in found.blocks():
            wide = block.astype(np.float64)
            form += wide.T @ wide
        return pa.py_buffer(form.tobytes())

    def load(self, built: pa.Buffer) -> Callable[[pa.RecordBatch], pa.Array]:
        linf = self.norm == "linf"
        measure = _nearest(Nearest(vectors.Vectors(*self.target_vectors))) if linf else _root(np.frombuffer(built))

        def score(batch: pa.RecordBatch) -> pa.Array:
            values = features.matrix(batch.column(self.embedding))
            scores = np.empty(len(values), np.float32)
            for part, rows, there in features.unit_blocks(values, self.embedding):
                scores[part] = np.where(there, measure(rows), np.nan)
            return pa.array(scores, from_pandas=False)

        return score

    @property
    def target_vectors(self) -> tuple[str, str, str, bool]:
        """What Vectors takes: each target is of unit length."""
        return self.targets, self.embedding, "normsim: targets", True


class _ByNormSim(Step):
    """What the filter and the fit have in common."""

    targets: str
    norm: str
    embedding: str
    paths: ClassVar[tuple[str, ...]] = ("targets",)
    scorers: tuple[NormSimScores, ...]
    name = "normsim"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        scorer = NormSimScores(self.targets, self.norm, self.embedding)
        object.__setattr__(self, "scorers", (scorer,))
        object.__setattr__(self, "columns", (scorer.column,))

    def describe(self) -> dict[str, Any]:
        """The parameters, but the targets by their sha256; raises CurateError where Vectors does."""
        own = super().describe()
        del own["targets"]
        return {"targets_sha256": vectors.sha256(*self.scorers[0].target_vectors), **own}


@dataclasses.dataclass(frozen=True)
class NormSim(_ByNormSim, AtLeast):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if math.isnan(self.threshold):
            raise CurateError("normsim: threshold is NaN, but it is compared with. Give a number.")


@dataclasses.dataclass(frozen=True)
class NormSimFraction(_ByNormSim, Best):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        Best.__post_init__(self)
        if self.of not in ("step", "pool"):
            raise CurateError(f"normsim: of is {printable(self.of)!r}, but it is step or pool. Leave it out for step.")

    def at(self, threshold: float) -> NormSim:
        return NormSim(self.targets, threshold, self.norm, self.embedding)


def _nearest(nearest: Nearest) -> Callable[[np.ndarray], np.ndarray]:
    """What gives the product of each row with the target nearest to it: float64, shape (rows,)."""
    return lambda rows: features.inner(rows, nearest.vectors[nearest(rows)])


def _root(built: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What gives the root of x' form x of each row x, which is the l2 norm: float64, shape (rows,)."""
    form = built.reshape(math.isqrt(len(built)), -1)
    # It is symmetric, so what is above the diagonal, taken twice, says all; the blocks leave out most of what is below.
    upper = np.triu(form) + np.triu(form, 1)
    ends = range(_COLUMNS, len(form) + _COLUMNS, _COLUMNS)
    blocks = [np.ascontiguousarray(upper[:end, end - _COLUMNS : end]) for end in ends]

    def measure(rows: np.ndarray) -> np.ndarray:
        wide, squares = rows.astype(np.float64), np.zeros(len(rows))
        for end, block in zip(ends, blocks, strict=True):
            squares += np.vecdot(wide[:, :end] @ block, wide[:, end - _COLUMNS : end])
        return np.sqrt(np.maximum(squares, 0))  # rounding may take nothing below nothing

    return measure
