"""Files of the user's, by path or address."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from metadata.errors import CurateError, reason


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
        if "://" in path:
            file.read = _told(path, needed)(file.read)  # a store may fail at any time
        yield file


def _open(path: str) -> Any:
    if "://" not in path:
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
