"""A real HTTP server on loopback with drawn images, some of which can be made to fail."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np


def draw(n: int, side: int = 64) -> bytes:
    """The JPEG numbered `n`."""
    image = np.random.default_rng(n).integers(0, 256, (side, side, 3), np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


class ImageServer(ThreadingHTTPServer):
    """Serves /0.jpg, /1.jpg, …; `failing` maps a number to the HTTP status it is answered with instead.

    Of those in `broken` half of the bytes are missing. `before` is called with each number before it is answered.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failing: dict[int, int] = {}
        self.broken: set[int] = set()
        self.before: Callable[[int], object] = lambda n: None
        self.requests: list[str] = []
        self.host = f"127.0.0.1:{self.server_port}"

    def image(self, n: int) -> bytes:
        """What is sent."""
        return draw(n)[: 900 if n in self.broken else None]

    def rows(self, n: int) -> list[dict]:
        """`n` pool rows whose images it has."""
        return [
            {
                "uid": hashlib.md5(str(i).encode()).hexdigest(), "url": f"http://{self.host}/{i}.jpg",
                "text": f"image number {i} 😀", "original_width": 64, "original_height": 64,
                "clip_b32_similarity_score": 0.3, "clip_l14_similarity_score": 0.3, "face_bboxes": [],
                "sha256": hashlib.sha256(self.image(i)).hexdigest(),
            }
            for i in range(n)
        ]  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ImageServer

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        n = int(self.path.strip("/").removesuffix(".jpg"))
        self.server.before(n)
        status = self.server.failing.get(n, 200)
        body = self.server.image(n) if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving() -> Iterator[ImageServer]:
    """The server, running while the block does."""
    with ImageServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
