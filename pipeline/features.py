"""The npz beside a pool's parquet file, wherever it is: one array and one range of rows at a time.

An npz is a zip of .npy files. Those of a pool are stored, not compressed, so that a range of an array's rows is a range
of the file's bytes: nothing else is read, and nothing is held but what was asked for.
"""

import contextlib
import hashlib
import io
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from metadata import npy
from metadata.errors import CurateError, printable, reason, unknown
from metadata.files import regular_size
from metadata.schema import FEATURES, known, type_of
from pipeline import storage
from pipeline.remote import RemoteFile

#: Read from the end of a file in one go; its directory is smaller.
_TAIL_BYTES = 1 << 16
#: Of a zip's header before a member, with the lengths of a name and an extra field that follow it.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
#: No .npy header that numpy reads is longer, but for the few bytes before it.
_HEADER_BYTES = 10_000 + 16
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
#: numpy parses a header with `ast`, which Python 3.11 now and then fails at in two threads at a time
#: ("SystemError: AST constructor recursion depth mismatch": the depth is counted for all threads together).
_PARSING = threading.Lock()


def npz_path(parquet: str) -> str:
    """Where the features of a parquet file's rows are: `<stem>.npz` beside `<stem>.parquet`."""
    return parquet.removesuffix(".parquet") + ".npz"


class Npz:
    """An open npz whose directory has been read.

    Attributes:
        mark: its size and a hash of its directory, which has the place, size and checksum of every array: it changes
            when the content does.
    """

    def __init__(self, path: str, file: BinaryIO | RemoteFile) -> None:
        """Raises CurateError if the file is not a whole npz."""
        self.path, self.file = path, file
        try:
            self.size = file.seek(0, io.SEEK_END)
            self.read(max(0, self.size - _TAIL_BYTES), min(self.size, _TAIL_BYTES))  # where it is remote: all at once
            entries = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
            raise CurateError(f"{path}: not a whole npz ({reason(error)}). Fetch it again.") from error
        self.members = {entry.filename.removesuffix(".npy"): entry for entry in entries}
        facts = [(e.filename, e.header_offset, e.compress_type, e.file_size, e.CRC) for e in entries]
        self.mark = f"{self.size}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"

    def read(self, start: int, length: int) -> bytes:
        """Raises OSError if the file ends before."""
        self.file.seek(start)
        data = self.file.read(length)
        if len(data) != length:
            raise OSError(f"it ends {length - len(data)} bytes too soon")
        return data

    def contents(self, entry: zipfile.ZipInfo, length: int) -> tuple[int, bytes]:
        """Where the contents of a member begin in the file, and at most `length` bytes of them.

        Raises:
            OSError: the file ends before the member does, or the member is not where the directory says.
        """
        head = self.read(entry.header_offset, _LOCAL_HEADER.size)
        magic, *lengths = _LOCAL_HEADER.unpack(head)
        start = entry.header_offset + len(head) + sum(lengths)
        if magic != b"PK\3\4" or start + entry.file_size > self.size:
            raise OSError("the zip's directory has another place for it")
        return start, self.read(start, min(length, entry.file_size))


class Features:
    """One array of an npz: the rows of a feature column."""

    def __init__(self, npz: Npz, name: str, column: str, rows: int) -> None:
        """Finds the array and checks that it fits.

        Args:
            name: of the array.
            column: the feature that it is.
            rows: that it must have, the parquet file's.

        Raises:
            CurateError: there is no such array, or it is compressed, of another type or shape, or cut off.
        """
        self.npz, self.name = npz, name
        if name not in npz.members:
            raise unknown("array", name, map(printable, npz.members), where=npz.path)
        entry = npz.members[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise self._error("is compressed", "only a part of it is read at a time", "Write it with numpy.savez.")
        try:
            start, header = npz.contents(entry, _HEADER_BYTES)
            shape, fortran, dtype, length = _parse(header)
        except (OSError, ValueError) as error:
            raise self._error(f"can't be read ({reason(error)})", "every row is needed", "Fetch it again.") from error
        about = known(column)
        assert about is not None  # or it would be no feature
        needed = np.dtype(f"f{about.type.value_type.bit_width // 8}")
        own = shape[1] if len(shape) == 2 and 0 < shape[1] < 1 << 31 else 0  # Arrow counts them with 31 bits
        dims = about.type.list_size if column in FEATURES else own
        if dtype != needed or fortran:
            raise self._error(f"is of type {dtype}{' in Fortran order' * fortran}", f"{needed} in C order is needed "
                              f"({column}: {about.about})", "Mend the file.")  # fmt: skip
        if shape != (rows, dims) or not dims:
            raise self._error(f"has the shape {shape}", f"({rows}, {dims or 'dims'}) is needed for the {rows} rows of "
                              f"its parquet file", "Fetch both files again.")  # fmt: skip
        self.row_bytes = dims * dtype.itemsize
        if entry.file_size != length + rows * self.row_bytes:
            raise self._error(f"has {entry.file_size - length} bytes", f"{rows * self.row_bytes} are needed for its "
                              f"shape {shape}", "Fetch it again.")  # fmt: skip
        self.kind = type_of(column, pa.list_(pa.float16(), dims))
        self.start, self.total, self.checksum = start + length, rows, entry.CRC
        self.seen, self.sum = 0, zlib.crc32(header[:length])

    def rows(self, first: int, end: int) -> pa.FixedSizeListArray:
        """The rows from `first` to the one before `end`, without nulls, by one read.

        Where all rows are read in order, the last read also compares them with the checksum that the zip has of them.

        Raises:
            CurateError: the file is cut off, or the checksum is another.
        """
        try:
            data = self.npz.read(self.start + first * self.row_bytes, (end - first) * self.row_bytes)
        except OSError as error:
            raise self._error(f"can't be read ({reason(error)})", "every row is needed", "Fetch it again.") from error
        if first == self.seen:
            self.seen, self.sum = end, zlib.crc32(data, self.sum)
            if end == self.total and self.sum != self.checksum:
                raise self._error("has another checksum than the zip says", "every row is needed", "Fetch it again.")
        values = pa.Array.from_buffers(self.kind.value_type, (end - first) * self.kind.list_size,
                                       [None, pa.py_buffer(data)])  # fmt: skip
        return pa.FixedSizeListArray.from_arrays(values, self.kind.list_size)

    def _error(self, given: str, needed: str, advice: str) -> CurateError:
        return CurateError(f"{self.npz.path}: array {self.name!r} {given}, but {needed}. {advice}")


def _parse(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran's order, type and length in bytes of what a .npy file begins with.

    Raises:
        ValueError: it is not such a header.
    """
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its format is {version}")
    try:
        with _PARSING:
            return *_HEADERS[version](file), file.tell()
    except npy.DAMAGES as error:
        raise ValueError(f"its header is not one: {reason(error)}") from error


@contextlib.contextmanager
def open_npz(path: str) -> Iterator[Npz]:
    """The npz, open: by plain reads where it is local, by range requests elsewhere.

    Raises:
        CurateError: not there, not readable, or not a whole npz.
    """
    with contextlib.closing(_open_local(path) if storage.is_local(path) else RemoteFile(path, None)) as file:
        yield Npz(path, file)


def _open_local(path: str) -> BinaryIO:
    try:
        regular_size(path, "a pool's files")
        return open(path, "rb")
    except OSError as error:
        raise CurateError(f"{path}: can't be read ({error.strerror}), but the features of the parquet file's rows are "
                          f"there. Fetch it too.") from error
