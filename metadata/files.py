"""Files of the user's, by path or address."""

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Any

from metadata.errors import CurateError, reason


def is_local(path: str) -> bool:
    """Whether `path` is on this machine's file system; else it is an address that fsspec knows."""
    return "://" not in path


def absolute(path: str) -> str:
    """The path as processes have it that are in another folder, such as a cluster's workers; an address as it is."""
    return os.path.abspath(path) if is_local(path) else path


def regular_size(path: str, kind: str, opened: int | None = None) -> int:
    """The size of a local file in bytes.

    Args:
        kind: of file, such as `a pool's files`.
        opened: its descriptor, where it was opened.

    Raises:
        CurateError: it is no regular file: a pipe would have its reader wait for a writer.
    """
    found = os.stat(path if opened is None else opened)
    if not stat.S_ISREG(found.st_mode):
        raise CurateError(f"{path}: a pipe, a socket or a device, but {kind} are regular ones. Take it away.")
    return found.st_size


@contextlib.contextmanager
def opened(path: str, needed: str) -> Iterator[Any]:
    """The file, opened for reading its bytes.

    Args:
        path: a local one, or an address that fsspec knows.
        needed: what an error says of it, such as `the entry list is needed`.

    Raises:
        CurateError: it can't be opened, or a store fails while it is read.
    """
    with _told(path, needed):
        file = _open(path)
    with file:
        if not is_local(path):
            file.read = _told(path, needed)(file.read)  # a store may fail at any time
        yield file


def _open(path: str) -> Any:
    if is_local(path):
        return open(path, "rb")
    if path.startswith(("http://", "https://")):
        from metadata.web import Web

        return Web().open(path, "rb")
    import fsspec

    return fsspec.open(path, "rb").open()


@contextlib.contextmanager
def _told(path: str, needed: str) -> Iterator[None]:
    """Makes a CurateError of what is raised: each store has types of its own, and so have an unknown kind of address
    and a package that is not installed."""
    try:
        yield
    except Exception as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else reason(error)
        raise CurateError(f"{path}: it can't be read ({why}), but {needed}. Look at the path.") from error
