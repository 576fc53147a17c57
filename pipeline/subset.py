"""Reading a subset file: DataComp's .npy of sorted uids, looked into without being loaded."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from metadata import npy
from metadata.errors import CurateError, printable
from pipeline import storage

#: A uid as two numbers, its first and its last 16 digits. As metadata.uids has it, which would import pyarrow.
UID_DTYPE = np.dtype("u8,u8")

_ROWS_AT_ONCE = 1 << 20


class Facts(NamedTuple):
    """What is known of a subset file that was checked: the sha256 of its bytes, and how many different uids it has."""

    sha256: str
    distinct: int


@contextlib.contextmanager
def local_file(path: str) -> Iterator[str]:
    """The file on this machine: itself, or a copy while the block lasts."""
    if storage.is_local(path):
        yield path
        return
    with storage.open_read(path) as remote, tempfile.NamedTemporaryFile(suffix=".npy") as file:
        shutil.copyfileobj(remote, file)
        file.flush()
        yield file.name


def load(path: str) -> np.ndarray:
    """The uids of a local file that was checked, as a memory map."""
    return npy.load(path)


def check(path: str, name: str) -> Facts:
    """Reads a whole subset file.

    Args:
        path: a local file.
        name: what to call it in an error.

    Raises:
        CurateError: it is no .npy of dtype u8,u8 and one dimension, or is empty or not sorted.
    """
    try:
        uids = npy.load(path)
    except ValueError as error:
        raise _unfit(name, str(error)) from error
    if uids.dtype != UID_DTYPE or uids.ndim != 1 or not len(uids):
        raise _unfit(name, f"dtype {printable(uids.dtype)} and shape {uids.shape}")
    distinct = 1
    for start in range(0, len(uids) - 1, _ROWS_AT_ONCE):
        part = np.asarray(uids[start : start + _ROWS_AT_ONCE + 1])
        high, low = part["f0"], part["f1"]
        same = high[1:] == high[:-1]
        smaller = (high[1:] < high[:-1]) | (same & (low[1:] < low[:-1]))
        if smaller.any():
            raise _unfit(name, f"the uid in row {start + int(smaller.argmax()) + 1} is smaller than the one before it")
        distinct += int((~same | (low[1:] != low[:-1])).sum())
    with open(path, "rb") as file:
        return Facts(hashlib.file_digest(file, "sha256").hexdigest(), distinct)


def _unfit(name: str, what: str) -> CurateError:
    return CurateError(
        f"{name}: {what}, but DataComp's format is needed: .npy, dtype u8,u8, one dimension, "
        f"sorted, not empty. `curate --select-only` writes it."
    )


def find(uids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `wanted` is in a sorted subset, and how often.

    Args:
        uids: UID_DTYPE, shape (m,); of a memory map only about log2(m) rows are touched for each one wanted.
        wanted: <u8, shape (n, 2).

    Returns:
        int64, shape (n,): the first row of each, or where it would be; int64, shape (n,): its rows, 0 for none.
    """
    first = _count(uids, wanted, np.less)
    return first, _count(uids, wanted, np.less_equal) - first


def _count(uids: np.ndarray, wanted: np.ndarray, before: np.ufunc) -> np.ndarray:
    """How many uids are `before` each one wanted: one binary search for all of them."""
    high, low = np.asarray(uids["f0"]), np.asarray(uids["f1"])
    start, stop = np.zeros(len(wanted), np.int64), np.full(len(wanted), len(uids), np.int64)
    for _ in range(len(uids).bit_length()):
        middle = np.minimum((start + stop) >> 1, len(uids) - 1)
        there = high[middle]
        right = (there < wanted[:, 0]) | ((there == wanted[:, 0]) & before(low[middle], wanted[:, 1]))
        right &= start < stop
        start = np.where(right, middle + 1, start)
        stop = np.where(right, stop, np.minimum(middle, stop))
    return start
