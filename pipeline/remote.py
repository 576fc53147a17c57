"""Reading what is elsewhere: in byte ranges, and again when the network fails."""

import collections
import functools
import io
import itertools
import time
from collections.abc import Callable
from typing import TypeVar

import fsspec

from metadata.errors import CurateError, reason
from pipeline import storage

T = TypeVar("T")

#: For how long a read is tried again. The Hub's client itself tries for about 25 s each time, so this is three rounds.
PATIENCE_S = 60
#: For the first word from a store: a wrong address should not take a minute to be said.
FIRST_PATIENCE_S = 15

#: No request asks for less: it costs about as much as this many bytes, and what comes after is often wanted next.
_LEAST_BYTES = 1 << 19


def retried(function: Callable[[], T], where: str, patience_s: float = PATIENCE_S, hint: str = "") -> T:
    """What `function` returns, tried again with growing waits while the network fails.

    Args:
        where: the address, for the error.
        patience_s: no try starts later than this after the first.
        hint: added to the error's advice.

    Raises:
        CurateError: it failed to the end, or in a way that another try does not mend.
    """
    last_s = time.monotonic() + patience_s
    for wait_s in itertools.chain((1, 2, 4, 8), itertools.repeat(16)):
        try:
            return function()
        except CurateError:
            raise
        except Exception as error:  # network failures have as many types as there are file systems
            what = storage.what_happened(error)
            if isinstance(what, FileNotFoundError):
                raise CurateError(f"{where}: there is no such file or folder. Check the address{hint}.") from error
            if not _may_pass(what) or time.monotonic() + wait_s > last_s:
                raise CurateError(f"{where}: can't be read ({reason(what)}). Check the address, the network and your "
                                  f"credentials{hint}, then run the same command again.") from error
            time.sleep(wait_s)
    raise AssertionError("the waits never end")


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: not after a refusal (4xx but for 408, 425, 429) or a misuse."""
    if (status := storage.http_status(error)) is not None:
        return status in (408, 425, 429) or status >= 500
    return not isinstance(error, (PermissionError, ValueError, TypeError, ImportError, NotImplementedError))


@functools.cache
def _filesystem(root: str) -> fsspec.AbstractFileSystem:
    """One for all files of a process: the Hub's own cache is one a thread, and each asks for the whole repo again."""
    return storage.filesystem(root)[0]


class RemoteFile(io.RawIOBase):
    """A file that is elsewhere, for pyarrow: every read is at most one range request, tried again when it fails.

    Attributes:
        length: of the file, in bytes.
    """

    def __init__(self, address: str, size: int | None) -> None:
        """Opens the file at `address`; a size that is known saves a request."""
        self.where = address
        fs = _filesystem("/".join(address.split("/")[:3]))
        path = fs._strip_protocol(address)
        self.length = size if size is not None else retried(lambda: fs.size(path), address)
        if self.length is None:
            raise CurateError(f"{self.where}: the server does not say how large it is, but it is read from its end. "
                              f"Fetch the file and give its path.")
        # No read-ahead of fsspec's, which knows nothing of columns.
        self.file = retried(lambda: fs.open(path, "rb", cache_type="none", size=self.length), address)
        self.position = 0
        # A few blocks, because pyarrow's threads ask for the ranges of row groups only nearly in order.
        self.blocks: collections.deque[tuple[int, bytes]] = collections.deque(maxlen=4)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.length}[whence]
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        end = self.length if size is None or size < 0 else min(self.length, self.position + size)
        start, self.position = self.position, max(self.position, end)
        if end <= start:
            return b""
        for first, data in self.blocks:
            if first <= start and end <= first + len(data):
                return data[start - first : end - first]
        if end - start >= _LEAST_BYTES:
            return self._fetch(start, end)
        data = self._fetch(start, min(self.length, start + _LEAST_BYTES))
        self.blocks.append((start, data))
        return data[: end - start]

    def _fetch(self, start: int, end: int) -> bytes:
        def fetch() -> bytes:
            self.file.seek(start)
            try:
                data = self.file.read(end - start)
            except ValueError as error:
                raise CurateError(f"{self.where}: the server does not give parts of a file ({reason(error)}), but only "
                                  f"parts are read. Fetch the file and give its path.") from error
            if len(data) != end - start:
                raise OSError(f"{len(data)} bytes came of {end - start}")
            return data

        return retried(fetch, self.where)

