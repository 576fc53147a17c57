"""Features that go with rows to where these are compared: written in one order, read in another, a block at a time."""

import tempfile

import numpy as np
import pyarrow as pa

from filters.features import matrix
from metadata.schema import known
from pipeline import storage

#: Rows that are copied at a time: up to 12 MB.
_ROWS = 8192
#: Rows that are read in one go, if fewer are asked for.
_AHEAD = 1024


def row_dtype(feature: str, dims: int) -> np.dtype:
    """A row of that feature's numbers, in the type that the pool has them in; arrays of it get a dimension more."""
    column = known(feature)
    assert column is not None
    return np.dtype((f"<f{column.type.value_type.bit_width // 8}", (dims,)))


class Carried:
    """Rows of a feature in a file without a name, which is gone with the process or when it is closed."""

    def __init__(self, feature: str, dims: int, folder: str) -> None:
        """Opens a file.

        Args:
            folder: where the file takes its room, if that is a folder of this machine.
        """
        self.kind, self.number = row_dtype(feature, dims), 0
        self.folder = folder if storage.is_local(folder) and storage.exists(folder) else tempfile.gettempdir()
        self.file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115

    def __enter__(self) -> "Carried":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, column: pa.FixedSizeListArray, rows: np.ndarray) -> None:
        """Appends those rows of the column."""
        self._append(matrix(column)[rows])

    def add_part(self, path: str, first: int, end: int) -> None:
        """Appends the rows from `first` to the one before `end` of a file that `write` made."""
        for start in range(first, end, _ROWS):
            number = min(_ROWS, end - start)
            self._append(storage.read_array(path, self.kind, number, start * self.kind.itemsize))

    def _append(self, values: np.ndarray) -> None:
        with storage.naming(self.folder):  # where there may be no room
            self.file.write(values.data)
        self.number += len(values)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Those rows, in that order."""
        self.file.flush()
        # Mapped anew each time: pages count as this process's memory as long as they are mapped.
        (dims,) = self.kind.shape
        return np.memmap(self.file, self.kind.base, "r", shape=(self.number, dims))[rows]

    def write(self, path: str, order: np.ndarray) -> None:
        """Writes the rows in that order, and nothing else, into a file."""
        with storage.atomic(path) as file:
            for start in range(0, len(order), _ROWS):
                file.write(self.take(order[start : start + _ROWS]).data)


class Ordered:
    """Reads the rows of a Carried in some order; few at a time cost no more than many."""

    def __init__(self, carried: Carried, order: np.ndarray) -> None:
        """`order` has the rows' numbers in the file."""
        self.carried, self.order = carried, order
        self.start, self.rows = 0, np.empty(0, carried.kind)

    def __call__(self, start: int, end: int) -> np.ndarray:
        """The rows from one place in the order up to another."""
        if not self.start <= start <= end <= self.start + len(self.rows):
            self.start, self.rows = start, self.carried.take(self.order[start : max(end, start + _AHEAD)])
        return self.rows[start - self.start : end - self.start]
