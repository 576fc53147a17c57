"""Pool files as pieces: found, checked before anything runs, and read batch by batch with only the columns asked for."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metadata import uids
from metadata.errors import CurateError, printable, unknown
from metadata.schema import COLUMNS
from pipeline import storage
from pipeline.pools import Pool

T = TypeVar("T")

#: Rows in a batch: large enough that a step's cost is in its arithmetic, small enough that memory stays flat.
BATCH_ROWS = 1 << 17
#: Files of more rows than this are cut at row groups, so that one large file still keeps every worker busy.
PIECE_ROWS = 1 << 20


@dataclasses.dataclass(frozen=True)
class PoolFile:
    """A parquet file of a pool: its address, size in bytes, a mark that changes with its content, and its rows."""

    path: str
    size: int
    etag: str
    rows: int


@dataclasses.dataclass(frozen=True)
class Piece:
    """Whole row groups of one pool file: the unit of work.

    Attributes:
        index: position among the pool's pieces; names everything that is made from the piece.
        groups: first row group and the one after the last.
        columns: our column names to the file's own, where they differ.
    """

    index: int
    path: str
    groups: tuple[int, int]
    rows: int
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.index:06d}"


def find_files(pool: Pool, limit: int | None) -> list[tuple[str, int]]:
    """Addresses and sizes of the pool's parquet files, sorted; the first `limit` of them.

    Raises:
        CurateError: there is no such place, it can't be read, or it holds no parquet file.
    """
    address = pool.address
    try:
        fs, path = storage.filesystem(address)
        if any(mark in path for mark in "*?["):
            found = fs.glob(path, detail=True)
        elif fs.isfile(path):
            found = {path: fs.info(path)}
        else:
            found = fs.find(path, detail=True)
    except ImportError as error:
        raise CurateError(f"--pool {address}: {error}. `pip install 'clip-curate[s3]'` or `[gcs]` brings what is needed.") from error
    except ValueError as error:
        raise CurateError(f"--pool {address}: {error}. Give a local path or an address such as s3://bucket/folder.") from error
    except Exception as error:  # each file system raises its own kinds here, and none of them is ours to continue from
        raise CurateError(f"--pool {address}: can't be listed ({type(error).__name__}: {printable(error)}). "
                          f"Check the address, the network and your credentials.") from error
    files = sorted((p, i["size"]) for p, i in found.items() if i["type"] == "file" and (p.endswith(".parquet") or p == path))
    if not files:
        raise CurateError(f"--pool {address}: there is no parquet file, but a pool is one, a folder or a glob of them. "
                          f"Check the address.")
    local = "file" in fs.protocol
    return [(p if local else fs.unstrip_protocol(p), size) for p, size in files[:limit]]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a pool was found to be.

    Attributes:
        optional: those of the optional columns that the pool has.
        schema: all columns that a step may read, under our names and in our types.
    """

    files: list[PoolFile]
    pieces: list[Piece]
    optional: tuple[str, ...]
    schema: pa.Schema

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


def inspect(pool: Pool, columns: Iterable[str], optional: Iterable[str] = (), limit: int | None = None) -> Inspection:
    """The pool's files and their pieces, with every file's footer read and its columns checked.

    Args:
        columns: those that the run will ask for.
        optional: those that it will ask for if the first file has them; then all files must.
        limit: only the first so many files.

    Raises:
        CurateError: a file can't be read as parquet, lacks a column or has it in another type; or no file has a row.
    """
    found = find_files(pool, limit)
    mapping = dict(pool.columns)
    fields = retried(lambda: _schema(found[0][0]), found[0][0])
    there = [name for name in fields.names if name not in pool.hidden]
    if "uid" not in there:
        mapping.setdefault("uid", "")
    optional = tuple(c for c in optional if mapping.get(c, c) in there)
    wanted = sorted({*columns, *optional})
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        footers = threads.map(lambda f: _footer(f[0], wanted, mapping, pool.hidden), found)
        files, pieces = [], []
        for (path, size), (etag, group_rows) in zip(found, footers, strict=True):
            files.append(PoolFile(path, size, etag, sum(group_rows)))
            for first, end, rows in _cut(group_rows):
                pieces.append(Piece(len(pieces), path, (first, end), rows, tuple(sorted(mapping.items()))))
    if not pieces:
        raise CurateError(f"--pool {pool.name}: {len(files)} files, but not one row. Check the address.")
    ours = {theirs: name for name, theirs in mapping.items()}
    types = {ours.get(name, name): fields.field(name).type for name in there} | {"uid": pa.string()}
    schema = pa.schema([(name, COLUMNS[name].type if name in COLUMNS else kind) for name, kind in types.items()])
    return Inspection(files, pieces, optional, schema)


def _schema(path: str) -> pa.Schema:
    with open_parquet(path) as (parquet, _):
        return parquet.schema_arrow


def _cut(group_rows: list[int]) -> Iterator[tuple[int, int, int]]:
    """(first group, group after the last, rows) of the pieces of a file."""
    first = rows = 0
    for group, n in enumerate(group_rows):
        if rows and rows + n > PIECE_ROWS:
            yield first, group, rows
            first, rows = group, 0
        rows += n
    if rows:
        yield first, len(group_rows), rows


def _footer(path: str, columns: list[str], mapping: Mapping[str, str], hidden: frozenset[str]) -> tuple[str, list[int]]:
    def read() -> tuple[str, list[int]]:
        with open_parquet(path) as (parquet, file):
            for column in columns:
                _check_column(path, parquet.schema_arrow, column, mapping, hidden)
            file.seek(-8, io.SEEK_END)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-8 - length, io.SEEK_END)
            etag = hashlib.sha256(file.read(length)).hexdigest()[:32]
            return etag, [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]

    return retried(read, path)


def _check_column(path: str, schema: pa.Schema, column: str, mapping: Mapping[str, str], hidden: frozenset[str]) -> None:
    name = mapping.get(column, column)
    if column == "uid" and not name:
        for part in ("url", "text"):
            _check_column(path, schema, part, mapping, hidden)
        return
    visible = [n for n in schema.names if n not in hidden]
    if name not in visible:
        error = unknown("column", name, visible, path)
        how = "or --columns uid= to make uids from url and text" if column == "uid" else "where the pool has it under another name"
        raise CurateError(f"{error} Say --columns {column}=NAME {how}.")
    if column in COLUMNS and not _castable(schema.field(name).type, COLUMNS[column].type):
        raise CurateError(f"{path}: column {name!r} is of type {schema.field(name).type}, but {COLUMNS[column].type} is needed "
                          f"({COLUMNS[column].about}). Mend the file, or name another column with --columns {column}=NAME.")


def _castable(given: pa.DataType, needed: pa.DataType) -> bool:
    """Whether `given` is of the same kind as `needed`, so that a cast keeps the meaning."""
    kinds: list[Callable[[pa.DataType], bool]] = [
        lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t),
        pa.types.is_integer,
        pa.types.is_floating,
        lambda t: pa.types.is_list(t) or pa.types.is_large_list(t),
    ]
    if pa.types.is_dictionary(given):
        given = given.value_type
    if pa.types.is_null(given):
        return True
    return any(kind(given) and kind(needed) for kind in kinds)


def batches(piece: Piece, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
    """The piece's rows in order, in batches of at most BATCH_ROWS, with `columns` under our names and in our types.

    A uid the pool does not have is made from url and text. Columns that metadata.schema does not know come as they are.

    Raises:
        CurateError: the file is cut off or broken; file and column are named.
    """
    columns = list(columns)
    mapping = dict(piece.columns)
    made = "uid" in columns and mapping.get("uid") == ""
    stored = [c for c in dict.fromkeys([*columns, *(["url", "text"] if made else [])]) if not (made and c == "uid")]
    names = [mapping.get(c, c) for c in stored]
    with open_parquet(piece.path) as (parquet, _):
        try:
            for raw in parquet.iter_batches(BATCH_ROWS, row_groups=list(range(*piece.groups)), columns=names, use_threads=False):
                arrays = {c: _cast(raw.column(n), c, piece.path) for c, n in zip(stored, names, strict=True)}
                if made:
                    arrays["uid"] = uids.derive(arrays["url"], arrays["text"])
                yield pa.RecordBatch.from_arrays([arrays[c] for c in columns], names=columns)
        except (pa.ArrowException, OSError) as error:
            raise CurateError(f"{piece.path}: {_broken_column(parquet, names, piece)} can't be read "
                              f"({printable(error)}), but every row is needed. Fetch the file again.") from error


def _cast(array: pa.Array, column: str, path: str) -> pa.Array:
    known = COLUMNS.get(column)
    if known is None or array.type == known.type:
        return array
    try:
        return pc.cast(array, known.type, safe=not pa.types.is_floating(known.type))
    except pa.ArrowException as error:
        raise CurateError(f"{path}: column {column!r} holds a value that is no {known.type} ({printable(error)}). "
                          f"Mend the file.") from error


def _broken_column(parquet: pq.ParquetFile, names: list[str], piece: Piece) -> str:
    """Which of the columns it is, found by reading them one by one."""
    for name in names:
        try:
            for _ in parquet.iter_batches(BATCH_ROWS, row_groups=list(range(*piece.groups)), columns=[name]):
                pass
        except (pa.ArrowException, OSError):
            return f"column {name!r}"
    return "the file"


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[tuple[pq.ParquetFile, BinaryIO]]:
    """A parquet file and the plain file below it: memory-mapped where local, range reads with retries elsewhere.

    Raises:
        CurateError: not there, or not a whole parquet file.
    """
    with contextlib.ExitStack() as stack:
        try:
            if storage.is_local(path):
                file = stack.enter_context(pa.memory_map(path))
            else:
                file = stack.enter_context(_RetryingFile(path))
            parquet = stack.enter_context(pq.ParquetFile(file, pre_buffer=not storage.is_local(path)))
        except pa.ArrowException as error:
            raise CurateError(f"{path}: not a whole parquet file ({printable(error)}). Fetch it again, or take it out of the pool.") from error
        except FileNotFoundError as error:
            raise CurateError(f"{path}: there is no such file. Check --pool.") from error
        yield parquet, file


#: Waits between tries of a read that failed, in seconds. The Hub and object stores answer 429 and 503 under load.
BACKOFF_S = (1, 2, 4, 8, 16)


def retried(function: Callable[[], T], where: str) -> T:
    """What `function` returns, tried again with backoff when the network fails.

    Raises:
        CurateError: it failed every time, or in a way that a second try does not mend.
    """
    for wait_s in (*BACKOFF_S, None):
        try:
            return function()
        except (CurateError, FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # network failures have as many types as there are file systems
            if storage.is_local(where) or wait_s is None:
                raise CurateError(f"{where}: can't be read ({type(error).__name__}: {printable(error)}). "
                                  f"Check the network and your credentials, then run the same command again.") from error
            time.sleep(wait_s)
    raise AssertionError("unreachable")


class _RetryingFile(io.RawIOBase):
    """A remote file for pyarrow: every read is a range request of its own, tried again when it fails."""

    def __init__(self, path: str) -> None:
        self.where = path
        self.length = retried(self._open, path)
        self.position = 0

    def _open(self) -> int:
        fs, path = storage.filesystem(self.where)
        # No read-ahead: pyarrow asks for exactly the column chunks it needs, in large reads.
        self.file = fs.open(path, "rb", cache_type="none")
        return fs.size(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.length}[whence]
        return self.position

    def size(self) -> int:
        return self.length

    def read(self, size: int | None = -1) -> bytes:
        end = self.length if size is None or size < 0 else min(self.length, self.position + size)
        if end <= self.position:
            return b""
        start, self.position = self.position, end
        return retried(lambda: self._range(start, end), self.where)

    def _range(self, start: int, end: int) -> bytes:
        try:
            self.file.seek(start)
            data = self.file.read(end - start)
            if len(data) != end - start:
                raise OSError(f"{len(data)} bytes came of {end - start}")
            return data
        except Exception:
            self._open()  # the next try starts on a connection of its own
            raise
