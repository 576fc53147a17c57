"""A light web server for benchmarks: a folder's files from memory, HTTP/1.1 with keep-alive, one process, no framework.

    python light_server.py FOLDER [CERTIFICATE.pem]

Listens on a free port of 127.0.0.1, with TLS where a certificate with its key is given, and prints the port. About
0.1 ms of a core a request, so that on few cores it takes little from those who are measured.
"""

import asyncio
import pathlib
import ssl
import sys

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def answers(folder: str) -> dict[bytes, bytes]:
    """The whole answer by path."""
    found = {}
    for path in pathlib.Path(folder).iterdir():
        body = path.read_bytes()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
        found[b"/" + path.name.encode()] = head.encode() + body
    return found


class Connection(asyncio.Protocol):
    def __init__(self, found: dict[bytes, bytes]) -> None:
        self.found, self.waiting = found, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self.waiting = (self.waiting + data).split(b"\r\n\r\n")
        for request in requests:
            path = request.split(b" ", 2)[1].partition(b"?")[0]
            self.transport.write(self.found.get(path, _NOT_FOUND))
            if b"connection: close" in request.lower():
                self.transport.close()


async def serve(folder: str, certificate: str | None) -> None:
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    found = answers(folder)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(found), "127.0.0.1", 0, ssl=context, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
