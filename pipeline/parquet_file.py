"""One parquet file, wherever it is: its footer, and the columns asked for of a run of its row groups."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from metadata.errors import CurateError, reason
from pipeline import storage
from pipeline.remote import RemoteFile

#: Rows in a batch: large enough that a step's cost is in its arithmetic, small enough that memory stays flat.
BATCH_ROWS = 1 << 17
#: Read from the end of a file in one go; most footers are smaller.
_TAIL_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class ParquetFile:
    """An open file whose footer has been read.

    Attributes:
        size: in bytes.
        etag: a hash of the footer, which has every column chunk's place, size and, mostly, least and greatest value: it
            changes when the content does.
    """

    path: str
    size: int
    etag: str
    metadata: pq.FileMetaData
    schema: pa.Schema
    file: pa.NativeFile | RemoteFile

    @property
    def group_rows(self) -> list[int]:
        return [self.metadata.row_group(group).num_rows for group in range(self.metadata.num_row_groups)]

    def batches(self, groups: range, names: Iterable[str], most: int) -> Iterator[pa.RecordBatch]:
        """The rows of those row groups in order, with the columns of those names, in batches of at most `most` rows.

        Raises:
            CurateError: the data is cut off or broken; the column is named.
        """
        names = list(dict.fromkeys(names))
        reader = pq.ParquetFile(
            self.file,
            metadata=self.metadata,
            pre_buffer=isinstance(self.file, RemoteFile),  # pyarrow then joins near ranges, and asks ahead
            page_checksum_verification=True,
        )
        rows = self.group_rows[groups.start : groups.stop]
        try:
            for first, end, _ in cut(rows, most):  # what is asked ahead is in memory until its run is read
                run = list(groups[first:end])
                yield from reader.iter_batches(most, row_groups=run, columns=names, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            broken = self._broken(reader, groups, names)
            raise CurateError(f"{self.path}: {broken} can't be read ({reason(error)}), but every row is needed. "
                              f"{_advice(error)}") from error

    def _broken(self, reader: pq.ParquetFile, groups: range, names: Sequence[str]) -> str:
        """Which of the columns it is, found by reading them one by one."""
        for name in names:
            try:
                for _ in reader.iter_batches(BATCH_ROWS, row_groups=list(groups), columns=[name], use_threads=False):
                    pass
            except (pa.ArrowException, OSError):
                return f"column {name!r}"
        return "the file"


def _advice(error: Exception) -> str:
    # pyarrow writes nulls among lists of a fixed size, but can't read them.
    if "Expected all lists to be of size" in str(error):
        return "Write a list of NaN where there is a null, or a list of another length."
    return "Fetch the file again."


def cut(group_rows: Sequence[int], limit: int) -> Iterator[tuple[int, int, int]]:
    """Runs of row groups of at most `limit` rows, or of one group of more: first, the one after the last, rows.

    No run is without rows.
    """
    first = rows = 0
    for group, n in enumerate(group_rows):
        if rows and rows + n > limit:
            yield first, group, rows
            first, rows = group, 0
        rows += n
    if rows:
        yield first, len(group_rows), rows


@contextlib.contextmanager
def open_parquet(path: str, size: int | None = None) -> Iterator[ParquetFile]:
    """The file, open: by plain reads where it is local, by range requests elsewhere.

    Args:
        size: in bytes, where it is known.

    Raises:
        CurateError: not there, not readable, or not a whole parquet file.
    """
    with contextlib.ExitStack() as stack:
        if storage.is_local(path):
            # Not a memory map: a file that is cut off while it is mapped would kill the process.
            file = stack.enter_context(_open_local(path))
            size = file.size()
        else:
            file = stack.enter_context(RemoteFile(path, size))
            size = file.length
        try:
            tail = _tail(file, size)
            metadata = pq.read_metadata(pa.BufferReader(tail))
            schema = metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name in it is not UTF-8
            raise _not_whole(path, reason(error)) from error
        rows = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        if rows != metadata.num_rows:
            raise _not_whole(path, f"its footer says {metadata.num_rows} rows, but its row groups have {rows}")
        yield ParquetFile(path, size, hashlib.sha256(tail).hexdigest()[:32], metadata, schema, file)


def _not_whole(path: str, why: str) -> CurateError:
    return CurateError(f"{path}: not a whole parquet file ({why}). Fetch it again, or take it out of the pool.")


def _open_local(path: str) -> pa.NativeFile:
    try:
        return pa.OSFile(path)
    except OSError as error:
        raise CurateError(f"{path}: can't be read ({error.strerror or reason(error)}). Check --pool and the file's "
                          f"permissions.") from error


def _tail(file: pa.NativeFile | RemoteFile, size: int) -> bytes:
    """The footer with the 8 bytes after it, as the file's last bytes say; all there is of a shorter file."""

    def last(n: int) -> bytes:
        file.seek(max(0, size - n))
        return file.read(min(n, size))

    tail = last(_TAIL_BYTES)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    return tail[-length:] if length <= len(tail) else last(length) if length <= size else tail
