"""A web server on this machine that misbehaves on request, each misbehaviour under a path of its own.

    with HostileServer() as server:
        server.files["/cat.jpg"] = b"..."
        server.url("/drip")      # sends a byte now and then, for ever
        server.requests["/drip"] # how often it was asked for
        server.connections       # how often anybody connected, with or without a request

Paths: see `HostileServer.behaviours`; a query gives a behaviour its parameters.
"""

import asyncio
import collections
import contextlib
import gzip
import socket
import ssl
import struct
import threading
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import ClassVar

Behaviour = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request and the connection to answer it on."""

    def __init__(self, server: "HostileServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str):
        self.server, self.reader, self.writer = server, reader, writer
        line, *fields = head.split("\r\n")
        self.target = line.split(" ")[1]
        self.path, _, query = self.target.partition("?")
        self.query = dict(urllib.parse.parse_qsl(query))
        self.headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields if f)}

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes = b"", status: int = 200, headers: tuple[str, ...] = ()) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def hang_up(self) -> None:
        self.writer.close()

    async def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def status(x: Exchange) -> None:
    """/status?code=503&header=Retry-After:+1"""
    await x.answer(b"no picture", int(x.query["code"]), (x.query["header"],) if "header" in x.query else ())


async def flaky(x: Exchange) -> None:
    """/flaky?code=503&times=2: fails as often (code 0: resets), then answers with b"at last"."""
    if x.server.requests[x.path] > int(x.query["times"]):
        await x.answer(b"at last")
    elif x.query["code"] == "0":
        await x.reset()
    else:
        await x.answer(b"", int(x.query["code"]), (x.query["header"],) if "header" in x.query else ())


async def redirect(x: Exchange) -> None:
    """/redirect?to=ADDRESS"""
    await x.answer(b"", 302, (f"Location: {x.query['to']}",))


async def loop(x: Exchange) -> None:
    await x.answer(b"", 301, ("Location: /loop",))


async def robots(x: Exchange) -> None:
    """/robots?tag=noai;otherbot:+noindex: headers, separated by semicolons; the body never ends"""
    tags = "".join(f"X-Robots-Tag: {tag}\r\n" for tag in x.query["tag"].split(";"))
    await x.send(f"HTTP/1.1 200 OK\r\n{tags}Content-Length: 4\r\n\r\n".encode())
    if "ok" in x.query:
        await x.send(b"body")
    else:
        await asyncio.sleep(3600)


async def silent(x: Exchange) -> None:
    await asyncio.sleep(3600)


async def drip(x: Exchange) -> None:
    await x.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await x.send(b".")
        await asyncio.sleep(0.05)


async def drip_headers(x: Exchange) -> None:
    await x.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await x.send(b"X-More: of the same\r\n")
        await asyncio.sleep(0.05)


async def endless(x: Exchange) -> None:
    """No length, no end, as fast as it is taken; the connection's close would be the end."""
    await x.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        await x.send(bytes(65536))
        x.server.sent[x.path] += 65536


async def endless_chunks(x: Exchange) -> None:
    await x.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await x.send(b"10000\r\n" + bytes(65536) + b"\r\n")
        x.server.sent[x.path] += 65536


async def endless_headers(x: Exchange) -> None:
    await x.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await x.send(b"X-More: of the same\r\n" * 1000)


async def endless_continue(x: Exchange) -> None:
    while True:
        await x.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.01)


async def huge(x: Exchange) -> None:
    """Declares a terabyte, and sends nothing of it."""
    await x.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    await asyncio.sleep(3600)


async def gzip_bomb(x: Exchange) -> None:
    """/gzip-bomb: 20 MB of zeros in 20 kB, whatever codings the client said it takes"""
    await x.answer(gzip.compress(bytes(20_000_000)), headers=("Content-Encoding: gzip",))


async def truncated(x: Exchange) -> None:
    await x.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(500))
    await x.hang_up()


async def truncated_chunks(x: Exchange) -> None:
    await x.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3E8\r\n" + bytes(500))
    await x.hang_up()


async def until_close(x: Exchange) -> None:
    """An old-fashioned but whole answer."""
    await x.send(b"HTTP/1.0 200 OK\r\n\r\nwhole")
    await x.hang_up()


async def reset(x: Exchange) -> None:
    await x.reset()


async def reset_in_body(x: Exchange) -> None:
    await x.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(500))
    await x.reset()


async def hang_up(x: Exchange) -> None:
    await x.hang_up()


async def raw(x: Exchange) -> None:
    """/raw/3: just the bytes in `server.raw[3]`, then the connection's end"""
    await x.send(x.server.raw[int(x.path.split("/")[2])])
    await x.hang_up()


async def cookie(x: Exchange) -> None:
    """Sets a cookie, and answers with the one that it was sent."""
    await x.answer(x.headers.get("cookie", "none").encode(), headers=("Set-Cookie: visited=1",))


async def echo(x: Exchange) -> None:
    """/echo...: what was asked for, as it came, and the headers"""
    fields = "".join(f"\n{name}: {value}" for name, value in x.headers.items())
    await x.answer((x.target + fields).encode("latin-1"))


async def slow(x: Exchange) -> None:
    """/slow?s=0.5"""
    await asyncio.sleep(float(x.query["s"]))
    await x.answer(b"slow")


async def sized(x: Exchange) -> None:
    """/sized?bytes=1000[&chunked=1]"""
    body = bytes(int(x.query["bytes"]))
    if "chunked" in x.query:
        framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        await x.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed)
    else:
        await x.answer(body)


class HostileServer:
    """Listens from `with` on; `tls` makes it an https server."""

    #: /path -> what it does; paths with underscores are written with hyphens, and what follows a second slash is free.
    behaviours: ClassVar[dict[str, Behaviour]] = {
        f"/{b.__name__.replace('_', '-')}": b
        for b in (
            *(status, flaky, redirect, loop, robots, silent, drip, drip_headers, endless, endless_chunks),
            *(endless_headers, endless_continue, huge, gzip_bomb, truncated, truncated_chunks, until_close, reset),
            *(reset_in_body, hang_up, raw, cookie, echo, slow, sized),
        )
    }

    def __init__(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None):
        self.host, self.port, self.tls = host, port, tls  # port 0: any that is free
        self.files: dict[str, bytes] = {}
        self.raw: list[bytes] = []
        self.requests: collections.Counter[str] = collections.Counter()
        self.sent: collections.Counter[str] = collections.Counter()
        self.connections = 0
        self.busy: collections.Counter[str] = collections.Counter()  # requests under way, by host name
        self.busiest: collections.Counter[str] = collections.Counter()  # the most of them at a time; "*" for all
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hostile server", daemon=True)

    def url(self, path: str, host: str | None = None) -> str:
        return f"{'https' if self.tls else 'http'}://{host or self.host}:{self.port}{path}"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def __enter__(self) -> "HostileServer":
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listening = socket.create_server((self.host, self.port), family=family, backlog=1000)
        self.port = self._listening.getsockname()[1]
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connected, sock=self._listening, ssl=self.tls)
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                first = await reader.readexactly(1)
                if first == b"\x16":  # a TLS handshake, where plain HTTP is spoken: answered as web servers do
                    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                    break
                head = first + await reader.readuntil(b"\r\n\r\n")
                await self._answer(Exchange(self, reader, writer, head.decode("latin-1")))
        writer.close()

    async def _answer(self, exchange: Exchange) -> None:
        self.requests[exchange.path] += 1
        host = exchange.headers.get("host", "").partition(":")[0]
        self.busy[host] += 1
        self.busiest[host] = max(self.busiest[host], self.busy[host])
        self.busiest["*"] = max(self.busiest["*"], self.busy.total())
        try:
            if exchange.path in self.files:
                await exchange.answer(self.files[exchange.path])
            else:
                behaviour = self.behaviours.get("/" + exchange.path.split("/")[1])
                await (behaviour(exchange) if behaviour else exchange.answer(b"not here", 404))
        finally:
            self.busy[host] -= 1
