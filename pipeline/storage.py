"""Whole files or none, on any file system that fsspec reaches.

Paths are strings: a local path or an address such as s3://bucket/run. Nothing ever appears under a final name before it
is complete, so a killed run leaves no half-written file to be mistaken for a whole one.
"""

import concurrent.futures
import contextlib
import errno
import glob
import hashlib
import json
import os
import pathlib
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from metadata.errors import CurateError, reason
from metadata.files import is_local

if TYPE_CHECKING:  # imported where they are used: `curate reshard` is done before both would be
    import fsspec
    import numpy as np
    import pyarrow as pa

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 16

#: Stores without folders: to make one there makes a bucket, if there is none of that name.
_OBJECT_STORES = {"s3", "gs", "abfs"}

#: What fsspec's file systems call that by which a store knows a file's content: S3, http, Google, Azure, Hub, others.
_ETAGS = ("ETag", "etag", "blob_id", "Last-Modified", "mtime")


def join(base: str, *parts: str) -> str:
    """`base` with `parts` below it."""
    return posixpath.join(base, *parts)


def filesystem(path: str) -> "tuple[fsspec.AbstractFileSystem, str]":
    """The file system of `path` and what that file system calls it."""
    import fsspec

    if is_local(path):  # in which fsspec would read `::` as a chain of file systems
        fs = fsspec.filesystem("file")
        return fs, fs._strip_protocol(path)
    if path.startswith(("http://", "https://")):
        from metadata.web import Web

        return Web(), path
    return fsspec.core.url_to_fs(path)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Lets an OSError of the block, such as a full disk, name `path` where it has no name, or a temporary one.

    Those are `atomic`'s and `scratch`'s. What names another file is of that file, such as one that the block reads.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = (os.path.join(folder, f".{name}."), os.path.join(folder, name, tempfile.gettempprefix()))
    try:
        yield
    except OSError as error:
        own = error.filename is None or os.path.abspath(str(error.filename)).startswith(temporary)
        if error.errno is None or not own:
            raise
        raise type(error)(error.errno, os.strerror(error.errno), path) from error


@contextlib.contextmanager
def reaching(path: str) -> Iterator[None]:
    """Makes what a store's file system raises in the block an OSError that names `path`; each has types of its own.

    That there is no such file stays a FileNotFoundError.
    """
    try:
        yield
    except CurateError:
        raise
    except Exception as error:
        what = what_happened(error)
        if isinstance(what, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
        raise OSError(errno.EIO, f"can't be reached ({reason(what)})", path) from error


def what_happened(error: Exception) -> Exception:
    """The error itself, but for fsspec's http: failures to it are a FileNotFoundError or say nothing, and keep it."""
    cause = error.__cause__
    if not isinstance(error, (FileNotFoundError, TimeoutError)) or cause is None:
        return error
    import aiohttp

    return cause if isinstance(cause, (aiohttp.ClientError, TimeoutError)) and http_status(cause) != 404 else error


def http_status(error: BaseException) -> int | None:
    """The HTTP status in an error: requests and httpx keep the response, aiohttp the status."""
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    return status if isinstance(status, int) else None


@contextlib.contextmanager
def atomic(path: str) -> Iterator[BinaryIO]:
    """A binary file that appears as `path` when the block ends, and not at all when it raises."""
    if not posixpath.basename(path) or (is_local(path) and os.path.isdir(path)):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if is_local(path):
        folder, name = os.path.split(path)
        os.makedirs(folder or ".", exist_ok=True)
        temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:12]}.tmp")
        try:
            with naming(path), open(temporary, "wb") as file:
                yield file
                file.flush()
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return
    with reaching(path):
        fs, name = filesystem(path)
        if not _OBJECT_STORES & {*([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)}:
            fs.makedirs(posixpath.dirname(name), exist_ok=True)
        file = fs.open(name, "wb", autocommit=False)
        file.write = reaching(path)(file.write)  # what else the block raises is not the store's
    try:
        yield file
        with reaching(path):
            file.close()
    except BaseException:
        with contextlib.suppress(Exception):  # of a store that is gone, nothing can be taken back
            file.discard()
        raise
    with reaching(path):
        file.commit()


@contextlib.contextmanager
def scratch(folder: str) -> Iterator[BinaryIO]:
    """A file without a name, gone with the process whatever happens, where there must be room for `folder` anyway."""
    if is_local(folder):
        os.makedirs(folder, exist_ok=True)
    with naming(folder), tempfile.TemporaryFile(dir=folder if is_local(folder) else None) as file:
        yield file


def write(path: str, data: bytes | memoryview) -> None:
    """Writes the whole of `data` under `path`, or nothing."""
    with atomic(path) as file:
        file.write(data)


def write_json(path: str, value: Any) -> None:
    """Writes `value` as indented JSON; what of a file's name is no UTF-8 is escaped, as JSON has it."""
    write(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def write_parquet(path: str, table: "pa.Table", **options: Any) -> None:
    """Writes `table` as parquet; `options` are pyarrow.parquet.write_table's."""
    import pyarrow.parquet as pq

    with atomic(path) as file:
        pq.write_table(table, file, **options)


def read(path: str) -> bytes:
    """The whole file."""
    if is_local(path):
        with open(path, "rb") as file:
            return file.read()
    with reaching(path):
        fs, name = filesystem(path)
        return fs.cat_file(name)


def read_array(path: str, dtype: "np.dtype", count: int, offset: int) -> "np.ndarray":
    """`count` items that begin at the byte `offset` of the file; no other part of it is read."""
    import numpy as np

    end = offset + count * dtype.itemsize
    if is_local(path):
        found = np.fromfile(path, dtype, count, offset=offset)
    else:
        with reaching(path):
            fs, name = filesystem(path)
            found = np.frombuffer(fs.cat_file(name, start=offset, end=end) if count else b"", dtype)
    if len(found) != count:
        raise CurateError(f"{path}: it ends before byte {end}, but it was whole when it was written. "
                          f"Run the command again with --overwrite.")
    return found


def several_at_once(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What the function gives for each item, in order: a store takes a while to answer. The first error ends it."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(function, items)


def open_read(path: str, **options: Any) -> BinaryIO:
    """The file, opened for reading; `options` are those of its file system's."""
    with reaching(path):
        fs, name = filesystem(path)
        file = fs.open(name, "rb", **options)
    file.read = reaching(path)(file.read)  # a store may fail at any time
    return file


def read_json(path: str) -> Any:
    """The file's JSON."""
    return json.loads(read(path))


def exists(path: str) -> bool:
    """Whether there is a file or folder of that name."""
    if is_local(path):
        return os.path.exists(path)
    with reaching(path):
        fs, name = filesystem(path)
        return fs.exists(name)


def size(path: str) -> int:
    """Of the file, in bytes."""
    if is_local(path):
        return os.path.getsize(path)
    with reaching(path):
        fs, name = filesystem(path)
        return fs.size(name)


def etag(path: str) -> str:
    """A mark that changes when the file is written anew, though it may be of the same size: its store's; of this
    machine's the time of the last change, in ns. "" where a store has none."""
    if is_local(path):
        return str(os.stat(path).st_mtime_ns)
    with reaching(path):
        fs, name = filesystem(path)
        info = fs.info(name)
    return str(next((info[key] for key in _ETAGS if info.get(key)), ""))


def names(folder: str) -> list[str]:
    """Names of the files in `folder`, sorted, without temporary ones; none where there is no such folder."""
    if is_local(folder):
        try:
            found = os.listdir(folder)
        except FileNotFoundError:
            return []
    else:
        try:
            with reaching(folder):
                fs, name = filesystem(folder)
                found = [posixpath.basename(p.rstrip("/")) for p in fs.ls(name, detail=False, refresh=True)]
        except FileNotFoundError:
            return []
    return sorted(n for n in found if not n.startswith("."))


def walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk of a local folder, links followed but for those that lead back.

    Raises:
        OSError: one of the folders can't be read.
    """
    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not _is_loop(os.path.join(place, name))]
        yield place, folders, files


def _raise(error: OSError) -> None:
    raise error


def _is_loop(folder: str) -> bool:
    """Whether a folder is a link to one of those that led to it."""
    return os.path.islink(folder) and any(parent.samefile(folder) for parent in pathlib.Path(folder).parents)


def remove(path: str) -> None:
    """Removes the file or folder, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        if not is_local(path):
            with reaching(path):
                fs, name = filesystem(path)
                fs.rm(name, recursive=True)
        elif os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def sweep(folder: str) -> None:
    """Removes what `atomic` left in a local folder and below when its process was killed."""
    for path in glob.iglob(os.path.join(glob.escape(folder), "**", ".*.tmp"), recursive=True, include_hidden=True):
        os.unlink(path)


def sha256(path: str) -> str:
    """Of the file's bytes, 64 hexadecimal digits; read in blocks."""
    file: Any = open(path, "rb") if is_local(path) else open_read(path)  # noqa: SIM115
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest()
