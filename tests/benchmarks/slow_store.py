"""A folder's files as an object store gives them: by ranges, each request after a wait and at a bounded speed.

    python slow_store.py FOLDER MEGABYTES_A_SECOND WAIT_S

Listens on a free port of 127.0.0.1 and prints it. Amazon's guide to S3 counts with 85 to 90 MB/s a request.
"""

import http.server
import pathlib
import re
import sys
import time

_CHUNK = 1 << 19


class Store(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: str, bytes_s: float, wait_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.bytes_s, self.wait_s = pathlib.Path(folder), bytes_s, wait_s


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(self.server.wait_s)
        file = self.server.folder / pathlib.Path(self.path).name
        if not file.is_file():
            self.send_error(404)
            return
        size = file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2] or size - 1), size - 1)) if asked else (0, size - 1)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        begun, start = time.perf_counter(), first
        with file.open("rb") as opened:
            while start <= last:
                opened.seek(start)
                start += self.wfile.write(opened.read(min(_CHUNK, last + 1 - start)))
                time.sleep(max(0.0, (start - first) / self.server.bytes_s - (time.perf_counter() - begun)))


if __name__ == "__main__":
    store = Store(sys.argv[1], float(sys.argv[2]) * 1e6, float(sys.argv[3]))
    print(store.server_port, flush=True)
    store.serve_forever()
