"""Pool files as pieces: found, checked before anything runs, and read by batches with only the columns asked for."""

import concurrent.futures
import contextlib
import dataclasses
import glob
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

import fsspec
import pyarrow as pa

from metadata import uids
from metadata.errors import CurateError, printable, unknown
from metadata.files import regular_size
from metadata.schema import FEATURES, conform, fits, is_feature, known, type_of
from pipeline import folder, parquet_file, storage
from pipeline.features import Features, npz_path, open_npz
from pipeline.parquet_file import ParquetFile, cut, open_parquet
from pipeline.pools import Pool
from pipeline.remote import FIRST_PATIENCE_S, retried

#: Files of more rows than this are cut at row groups, so that one large file still keeps every worker busy.
PIECE_ROWS = 1 << 20

#: Where features are read, about what those of a batch take: a row of them is 1 to 2 KB.
_FEATURE_BYTES = 1 << 25


@dataclasses.dataclass(frozen=True)
class PoolFile:
    """A parquet file of a pool: its address, size in bytes, a mark that changes with its content, and its rows.

    Where features are read from the npz beside it, the mark changes with that, too.
    """

    path: str
    size: int
    etag: str
    rows: int


@dataclasses.dataclass(frozen=True)
class Piece:
    """Whole row groups of one pool file: the unit of work.

    Attributes:
        index: position among the pool's pieces; names everything that is made from the piece.
        path, size, etag: of the file, as PoolFile has them.
        groups: first row group and the one after the last.
        first_row: rows of the file before the piece.
        columns: our column names to the file's own, where they differ.
        features: those of the columns asked for that are in the npz beside the file.
        npz: the mark of that npz, "" without features.
    """

    index: int
    path: str
    size: int
    etag: str
    groups: tuple[int, int]
    first_row: int
    rows: int
    columns: tuple[tuple[str, str], ...] = ()
    features: tuple[str, ...] = ()
    npz: str = ""

    @property
    def name(self) -> str:
        return f"{self.index:06d}"


def find_files(pool: Pool, limit: int | None) -> list[tuple[str, int | None]]:
    """Addresses and sizes (None where a server does not say) of the pool's parquet files, sorted; the first `limit`.

    A folder is searched with all those in it, links followed, for names that end in `.parquet`. Names that begin with a
    dot or an underscore are passed over, as other readers do: they are what writers leave beside the data; and so are
    folders of the main job's runs, which may lie in the pool that they read. A glob (`*`, `**`, `?`, `[…]`; over http
    no `?`) finds files that end so, and folders.

    Raises:
        CurateError: there is no such place, it can't be read, or it holds no parquet file.
    """
    where = f"--pool {pool.address}"
    try:
        fs, path = storage.filesystem(pool.address)
    except ImportError as error:
        raise CurateError(f"{where}: {error}. `pip install 'clip-curate[s3]'` or `[gcs]` brings it.") from error
    except ValueError as error:
        raise CurateError(f"{where}: {error}. Give a local path or an address such as s3://bucket/folder.") from error
    found: list[tuple[str, int | None]]
    if "file" in fs.protocol:
        try:
            found = sorted(set(_list_local(path)))
        except OSError as error:
            raise CurateError(f"{where}: {error.filename} can't be read ({error.strerror}). Check the address and the "
                              f"permissions.") from error
    else:
        listed = retried(lambda: sorted(set(_list_remote(fs, path))), where, FIRST_PATIENCE_S)
        found = [(fs.unstrip_protocol(name), size) for name, size in listed]
    if not found:
        raise CurateError(f"{where}: there is no parquet file, but a pool is one, a folder or a glob of them. "
                          f"Check the address; of a run in a folder name its kept/.")
    for name, _ in found[:limit]:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise CurateError(f"{where}: {printable(name)} is no UTF-8, but files are opened and recorded by names "
                              f"that are. Rename it.") from error
    return found[:limit]


def _is_run(place: str) -> bool:
    """Whether that is the folder of a main job's run; one that may not be looked into is no reason to stop."""
    try:
        return folder.command_of(place) == folder.MAIN
    except OSError:
        return False


def _list_local(path: str) -> Iterator[tuple[str, int]]:
    # fsspec's own listing leaves out links, and folders that it may not read, without a word.
    roots = [path] if os.path.lexists(path) else glob.glob(path, recursive=True)
    for root in roots or [path]:
        if root != path and not _is_data(root, _base(path)):
            continue
        if not os.path.isdir(root):
            if root == path or root.endswith(".parquet"):
                yield root, regular_size(root, "a pool's files")
            continue
        for place, folders, names in storage.walk(root):
            if place != root and "run.json" in names and _is_run(place):
                folders.clear()
                continue
            below = {name: os.path.join(place, name) for name in (*folders, *names) if _is_data(name)}
            folders[:] = [name for name in folders if name in below]
            for name in names:
                if name in below and name.endswith(".parquet"):
                    yield below[name], regular_size(below[name], "a pool's files")


def _is_data(path: str, base: str = "") -> bool:
    """Whether nothing in the path below `base` has a name that begins with a dot or an underscore."""
    return not any(part.startswith((".", "_")) for part in path.removeprefix(base).split("/"))


def _base(pattern: str) -> str:
    """The folder that a glob searches."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]


def _list_remote(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[tuple[str, int | None]]:
    marks = "*[" if path.startswith(("http://", "https://")) else "*?["
    is_glob = any(mark in path for mark in marks) and not fs.exists(path)
    base = _base(path) if is_glob else path
    for root, info in (fs.glob(path, detail=True) if is_glob else {path: fs.info(path)}).items():
        # Over http a folder is a page of links, and only the slash at its end tells it from a file.
        is_file = info["type"] == "file" and not root.endswith("/")
        listed = {root: info} if is_file else fs.find(root, detail=True)
        below = [name.removesuffix("run.json") for name in listed if name.endswith("/run.json")]
        runs = tuple(place for place in below if place.rstrip("/") != root.rstrip("/")
                     and _is_run(fs.unstrip_protocol(place)))  # fmt: skip
        for name, found in listed.items():
            if found["type"] != "file" or name.startswith(runs):
                continue
            if name == path or (name.endswith(".parquet") and _is_data(name, base)):
                yield name, found["size"]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a pool was found to be.

    Attributes:
        optional: those of the optional columns that the pool has.
        names: every column that a file has, under its own name, to the first file that has it.
        schema: all columns that a step may read, under our names and in our types.
    """

    files: list[PoolFile]
    pieces: list[Piece]
    optional: tuple[str, ...]
    names: Mapping[str, str]
    schema: pa.Schema

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


def inspect(pool: Pool, columns: Iterable[str], optional: Iterable[str] = (), limit: int | None = None) -> Inspection:
    """The pool's files and their pieces, with every file's footer read and its columns checked.

    A feature that is not a column of the parquet file is looked for in the npz beside it, which is opened only then.

    Args:
        columns: those that the run will ask for.
        optional: those that it will ask for if the first file has them; then all files must.
        limit: only the first so many files.

    Raises:
        CurateError: a file can't be read as parquet, lacks a column or has it in another type; an npz is needed and is
            not there, or its array does not fit; or no file has a row.
    """
    found = inspect_files(find_files(pool, limit), pool, columns, optional)
    if not found.rows:
        raise CurateError(f"--pool {pool.name}: {len(found.files)} parquet files, but not one row. Check the address.")
    return found


def inspect_files(
    found: Sequence[tuple[str, int | None]], pool: Pool, columns: Iterable[str], optional: Iterable[str] = ()
) -> Inspection:
    """`inspect` of some of the pool's files, as `find_files` gives them; they may have no row."""
    first = _read_footer(*found[0])
    there = {field.name: field.type for field in first.schema if field.name not in pool.hidden}
    mapping = dict(pool.columns)
    if "uid" not in there:
        mapping.setdefault("uid", "")
    optional = tuple(c for c in optional if mapping.get(c, c) in there)
    # What the user maps must be there, asked for or not: a slip of the pen is told.
    wanted = sorted({*columns, *optional, *mapping})

    def checked(footer: _Footer) -> _Footer:
        visible = {name for name in footer.schema.names if name not in pool.hidden}
        features = {c: mapping.get(c, c) for c in wanted if is_feature(c) and mapping.get(c, c) not in visible}
        for column in wanted:
            if column not in features:
                _check_column(footer, column, mapping, pool.hidden)
        return _with_features(footer, features) if features else footer

    footers = [checked(first), *storage.several_at_once(lambda file: checked(_read_footer(*file)), found[1:])]
    _check_dims(footers, [column for column in wanted if is_feature(column)], mapping)
    files = [PoolFile(f.path, f.size, "+".join(filter(None, (f.etag, f.npz))), sum(f.group_rows)) for f in footers]
    pieces = list(_pieces(footers, tuple(sorted(mapping.items()))))
    names = {name: f.path for f in reversed(footers) for name in f.schema.names if name not in pool.hidden}
    return Inspection(files, pieces, optional, names, _our_schema(there, mapping, footers[0].features))


@dataclasses.dataclass(frozen=True)
class _Footer:
    path: str
    size: int
    etag: str
    group_rows: list[int]
    schema: pa.Schema
    features: Mapping[str, pa.DataType] = dataclasses.field(default_factory=dict)
    npz: str = ""


def _read_footer(path: str, size: int | None) -> _Footer:
    with open_parquet(path, size) as parquet:
        return _Footer(path, parquet.size, parquet.etag, parquet.group_rows, parquet.schema)


def _with_features(footer: _Footer, features: Mapping[str, str]) -> _Footer:
    """The footer with what `features`, our names to the arrays' own, are read from; each is checked."""
    with contextlib.ExitStack() as stack:
        try:
            npz = stack.enter_context(open_npz(npz_path(footer.path)))
        except CurateError as error:
            missing = printable(next(iter(features.values())))
            raise CurateError(f"{footer.path}: has no column {missing!r}, and {error}") from error
        kinds = {c: Features(npz, name, c, sum(footer.group_rows)).kind for c, name in features.items()}
        return dataclasses.replace(footer, features=kinds, npz=npz.mark)


def _check_dims(footers: list[_Footer], features: Iterable[str], mapping: Mapping[str, str]) -> None:
    """Raises unless the features of all files, in an npz or a column, are of as many dimensions."""
    for column in features:
        places = [_dims_of(footer, column, mapping.get(column, column)) for footer in footers]
        first, at, _ = places[0]
        for dims, path, what in places:
            if dims != first:
                raise CurateError(f"{path}: {what} has {dims} dimensions, but that of {at} has {first}, and a pool's "
                                  f"are of one model. Score its files with the same one.")  # fmt: skip


def _dims_of(footer: _Footer, column: str, name: str) -> tuple[int, str, str]:
    """Of a feature: its dimensions, the file that has it, and what it is there."""
    if column in footer.features:
        return footer.features[column].list_size, npz_path(footer.path), f"array {name!r}"
    return type_of(column, footer.schema.field(name).type).list_size, footer.path, f"column {name!r}"


def _pieces(footers: list[_Footer], columns: tuple[tuple[str, str], ...]) -> Iterator[Piece]:
    index = 0
    for footer in footers:
        first_row = 0
        for first, end, rows in cut(footer.group_rows, PIECE_ROWS):
            yield Piece(index, footer.path, footer.size, footer.etag, (first, end), first_row, rows, columns,
                        tuple(footer.features), footer.npz)  # fmt: skip
            index, first_row = index + 1, first_row + rows


def _our_schema(
    there: Mapping[str, pa.DataType], mapping: Mapping[str, str], features: Mapping[str, pa.DataType]
) -> pa.Schema:
    """The columns that are `there`, under our names, and the features of an npz.

    A column whose own name is another's mapped name can't be read.
    """
    ours = {name: kind for name, kind in there.items() if name not in mapping and name not in mapping.values()}
    ours |= {name: there[theirs] for name, theirs in mapping.items() if theirs in there} | {"uid": pa.string()}
    ours |= features
    return pa.schema([(name, type_of(name, kind)) for name, kind in ours.items()])


def _check_column(footer: _Footer, column: str, mapping: Mapping[str, str], hidden: frozenset[str]) -> None:
    name = mapping.get(column, column)
    if column == "uid" and not name:
        for part in ("url", "text"):
            _check_column(footer, part, mapping, hidden)
        return
    visible = [n for n in footer.schema.names if n not in hidden]
    advice = f"--columns {column}=NAME reads it under another name"
    if column == "uid":
        advice += "; --columns uid= makes uids from url and text"
    if name not in visible:
        raise CurateError(f"{unknown('column', name, map(printable, visible), footer.path)} {advice}.")
    if visible.count(name) > 1:
        raise CurateError(f"{footer.path}: column {name!r} is there {visible.count(name)} times, but it is needed "
                          f"once. Mend the file.")
    kind = footer.schema.field(name).type
    needed = known(column)
    if needed and not fits(kind, type_of(column, kind)):
        raise CurateError(f"{footer.path}: column {name!r} is of type {kind}, but {needed.type} is needed for "
                          f"{column} ({needed.about}). Mend the file; or {advice}.")
    if is_feature(column) and not pa.types.is_fixed_size_list(type_of(column, kind)):
        raise CurateError(f"{footer.path}: column {name!r} is of type {kind}, but features are lists of one length, "
                          f"which the type says. Write it as pyarrow.list_(pyarrow.float16(), dims); or {advice}.")


@contextlib.contextmanager
def naming(piece: Piece) -> Iterator[None]:
    """Has what a step or a scorer refuses in the piece's rows name their file, which it doesn't know."""
    try:
        yield
    except CurateError as error:
        raise CurateError(f"{piece.path}: {error}") from error


def batches(piece: Piece, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
    """The piece's rows in order, in batches of at most BATCH_ROWS, with `columns` under our names and in our types.

    A uid the pool does not have is made from url and text. Columns that metadata.schema does not know come as they are.
    Batches with features have fewer rows, so that these take about 32 MB. Where reading takes its time, of features and
    from elsewhere, the next batch is read while the caller works on one.

    Raises:
        CurateError: the file or its npz is not what it was when the pool was inspected, or is cut off or broken; file
            and column are named, and the row where there is one.
    """
    columns = list(columns)
    read = _batches(piece, columns)
    return read if storage.is_local(piece.path) and not {*columns} & {*piece.features} else _one_ahead(read)


def _one_ahead(batches: Generator[pa.RecordBatch, None, None]) -> Iterator[pa.RecordBatch]:
    with contextlib.closing(batches), concurrent.futures.ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def _batches(piece: Piece, columns: list[str]) -> Generator[pa.RecordBatch, None, None]:
    mapping = dict(piece.columns)
    made = "uid" in columns and mapping.get("uid") == ""
    asked = [c for c in columns if c not in piece.features and not (made and c == "uid")]
    stored = {c: mapping.get(c, c) for c in [*asked, *(("url", "text") if made else ())]}
    rows = 0
    with contextlib.ExitStack() as stack:
        parquet = stack.enter_context(open_parquet(piece.path, piece.size))
        if (parquet.size, parquet.etag) != (piece.size, piece.etag):
            raise _changed(piece.path)
        features = _open_features(piece, [c for c in columns if c in piece.features], parquet, stack)
        for raw in parquet.batches(range(*piece.groups), stored.values(), _most_rows(columns, features)):
            first_row = piece.first_row + rows
            arrays = {c: conform(raw.column(name), c, piece.path, first_row) for c, name in stored.items()}
            if made:
                arrays["uid"] = uids.derive(arrays["url"], arrays["text"])
            rows += raw.num_rows
            arrays |= {c: array.rows(first_row, piece.first_row + rows) for c, array in features.items()}
            yield pa.RecordBatch.from_arrays([arrays[c] for c in columns], names=columns)
    if rows != piece.rows:
        raise CurateError(f"{piece.path}: {rows} rows came, but its footer says {piece.rows}. Fetch the file again.")


def _changed(path: str) -> CurateError:
    return CurateError(f"{path}: the file has changed since the run began, but a run reads one pool. "
                       f"Run the command again when nothing writes to the pool.")


def _open_features(
    piece: Piece, columns: Iterable[str], parquet: ParquetFile, stack: contextlib.ExitStack
) -> dict[str, Features]:
    """Those of the columns that are in the npz, which stays open as long as `stack`."""
    if not (columns := list(columns)):
        return {}
    npz = stack.enter_context(open_npz(npz_path(piece.path)))
    if npz.mark != piece.npz:
        raise _changed(npz.path)
    names = dict(piece.columns)
    return {column: Features(npz, names.get(column, column), column, sum(parquet.group_rows)) for column in columns}


def _most_rows(columns: Iterable[str], features: Mapping[str, Features]) -> int:
    """The most rows of a batch with these columns, of which `features` are read from an npz."""
    kinds = [FEATURES[column].type for column in {*columns} & {*FEATURES} - {*features}]
    kinds += [array.kind for array in features.values()]
    width = sum(kind.list_size * kind.value_type.bit_width // 8 for kind in kinds)
    return min(parquet_file.BATCH_ROWS, _FEATURE_BYTES // width) if kinds else parquet_file.BATCH_ROWS
