"""negCLIPLoss: how well a pair fits, beside how well its image and its caption fit those of other pairs."""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from filters.base import Scorer
from filters.best import AtLeast, Best
from filters.features import inner, matrix, unit, unit_blocks
from metadata import balancing
from metadata import uids as uid
from metadata.errors import CurateError, unknown
from metadata.schema import MODEL_NAME, MODELS

#: Products are taken of so many images with so many captions at a time: 8 MB of float32.
_IMAGES = 2048
_TEXTS = 1024
#: Of a product so many rows are summed at a time, which a cache holds from their exponentials to the second sum.
_CACHED = 128

#: Sums of exponentials below this are taken again in float64: float32 would have lost some of them.
_LEAST_SUM = 1e-30


def scores(
    images: np.ndarray,
    texts: np.ndarray,
    uids: np.ndarray,
    *,
    seed: int = 0,
    batch: int = 32_768,
    tau: float = 0.01,
    draws: int = 10,
) -> np.ndarray:
    """Each pair's cosine, less what a CLIP would lose it in batches of other pairs of the same file; higher is better.

    score_i = cos_i - tau / 2 * (log sum_j exp(image_i . text_j / tau) + log sum_j exp(image_j . text_i / tau)), where j
    are the pairs of i's batch, i among them; the mean over `draws` batches.

    In each draw every pair is in one batch. Batches are cut from the pairs in the order of a hash of uid, seed and
    draw, so they do not depend on the order of the rows. The last batch, which is short, is filled up with pairs from
    the start of that order, because a sum over fewer pairs is smaller. A file of fewer pairs than a batch is one batch,
    all its pairs once, in any draw; its sums are taken times batch / pairs: that changes no order within the file, and
    its scores compare with those of larger files.

    Args:
        images, texts: float16 or float32, shape (rows, dims), of unit length; memory-mapped or not. Only a batch of
            them is held at a time.
        uids: UID_DTYPE, shape (rows,).
        batch: pairs in a batch, 2 or more.
        seed: 0 to 2**64 - 1.
        tau: the temperature, 0.003 or more.

    Returns:
        float32, shape (rows,); NaN where image or text has no features. Such rows are in no batch.

    Raises:
        CurateError: features that are not of unit length, or a parameter out of range.

    Source: negCLIPLoss (arXiv:2405.19547); batch, tau and draws are the paper's.
    Differs: the last batch is filled up, a small file's sums are those of a full batch, and no sum overflows.
    Products are of float32, so scores that are equal by the formula, as those of pairs alone in their files, may differ
    by some 1e-7; the same pair in the same batch always gets the same.
    """
    _check(batch, tau, draws, seed)
    cosines = _cosines(images, texts)
    rows = np.flatnonzero(~np.isnan(cosines))
    losses = np.zeros(len(cosines))
    size = min(batch, max(len(rows), 1))
    draws = draws if size < len(rows) else 1  # a batch of all pairs is the same in any draw
    images_of, texts_of = (np.empty((size, array.shape[1]), np.float32) for array in (images, texts))
    for draw in range(draws):
        order = rows[np.argsort(_hashes(uids[rows], seed, draw), kind="stable")]
        for start in range(0, len(order), size):
            own = order[start : start + size]
            members = np.concatenate([own, np.resize(order, size - len(own))])
            place = np.argsort(members, kind="stable")  # files are read in order
            _gather(images, members[place], images_of)
            _gather(texts, members[place], texts_of)
            sums = np.empty(size)
            sums[place] = _log_sums(images_of, texts_of, tau)
            losses[own] += sums[: len(own)]
    return (cosines - tau * (losses / draws / 2 + math.log(batch / size))).astype(np.float32)


def _check(batch: int, tau: float, draws: int, seed: int) -> None:
    for name, value, least in (("batch", batch, 2), ("tau", tau, 0.003), ("draws", draws, 1)):
        if not value >= least:
            raise CurateError(f"negcliploss: {name} is {value}, but it is at least {least}. Give more.")
    if math.isinf(tau):
        raise CurateError("negcliploss: tau is inf, but what is divided by it must stay. Give 0.01, the paper's.")
    balancing.check_seed(seed, "negcliploss")


@dataclasses.dataclass(frozen=True)
class NegClipLossScores(Scorer):
    """Adds `negcliploss`, float32, see `scores`: batches are of the rows of a piece that reach the first step with it.

    A piece is a pool file, or a part of one with more than a million rows.
    """

    embedding: str = "l14"
    tau: float = 0.01
    batch: int = 32_768
    draws: int = 10
    seed: int = 0
    column = "negcliploss"
    is_of_piece = True

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.embedding):
            raise unknown("embedding", self.embedding, MODELS, where="negcliploss")
        _check(self.batch, self.tau, self.draws, self.seed)
        object.__setattr__(self, "columns", ("uid", f"{self.embedding}_img", f"{self.embedding}_txt"))

    def check_columns(self, schema: pa.Schema) -> None:
        images, texts = self.columns[1:]
        first, second = (schema.field(column).type.list_size for column in (images, texts))
        if first != second:
            raise CurateError(f"negcliploss: {images} has {first} dimensions, but {texts} has {second}, and their "
                              f"products are taken, so both must be of one model. Score the pool with one, or read "
                              f"the right one by --columns {texts}=NAME.")

    def load(self, built: pa.Buffer) -> Callable[[pa.RecordBatch], pa.Array]:
        options = {name: getattr(self, name) for name in ("seed", "batch", "tau", "draws")}

        def score(rows: pa.RecordBatch) -> pa.Array:
            ids, images, texts = (rows.column(name) for name in self.columns)
            found = scores(matrix(images), matrix(texts), uid.parse(ids), **options)
            return pa.array(found, from_pandas=False)

        return score


@dataclasses.dataclass(frozen=True)
class NegClipLoss(AtLeast):
    """Keeps pairs whose negCLIPLoss score is at least `threshold`; one without features is dropped."""

    threshold: float
    scorer: NegClipLossScores
    name = "negcliploss"  # type: ignore[assignment]
    columns = (NegClipLossScores.column,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scorers", (self.scorer,))

    def describe(self) -> dict[str, Any]:
        own = super().describe()
        return own.pop("scorer") | own


@dataclasses.dataclass(frozen=True)
class NegClipLossFraction(Best):
    """Finishes as the NegClipLoss that keeps the int(rows * fraction) rows that score highest, and ties with the last.

    Args:
        fraction: above 0, below 1; 0.3 in the paper.
        embedding: whose features: `l14`, `b32` or a name given to `curate score`; the others are as in `scores`.

    Source: negCLIPLoss (arXiv:2405.19547).
    """

    fraction: float
    embedding: str = "l14"
    tau: float = 0.01
    batch: int = 32_768
    draws: int = 10
    seed: int = 0
    name = "negcliploss"  # type: ignore[assignment]  # what it finishes as
    columns = (NegClipLossScores.column,)

    def __post_init__(self) -> None:
        super().__post_init__()
        scorer = NegClipLossScores(self.embedding, self.tau, self.batch, self.draws, self.seed)
        object.__setattr__(self, "scorers", (scorer,))

    def at(self, threshold: float) -> NegClipLoss:
        return NegClipLoss(threshold, self.scorers[0])  # type: ignore[arg-type]


def _cosines(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """float64, shape (rows,); NaN where one of the two has no features."""
    cosines = np.empty(len(images))
    for part, image, has_image in unit_blocks(images, "image features"):
        text, has_text = unit(texts[part], "text features")
        cosines[part] = np.where(has_image & has_text, inner(image, text), np.nan)
    return cosines


def _hashes(uids: np.ndarray, seed: int, draw: int) -> np.ndarray:
    """uint64, shape (rows,)."""
    salt = hashlib.blake2b(f"{seed}/{draw}".encode(), digest_size=16).digest()
    raw = uids.tobytes()
    digests = (hashlib.blake2b(raw[i : i + 16], digest_size=8, salt=salt).digest() for i in range(0, len(raw), 16))
    return np.frombuffer(b"".join(digests), "<u8")


def _gather(features: np.ndarray, rows: np.ndarray, space: np.ndarray) -> None:
    """Writes those rows' features into `space`: to touch new memory for them takes longer than to copy them."""
    for start in range(0, len(rows), _IMAGES):
        space[start : start + _IMAGES] = unit(features[rows[start : start + _IMAGES]], "")[0]


def _log_sums(images: np.ndarray, texts: np.ndarray, tau: float) -> np.ndarray:
    """log sum_j exp(image_i . text_j / tau) + log sum_j exp(image_j . text_i / tau) of each pair i: float64, (pairs,).

    Overwrites `images`.

    One product serves both sums. float32 has the exponentials of cosines between -0.69 and 0.78 at the paper's tau,
    which those of images and captions are; where a sum is too large or too small for it, float64 has it.
    """
    images /= np.float32(tau)
    sums = _sums(images, texts, np.float32)
    if not all(part.min() >= _LEAST_SUM and part.max() < np.inf for part in sums):
        sums = _sums(images, texts, np.float64)
    return np.log(sums[0]) + np.log(sums[1])


def _sums(images: np.ndarray, texts: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Sums of exp(image . text), of each image over all texts and of each text over all images: float64, (rows,)."""
    of_images, of_texts = np.zeros(len(images)), np.zeros(len(texts))
    space = np.empty(_IMAGES * _TEXTS, np.float32)
    ones: np.ndarray = np.ones(_TEXTS, dtype)
    for i in range(0, len(images), _IMAGES):
        for j in range(0, len(texts), _TEXTS):
            some, others = images[i : i + _IMAGES], texts[j : j + _TEXTS]
            product = np.matmul(some, others.T, out=space[: len(some) * len(others)].reshape(len(some), len(others)))
            for first in range(0, len(some), _CACHED):
                terms: np.ndarray = product[first : first + _CACHED].astype(dtype, copy=False)
                with np.errstate(over="ignore"):  # _log_sums sees it
                    np.exp(terms, out=terms)
                    of_images[i + first : i + first + len(terms)] += np.vecdot(terms, ones[: len(others)])
                    of_texts[j : j + _TEXTS] += terms.sum(axis=0)
    return of_images, of_texts
