"""fsspec's http file system, which neither waits long for a silent server nor leaves out what it can't list."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

#: A server that says nothing for so long has failed, be it before its first word or between two; s3fs waits as long.
SILENCE_S = 15.0
#: For one request: fsspec's own bound, silent or not. It ends what comes byte by byte.
TOTAL_S = 300.0


class Web(HTTPFileSystem):
    """As fsspec's own, but a server that falls silent fails soon, not after five minutes.

    And a folder in a folder that can't be listed is an error; fsspec's walk takes it for an empty one.
    """

    def __init__(self, *args: Any, client_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        timeout = aiohttp.ClientTimeout(TOTAL_S, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        super().__init__(*args, client_kwargs={"timeout": timeout} | (client_kwargs or {}), **options)

    async def _walk(self, path: str, *args: Any, **options: Any) -> AsyncIterator[tuple[str, Any, Any]]:
        async for found in super()._walk(path, *args, **options | {"on_error": _unless_missing}):
            yield found


def _unless_missing(error: OSError) -> None:
    """A link to a folder that is not there leads nowhere, as in a browser."""
    if not isinstance(error, FileNotFoundError):
        raise error
