"""Files in parts, a few of which can be read without the others: where each begins, as int64, then all of them."""

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline import storage

_START = np.dtype("<i8")


def write(path: str, arrays: Sequence[np.ndarray], sizes: Iterable[int] | None = None) -> None:
    """Writes the arrays, all of one dtype: each a part, or parts of those sizes one after the other."""
    sizes = map(len, arrays) if sizes is None else sizes
    with storage.atomic(path) as file:
        file.write(np.cumsum([0, *sizes], dtype=_START).tobytes())
        for array in arrays:
            file.write(np.ascontiguousarray(array).view(np.uint8).data)


def read(path: str, first: int, end: int, parts: int, dtype: np.dtype) -> list[np.ndarray]:
    """The parts from `first` to before `end`, of a file that has so many; by two reads, of their starts and of them."""
    starts = _starts(path, first, end)
    offset = (parts + 1) * _START.itemsize + int(starts[0]) * dtype.itemsize
    items = storage.read_array(path, dtype, int(starts[-1] - starts[0]), offset)
    return np.split(items, starts[1:-1] - starts[0])


def bounds(path: str, number: int) -> tuple[int, int]:
    """A part's first item, counted through all parts, and the one after its last."""
    start, end = _starts(path, number, number + 1).tolist()
    return start, end


def _starts(path: str, first: int, end: int) -> np.ndarray:
    return storage.read_array(path, _START, end - first + 1, first * _START.itemsize)
