"""Files in parts, a few of which can be read without the others: where each begins, as int64, then all of them.

Every piece of a pool writes one, with a part for every range of uids or keys, and every range's reader wants its part
of each: a `Shuffle`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipeline import storage

_START = np.dtype("<i8")

#: Bytes of items that are read at a time to be put in another order.
_BLOCK = 1 << 25


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
    return np.split(_items(path, starts[0], starts[-1], parts, dtype), starts[1:-1] - starts[0])


def bounds(path: str, number: int) -> tuple[int, int]:
    """A part's first item, counted through all parts, and the one after its last."""
    start, end = _starts(path, number, number + 1).tolist()
    return start, end


def _starts(path: str, first: int, end: int) -> np.ndarray:
    return storage.read_array(path, _START, end - first + 1, first * _START.itemsize)


def _items(path: str, first: int, end: int, parts: int, dtype: np.dtype) -> np.ndarray:
    offset = (parts + 1) * _START.itemsize + int(first) * dtype.itemsize
    return storage.read_array(path, dtype, int(end - first), offset)


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """Files with the same parts, of which readers want one part, or a few, of every file.

    That takes two reads a file, so that files and readers that grow with a pool need reads by its square. Where there
    are more than `at_once` files, so many at a time are first bound into one, in which what they have of a part stands
    together.

    Attributes:
        paths: of the files.
        parts: that readers want.
        dtype: of the items.
        folder: where the bound files go.
        at_once: files that a reader opens.
        further: parts that each file has behind those.
    """

    paths: Sequence[str]
    parts: int
    dtype: np.dtype
    folder: str
    at_once: int
    further: int = 0

    @property
    def bindings(self) -> range:
        """Numbers of the files to `bind`, before a part is read."""
        return range(-(-len(self.paths) // self.at_once) if len(self.paths) > self.at_once else 0)

    def bind(self, number: int) -> None:
        """Writes a bound file, unless it is there: for each part in turn a part for each of its files."""
        if storage.exists(path := self._bound(number)):
            return
        own = self._own(number)
        starts = np.stack([_starts(each, 0, self.parts) for each in own])
        sizes = np.diff(starts).T
        with storage.atomic(path) as file:
            file.write(np.zeros(1, _START).tobytes())
            file.write(np.cumsum(sizes, dtype=_START).data)
            for first, end in _blocks(sizes.sum(axis=1) * self.dtype.itemsize):
                found = [_items(each, at[first], at[end], self.parts + self.further, self.dtype)
                         for each, at in zip(own, starts, strict=True)]  # fmt: skip
                cuts = (starts[:, first : end + 1] - starts[:, first : first + 1]).tolist()
                for part in range(end - first):
                    items = [each[at[part] : at[part + 1]] for each, at in zip(found, cuts, strict=True)]
                    file.write(np.concatenate(items).view(np.uint8).data)
                del found, items  # before the next ones are read

    def read(self, first: int, end: int) -> list[list[np.ndarray]]:
        """The parts from `first` to before `end`, each as what every file has of it, in the order of the files."""
        found: list[list[np.ndarray]] = [[] for _ in range(first, end)]
        for path, count, parts in self._files():
            together = read(path, first * count, end * count, parts, self.dtype)
            for n, part in enumerate(found):
                part += together[n * count : (n + 1) * count]
        return found

    def read_joined(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """All items of a part, in the order of the files, and how many each file has of it: int64. Held only once."""
        ranges = [(path, _starts(path, number * count, (number + 1) * count), n) for path, count, n in self._files()]
        sizes = np.concatenate([np.diff(starts) for _, starts, _ in ranges])
        items, filled = np.empty(sizes.sum(), self.dtype), 0
        for path, starts, n in ranges:
            end = filled + starts[-1] - starts[0]
            items[filled:end] = _items(path, starts[0], starts[-1], n, self.dtype)
            filled = end
        return items, sizes

    def _files(self) -> Iterator[tuple[str, int, int]]:
        """What readers open: its path, of how many files it has each part, and how many parts it has in all."""
        if not self.bindings:
            yield from ((path, 1, self.parts + self.further) for path in self.paths)
        for number in self.bindings:
            count = len(self._own(number))
            yield self._bound(number), count, self.parts * count

    def _own(self, number: int) -> Sequence[str]:
        return self.paths[number * self.at_once : (number + 1) * self.at_once]

    def _bound(self, number: int) -> str:
        return storage.join(self.folder, f"{number:06d}.bin")


def _blocks(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Parts from and to before, of no more bytes than a block has, but of one part at least."""
    ends, first = np.cumsum(sizes), 0
    while first < len(sizes):
        before = ends[first - 1] if first else 0
        end = max(first + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
        yield first, end
        first = end
