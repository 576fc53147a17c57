"""Removal lists: uids, sha256, urls or domains in a file, and which values are on one."""

import contextlib
import csv
import functools
import gzip
import hashlib
import io
import itertools
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from metadata import domains, files, lookup
from metadata.errors import CurateError, printable, reason, unknown
from metadata.keys import keys_of

#: What a list may have, and the column of a pool that it is compared with.
COLUMNS = {"uid": "uid", "sha256": "sha256", "url": "url", "domain": "url"}

_DIGITS = {"uid": 32, "sha256": 64}
_LINES_AT_ONCE = 1 << 17


class Removals(NamedTuple):
    """A list that has been read.

    Attributes:
        sha256: of the file's bytes.
        values: how many different ones it has.
        packed: what `Lookup` takes; 12 to 16 bytes a value.
    """

    sha256: str
    values: int
    packed: bytes


@functools.lru_cache(maxsize=4)
def read(path: str, by: str) -> Removals:
    """A list, in memory that grows by 8 bytes a line and some more while it is sorted.

    Args:
        path: a path or address of a parquet file (.parquet) with a column of the name `by` or with only one, of a CSV
            file (.csv) whose first line names a column `by`, or, by any other ending, of text with a value a line,
            where empty lines don't count. CSV and text are UTF-8 and may be compressed, as in .csv.gz. Endings may be
            in either case.
        by: of COLUMNS.

    Raises:
        CurateError: it can't be read, lacks the column, has no value, or has one that is null or not of its kind, as a
            line of text is that has more than a url; the line is named, or the row of a parquet file, from 0.
    """
    if by not in COLUMNS:
        raise unknown("kind of removal list", by, COLUMNS)
    try:
        sha256 = _sha256(path)
        found = [np.empty(0, np.uint64)]
        for values, first in _batches(path, by):
            found.append(_keys(_checked(values, by, path, first), by))
    except (pa.ArrowException, UnicodeDecodeError, csv.Error, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise CurateError(f"{path}: it is damaged ({reason(error)}), but every line of a removal list is needed. "
                          f"Mend it.") from error
    whole = np.sort(np.concatenate(found))
    if not len(whole):
        raise CurateError(f"{path}: it has no value, but a removal list has some. Look whether it is the right file.")
    whole = whole[np.append(True, whole[1:] != whole[:-1])]
    return Removals(sha256, len(whole), pack(whole))


def pack(keys: np.ndarray) -> bytes:
    """Distinct keys (uint64, sorted) as `Lookup` takes them: their number, they, and their index."""
    return b"".join(part.tobytes() for part in (np.array([len(keys)], np.uint64), keys, lookup.index(keys)))


class Lookup:
    """Which values are on a list.

    Args:
        packed: see Removals; it may be memory-mapped.
        by: as in `read`.
    """

    def __init__(self, packed: pa.Buffer | bytes, by: str) -> None:
        self.by = by
        count = int(np.frombuffer(packed, np.uint64, 1)[0])
        self.keys = np.frombuffer(packed, np.uint64, count, offset=8)
        self.first = np.frombuffer(packed, np.uint32, offset=8 + 8 * count)

    def find(self, values: pa.Array) -> np.ndarray:
        """Whether each value is listed: bool, shape (len(values),).

        Null is not, and neither is a URL without a host name where domains are. Values are compared by 64 bits of a
        hash, so one in 2**64 / lines is taken for a listed one.

        Args:
            values: string; uids, sha256, urls, or, where the list has domains, urls that may lie in one.
        """
        if self.by == "domain":
            values = domains.hosts(values)
        found = np.zeros(len(values), bool)
        there = pc.is_valid(values)
        values = values.filter(there)
        found[np.asarray(there)] = self._hosts(values) if self.by == "domain" else self._among(_keys(values, self.by))
        return found

    def _among(self, wanted: np.ndarray) -> np.ndarray:
        found = np.zeros(len(wanted), bool)
        found[lookup.find(wanted, self.keys, self.first)[0]] = True
        return found

    def _hosts(self, hosts: pa.Array) -> np.ndarray:
        """The same for hosts without nulls, of which many rows have the same."""
        encoded = hosts.dictionary_encode()
        names = [domains.canonical(host) for host in encoded.dictionary.to_pylist()]
        each = [domains.with_parents(name) if name else [] for name in names]
        flat = pa.array(itertools.chain.from_iterable(each), pa.string())
        owner = np.repeat(np.arange(len(each)), [len(own) for own in each])
        hit = np.zeros(len(each), bool)
        hit[owner[self._among(_keys(flat, self.by))]] = True
        return hit[encoded.indices.to_numpy()]


def _keys(values: pa.Array, by: str) -> np.ndarray:
    return keys_of(values, by)["high"].copy()


def _opened(path: str) -> contextlib.AbstractContextManager[Any]:
    return files.opened(path, "it is the removal list")


def _sha256(path: str) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kind(path: str) -> str:
    """The ending that says what the file is: .parquet or .csv, and all else is text."""
    return os.path.splitext(path.lower().removesuffix(".gz"))[1]


@contextlib.contextmanager
def _unpacked(path: str) -> Iterator[Any]:
    with _opened(path) as raw:
        yield gzip.GzipFile(fileobj=raw) if path.lower().endswith(".gz") else raw


def _batches(path: str, by: str) -> Iterator[tuple[pa.Array, int]]:
    """The file's values as strings, and the number of the first of each batch, from 0."""
    kind, number = _kind(path), 0
    with _unpacked(path) as file:
        if kind == ".parquet":
            batches = _from_parquet(file, by, path)
        else:
            batches = _from_csv(file, by, path) if kind == ".csv" else _from_text(file)
        for batch in batches:
            yield batch, number
            number += len(batch)


def _place(path: str, number: int) -> str:
    """Where in the file the value of that number is, as its readers count."""
    kind = _kind(path)
    if kind == ".parquet":
        return f"row {number}"
    return f"line {_csv_line(path, number) if kind == '.csv' else number + 1}"


def _csv_line(path: str, number: int) -> int:
    """The line on which that row of a CSV file ends. pyarrow counts neither empty lines nor those within quotes."""
    with _unpacked(path) as file:
        csv.field_size_limit(1 << 30)  # pyarrow reads longer ones than Python's 128 KiB
        reader = csv.reader(io.TextIOWrapper(file, "utf-8", newline=""))
        ends = (reader.line_num for row in reader if row)
        return next(itertools.islice(ends, number + 1, None))


def _from_parquet(file: BinaryIO, by: str, path: str) -> Iterator[pa.Array]:
    parquet = pq.ParquetFile(file)
    schema = parquet.schema_arrow
    name = by if by in schema.names else schema.names[0] if len(schema.names) == 1 else None
    if name is None or schema.names.count(name) > 1:
        given = printable(", ".join(schema.names)) or "(none)"
        raise CurateError(f"{path}: it has columns {given}, but one named {by} is needed, or only one. Rename it.")
    kind = schema.field(name).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise CurateError(f"{path}: its column {printable(name)} is {kind}, but strings are needed. Mend it.")
    for batch in parquet.iter_batches(_LINES_AT_ONCE, columns=[name], use_threads=False):
        values = batch.column(0).cast(pa.string())
        values.validate(full=True)
        yield values.fill_null("")  # which is no value of any kind; null is an empty line of text


def _from_csv(file: BinaryIO, by: str, path: str) -> Iterator[pa.Array]:
    options = pa_csv.ConvertOptions(include_columns=[by], column_types={by: pa.string()})
    try:
        reader = pa_csv.open_csv(file, convert_options=options)
    except pa.ArrowKeyError:
        raise CurateError(f"{path}: its first line names no column {by}, but a CSV file needs one. Name it there; a "
                          f"list without names is text, so .txt.") from None
    for batch in reader:
        yield batch.column(0)


def _from_text(file: BinaryIO) -> Iterator[pa.Array]:
    lines = io.TextIOWrapper(file, "utf-8-sig")
    while block := [line.rstrip("\n") for line in itertools.islice(lines, _LINES_AT_ONCE)]:
        yield pa.array([line or None for line in block], pa.string())


def _checked(values: pa.Array, by: str, path: str, first: int) -> pa.Array:
    """The values in the form that is compared, without nulls; raises for one that is not of its kind."""
    asked = values
    if by in _DIGITS:
        needed = f"{_DIGITS[by]} hexadecimal digits are needed"
        right = pc.match_substring_regex(values, f"^[0-9a-fA-F]{{{_DIGITS[by]}}}$")
    elif by == "domain":
        needed = "a domain such as example.com is needed"
        values = pa.array([value and domains.canonical(value) for value in values.to_pylist()], pa.string())
        right = pc.match_substring_regex(values, r"^[a-z0-9._-]+$").fill_null(False)
        right = pc.or_(right, pc.is_null(asked))
    elif _kind(path) in (".parquet", ".csv"):
        needed = f"a {by} is needed"
        right = pc.not_equal(values, "")
    else:  # a table or JSON would be a list of urls that no row has
        needed = (f"a line of text is a {by} alone, without quotes, brackets, tabs or white space around it, and a "
                  f"table is in .csv or .parquet")  # fmt: skip
        right = pc.invert(pc.match_substring_regex(values, r"""^["'\[{\s]|\t|\s$"""))
    wrong = pc.index(right, False).as_py()
    if wrong >= 0:
        raise CurateError(f"{path}: {_place(path, first + wrong)} is {printable(repr(asked[wrong].as_py()))}, but "
                          f"{needed}. Mend it, or take it out.")
    return values.drop_null()
