"""The columns that scorers add: worked out once a row, kept in the run's folder, and read from there afterwards.

    work/built/COLUMN               what the scorer of that column needs on every worker
    work/scores/COLUMN/NNNNNN.arrow Arrow IPC: `row`, the row of the piece, ascending, and `value`

A column of score files may have any name; one that is no plain word has a hash for COLUMN.
"""

import functools
import hashlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from filters.base import Scorer, Step
from filters.features import matrix
from metadata.schema import is_feature
from pipeline import storage
from pipeline.pieces import Piece, naming

#: A cluster's worker may do several pieces at once, each in a thread; what they score with is loaded once.
_LOADING = threading.Lock()


def build(scorers: Iterable[Scorer], folder: str) -> None:
    """Writes what workers need to score, where it is not there."""
    for scorer in scorers:
        if not storage.exists(path := _built_path(scorer, folder)):
            storage.write(path, memoryview(scorer.build()))  # which may be a mapped file larger than memory


def _built_path(scorer: Scorer, folder: str) -> str:
    return storage.join(folder, "work", "built", _file_name(scorer.column))


def _file_name(column: str) -> str:
    if re.fullmatch(r"\w[\w-]{,99}", column, re.ASCII):
        return column
    return "=" + hashlib.sha256(column.encode("utf-8", "surrogatepass")).hexdigest()


def _load(scorer: Scorer, folder: str) -> Callable[[pa.RecordBatch], pa.Array]:
    with _LOADING:
        return _loaded(scorer, folder)


@functools.lru_cache(maxsize=8)
def _loaded(scorer: Scorer, folder: str) -> Callable[[pa.RecordBatch], pa.Array]:
    path = _built_path(scorer, folder)
    return scorer.load(_mapped(path) if storage.is_local(path) else pa.py_buffer(storage.read(path)))


def _mapped(path: str) -> pa.Buffer:
    """The file as a buffer that every worker on a machine shares."""
    with pa.memory_map(path) as file:
        return file.read_buffer()


class Scores:
    """The scorers' columns for the rows of one piece."""

    def __init__(self, piece: Piece, folder: str) -> None:
        self.piece, self.folder = piece, folder
        self.kept: dict[str, pa.RecordBatch | None] = {}
        self.made: dict[str, list[pa.RecordBatch]] = {}

    def complete(self, batch: pa.RecordBatch, rows: np.ndarray, scorers: Sequence[Scorer]) -> pa.RecordBatch:
        """The batch with the scorers' columns in it: read if they are known, else worked out.

        Args:
            rows: int64, shape (batch.num_rows,), ascending: their numbers in the piece.
        """
        for scorer in scorers:
            if scorer.column in batch.schema.names:
                continue
            values = self._read(scorer.column, rows)
            if values is None:
                values = self._score(scorer, batch)
                made = pa.record_batch({"row": pa.array(rows, pa.int64()), "value": values})
                self.made.setdefault(scorer.column, []).append(made)
            batch = batch.append_column(scorer.column, values)
        return batch

    def complete_piece(self, scorer: Scorer, passing: Iterator[tuple[pa.RecordBatch, np.ndarray]]) -> None:
        """Has a scorer of pieces work out its column of all rows, and keeps it, where it was not.

        Args:
            passing: the rows that reach the step, by batches, and their numbers in the piece.
        """
        if self.stored(scorer.column) is not None:
            return
        batch, rows = _gathered(scorer.columns, passing)
        if len(rows):
            values = self._score(scorer, batch)
            self.made[scorer.column] = [pa.record_batch({"row": pa.array(rows, pa.int64()), "value": values})]
        self.keep()

    def _score(self, scorer: Scorer, batch: pa.RecordBatch) -> pa.Array:
        score = _load(scorer, self.folder)
        with naming(self.piece):
            return score(batch)

    def _read(self, column: str, rows: np.ndarray) -> pa.Array | None:
        if (there := self.stored(column)) is not None:
            if (values := _values(there, rows)) is None:
                raise RuntimeError(f"{self.piece.path}: rows reach a step that were not scored for it")
            return values
        made = self.made.get(column)
        return _values(made[-1], rows) if made else None  # of a batch that was scored for a step before

    def unread(self, steps: Sequence[Step]) -> list[str]:
        """The columns that the steps and their scorers have to read: a scorer whose column was kept reads none."""
        readers = [reader for step in steps for reader in step.readers]
        ahead = [r for r in readers if not (isinstance(r, Scorer) and self.stored(r.column) is not None)]
        return [column for reader in ahead for column in reader.columns]

    def stored(self, column: str) -> pa.RecordBatch | None:
        """What was kept of a column: `row` and `value`; None where nothing was."""
        if column not in self.kept:
            path = self._path(column)
            self.kept[column] = None
            if storage.exists(path):
                data = _mapped(path) if storage.is_local(path) else pa.py_buffer(storage.read(path))
                self.kept[column] = pa.ipc.open_file(data).get_batch(0)
        return self.kept[column]

    def keep(self) -> None:
        """Writes the columns that were worked out."""
        for column, batches in self.made.items():
            (whole,) = pa.Table.from_batches(batches).combine_chunks().to_batches() or [batches[0]]
            with storage.atomic(self._path(column)) as file, pa.ipc.new_file(file, whole.schema) as writer:
                writer.write_batch(whole)
            self.kept.pop(column, None)
        self.made.clear()

    def _path(self, column: str) -> str:
        return storage.join(self.folder, "work", "scores", _file_name(column), f"{self.piece.name}.arrow")


def _values(known: pa.RecordBatch, rows: np.ndarray) -> pa.Array | None:
    """The values of the rows; None where some are not known."""
    numbers, values = known.column("row").to_numpy(), known.column("value")
    places = np.searchsorted(numbers, rows)
    if len(rows) and (places[-1] >= len(numbers) or (numbers[places] != rows).any()):
        return None
    if len(rows) and places[-1] - places[0] == len(rows) - 1:
        return values.slice(places[0], len(rows))
    return values.take(pa.array(places))


def _gathered(
    columns: Sequence[str], passing: Iterator[tuple[pa.RecordBatch, np.ndarray]]
) -> tuple[pa.RecordBatch, np.ndarray]:
    """All batches as one, and all their rows' numbers; features lie in files without names, a null of them is NaN."""
    wide = {column: tempfile.TemporaryFile() for column in columns if is_feature(column)}  # noqa: SIM115
    narrow: dict[str, list[pa.Array]] = {column: [] for column in columns if column not in wide}
    kinds: dict[str, pa.DataType] = {}
    numbers = [np.empty(0, np.int64)]
    for batch, rows in passing:
        numbers.append(rows)
        for column, file in wide.items():
            kinds[column] = batch.column(column).type
            file.write(np.ascontiguousarray(matrix(batch.column(column))).tobytes())
        for column, arrays in narrow.items():
            arrays.append(batch.column(column))
    rows = np.concatenate(numbers)
    whole: dict[str, pa.Array] = {}
    for column in columns if len(rows) else ():
        if column in wide:
            kind = kinds[column]
            with wide[column] as file:
                file.flush()
                mapped = np.memmap(file, np.dtype(f"f{kind.value_type.bit_width // 8}"), "r")
            whole[column] = pa.FixedSizeListArray.from_arrays(pa.array(mapped, from_pandas=False), kind.list_size)
        else:
            whole[column] = pa.concat_arrays(narrow[column])
    return pa.record_batch(whole), rows
