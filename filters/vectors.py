"""Vectors that features are compared with, and the files they are in."""

import functools
import glob
import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from filters.features import inner, unit, widen
from metadata import npy
from metadata.errors import CurateError, reason
from metadata.schema import FEATURES, is_feature

#: Vectors that are converted at a time: 24 MB of float32.
_BLOCK = 8192


class Vectors:
    """The vectors in a file, or in the files of a glob, one after the other in the order of their names.

    A file is a .npy, or a .pt that holds a tensor, an array or, as DataComp's of ImageNet do, a mapping with one under
    `image_features`. A .npy is mapped and not read into memory.
    """

    def __init__(self, path: str, feature: str, where: str, of_unit_length: bool = False) -> None:
        """Opens the files, and looks at every vector.

        Args:
            feature: the column they are compared with, whose dimension they must have.
            where: the step and what it calls the path, for errors.
            of_unit_length: each vector must be, for products with it are taken as cosines.

        Raises:
            CurateError: a file is not there or is something else; a vector is not finite, all zeros, or of another
                length than it must be.
        """
        self.names = _names(path, where)
        self.parts = [_read(name, feature, f"{where} {name}", of_unit_length) for name in self.names]
        self.dims = self.parts[0].shape[1]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def blocks(self) -> Iterator[np.ndarray]:
        """The vectors in order as float32, a few thousand at a time."""
        for part in self.parts:
            yield from _blocks(part)


def sha256(path: str, feature: str, where: str, of_unit_length: bool = False) -> list[str]:
    """Of the files, in order, 64 hexadecimal digits each; raises CurateError where Vectors does."""
    return [digest for _, digest, _ in _facts(path, feature, where, of_unit_length)]


def check_dims(schema: pa.Schema, path: str, feature: str, where: str, of_unit_length: bool = False) -> None:
    """Raises CurateError where Vectors does, and unless the vectors have as many numbers as the feature in `schema`.

    Of CommonPool's features that number is known without a pool; of those of other models it is not.
    """
    dims = schema.field(feature).type.list_size
    for name, _, own in _facts(path, feature, where, of_unit_length):
        if own != dims:
            raise _other_dims(f"{where} {name}", own, feature, dims)


@functools.lru_cache(maxsize=8)
def _facts(path: str, feature: str, where: str, of_unit_length: bool) -> list[tuple[str, str, int]]:
    """Of each file, in order: its name, its sha256, and how many numbers its vectors have."""
    found, facts = Vectors(path, feature, where, of_unit_length), []
    for name, vectors in zip(found.names, found.parts, strict=True):
        with open(name, "rb") as file:
            facts.append((name, hashlib.file_digest(file, "sha256").hexdigest(), vectors.shape[1]))
    return facts


def _other_dims(where: str, given: int, feature: str, dims: Any) -> CurateError:
    return CurateError(f"{where}: has vectors of {given} numbers, but {feature} has {dims}: it is of another model. "
                       f"Take the one that made {feature}.")  # fmt: skip


def _names(path: str, where: str) -> list[str]:
    found = [path] if os.path.exists(path) else sorted(glob.glob(path))
    if not found:
        raise CurateError(f"{where} {path}: there is no such file, but every worker needs it. Check the path.")
    return found


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(vectors), _BLOCK):
        yield widen(vectors[first : first + _BLOCK])


def _read(path: str, feature: str, where: str, of_unit_length: bool) -> np.ndarray:
    """float16 or float32, shape (vectors, dims)."""
    vectors = _tensor(path, where) if path.endswith((".pt", ".pth")) else _array(path, where)
    dims = FEATURES[feature].type.list_size if feature in FEATURES else "dims"
    if vectors.dtype not in (np.float16, np.float32) or vectors.ndim != 2 or not len(vectors):
        raise CurateError(f"{where}: is {vectors.dtype} of the shape {vectors.shape}, but float16 or float32 of the "
                          f"shape (vectors, {dims}) is needed. Save it so.")  # fmt: skip
    if vectors.shape[1] != dims and feature in FEATURES:
        raise _other_dims(where, vectors.shape[1], feature, dims)
    _check_model(path, feature, where)
    first = 0
    for block in _blocks(vectors):
        squares = inner(block, block)
        if not (good := np.isfinite(squares) & (squares > 0)).all():
            number = first + int(good.argmin())
            raise CurateError(f"{where}: vector {number} is all zeros, or has a NaN or an infinity, but "
                              f"each must have a length. Leave it out.")  # fmt: skip
        if of_unit_length:
            unit(block, where)
        first += len(block)
    return vectors


def _check_model(path: str, feature: str, where: str) -> None:
    """Raises CurateError where `curate centroids` has left word beside the file that they are of another model."""
    about = f"{path.removesuffix('.npy')}.json"
    try:
        with open(about, "rb") as file:
            embedding = json.load(file)["embedding"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return  # there is none, or it is of something else
    if not isinstance(embedding, str) or not is_feature(embedding):
        return
    if embedding.rpartition("_")[0] != feature.rpartition("_")[0]:
        raise CurateError(f"{where}: is of {embedding}, as {about} says, but {feature} is compared with it: "
                          f"both must be of one model. Make it of {feature}.")  # fmt: skip


def _array(path: str, where: str) -> np.ndarray:
    try:
        return npy.load(path)
    except (OSError, ValueError) as error:
        raise CurateError(f"{where}: can't be read as .npy ({reason(error)}), but vectors are one, or a .pt. Fetch it "
                          f"again, or save it with numpy.save.") from error  # fmt: skip


def _tensor(path: str, where: str) -> np.ndarray:
    try:
        import torch
    except ImportError as error:
        raise CurateError(f"{where}: the package torch is not installed, but a .pt is read with it. Save the vectors "
                          f"as .npy, or run: pip install 'clip-curate[train]'") from error  # fmt: skip
    # DataComp's centroids are a numpy array, which torch reads only if told what an array is made of.
    rebuild: Any = np.empty(0).__reduce__()[0]
    known: list[Any] = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    known += [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in (np.float16, np.float32))]
    try:
        with torch.serialization.safe_globals(known):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, OSError, LookupError) as error:
        raise CurateError(f"{where}: can't be read as a tensor ({reason(error)}), but vectors are one, or a .npy. "
                          f"Fetch it again, or save it as .npy.") from error  # fmt: skip
    found = found.get("image_features") if isinstance(found, dict) else found
    if isinstance(found, torch.Tensor) and found.dtype in (torch.float16, torch.float32):
        try:
            found = found.detach().contiguous().resolve_neg().numpy()
        except (RuntimeError, TypeError) as error:
            raise CurateError(f"{where}: holds a tensor that is no array ({reason(error)}), but a dense one with its "
                              f"values is needed. Save it so, or as .npy.") from error  # fmt: skip
    if not isinstance(found, np.ndarray):
        kind = getattr(found, "dtype", type(found).__name__)
        raise CurateError(f"{where}: holds {kind}, but a tensor of float16 or float32 is needed. Save it so.")
    return found
