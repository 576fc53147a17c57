"""The hosts of the demo world: a local HTTP server that gives the pool's images, and misbehaves as a crawl's."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow.parquet as pq
from aiohttp import web

from metadata.errors import CurateError
from pipeline import storage

_NAMES = ("images", "photos", "cdn", "static", "blog", "shop", "news", "media", "gallery", "wiki", "forum", "art")
#: Hosts that answer; names under .invalid never resolve (RFC 2606), so nothing outside is ever asked.
HOSTS = tuple(f"{name}.demo.invalid" for name in _NAMES)
REFUSED_HOST = "closed.demo.invalid"
UNKNOWN_HOST = "gone.demo.invalid"

#: What becomes of a pair's link: its share of the pairs, and the status that a shard's ledger should end with for it.
LINKS = {
    "answers": (0.78, "ok"),
    "flaky": (0.015, "ok"),  # 503 the first time it is asked for while the server runs
    "slow": (0.01, "ok"),  # answers after a third of a second
    "moved": (0.02, "ok"),  # redirects to another host
    "not_found": (0.06, "http_4xx"),
    "gone": (0.01, "http_4xx"),
    "server_error": (0.01, "http_5xx"),
    "refused": (0.01, "connection_failed"),
    "cut_short": (0.005, "connection_failed"),  # the connection ends in the middle of the image
    "unknown_host": (0.02, "unknown_host"),
    "bad_url": (0.005, "bad_url"),  # a path without a host
    "html": (0.01, "changed"),  # a web page that is called image/jpeg; not_an_image where hashes are not checked
    "opted_out": (0.015, "opted_out"),
    "changed": (0.03, "changed"),  # another image than the one whose sha256 the pool holds
}
_ERRORS = {"not_found": 404, "gone": 410, "server_error": 500}
_MOVED_TO = "/moved"
_SLOW_S = 0.33


class Link(NamedTuple):
    """One row of a links file: what is sent for a path, as a kind of LINKS and a range of the images file beside it."""

    path: str
    kind: str
    offset: int
    length: int
    content_type: str


class _Images:
    """Answers requests from the tables and images that the build left; paths that are in no table are not found."""

    def __init__(self, folder: str, stack: contextlib.ExitStack) -> None:
        self._links: dict[str, tuple[Link, int]] = {}
        self._asked: set[str] = set()
        for name in storage.names(storage.join(folder, "links")):
            file = os.open(storage.join(folder, "images", name.removesuffix(".parquet") + ".bin"), os.O_RDONLY)
            stack.callback(os.close, file)
            columns = pq.read_table(storage.join(folder, "links", name)).select(Link._fields).to_pydict()
            self._links |= {link.path: (link, file) for link in map(Link, *columns.values())}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405)
        path = request.rel_url.raw_path
        moved = path.startswith(_MOVED_TO)
        link, file = self._links.get(path.removeprefix(_MOVED_TO), (None, 0))
        if link is None or (moved and link.kind != "moved"):
            return web.Response(status=404)
        if link.kind == "moved" and not moved:
            return web.Response(status=301, headers={"Location": f"http://{HOSTS[0]}{_MOVED_TO}{path}"})
        if link.kind == "flaky" and path not in self._asked:
            self._asked.add(path)
            return web.Response(status=503)
        if link.kind in _ERRORS:
            return web.Response(status=_ERRORS[link.kind])
        if link.kind == "slow":
            await asyncio.sleep(_SLOW_S)
        data = os.pread(file, link.length, link.offset)
        if link.kind == "cut_short":
            return await _cut_short(request, data)
        headers = {"X-Robots-Tag": "noai"} if link.kind == "opted_out" else None
        return web.Response(body=data, content_type=link.content_type, headers=headers)


async def _cut_short(request: web.BaseRequest, data: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(data))})
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


@contextlib.contextmanager
def serve(folder: str) -> Iterator[tuple[tuple[str, str, int], ...]]:
    """The pool's images on 127.0.0.1, at a free port, while the block runs.

    Args:
        folder: the one `demo.build` was given.

    Returns:
        (host, ip, port) of every host that resolves: a fetcher asks that address for that host. Nothing listens for
        REFUSED_HOST, and UNKNOWN_HOST is not among them.

    Raises:
        CurateError: there is no pool in `folder`.
    """
    if not storage.exists(storage.join(folder, "links")):
        raise CurateError(f"{folder}: there is no demo pool, but its images were to be served. Build it first.")
    with contextlib.ExitStack() as stack:
        # Bound and not listening: connections are refused, and nobody else can get the port meanwhile.
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))
        port = stack.enter_context(_running(_Images(folder, stack)))
        yield (*((host, "127.0.0.1", port) for host in HOSTS), (REFUSED_HOST, "127.0.0.1", closed.getsockname()[1]))


@contextlib.contextmanager
def _running(images: _Images) -> Iterator[int]:
    """Runs the server in a thread with an event loop of its own; gives the port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="demo images", daemon=True)
    thread.start()
    try:
        runner, port = asyncio.run_coroutine_threadsafe(_listen(images), loop).result()
        try:
            yield port
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _listen(images: _Images) -> tuple[web.ServerRunner, int]:
    runner = web.ServerRunner(web.Server(images.answer, access_log=None), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    return runner, int(runner.addresses[0][1])
