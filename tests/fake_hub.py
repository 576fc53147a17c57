"""A Hub on this machine that serves dataset repos as the real one does, misbehaves on demand and counts what it sends.

As a model repo each of them takes commits, as huggingface_hub makes them with HF_HUB_DISABLE_XET=1.

Repos are listed by pages, files are reached over a redirect and given by ranges. A test points HF_ENDPOINT of another
process at it: huggingface_hub reads that once, when it is imported. The files themselves, below /cdn, are also a plain
web server's, with a page of links for a folder.
"""

import base64
import collections
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator

REVISION = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(http.server.ThreadingHTTPServer):
    """Serves `repos`: name to {path: bytes}.

    Attributes:
        page: entries of a listing that come at once.
        gives_ranges: as most servers do; if not, every answer is the whole file.
        requests: (method, kind, path), in order; kinds are info, tree, resolve and file.
        sent: bytes of each file that were sent.
        misbehave: asked before every answer with the kind and the number of requests of that kind so far; gives a
            status to answer with, "drop" to hang up in the middle of the body, or None.
    """

    daemon_threads = True

    def __init__(self, repos: dict[str, dict[str, bytes]], page: int = 10) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.page, self.gives_ranges = repos, page, True
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, str, str]] = []
        self.sent: collections.Counter[str] = collections.Counter()
        self.blobs: dict[str, bytes] = {}  # that were sent to it and are in no repo yet, by sha256
        self.misbehave: Callable[[str, int], int | str | None] = lambda kind, number: None
        self.lock = threading.Lock()

    def kinds(self) -> collections.Counter[str]:
        """How many requests of each kind came."""
        return collections.Counter(kind for _, kind, _ in self.requests)

    def handle_error(self, request, client_address) -> None:
        """Clients that hang up are no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", path):
            self._answer("tree", lambda: self._tree(*match.groups(), urllib.parse.parse_qs(url.query)))
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._answer("info", lambda: self._info(*match.groups()))
        elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._answer("resolve", lambda: self._resolve(*match.groups()))
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.*)", path):
            self._answer("file", lambda: self._file(*match.groups()))
        else:
            self._send(404, b"{}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """A commit to a model repo, as huggingface_hub makes one without Xet."""
        body, path = self._body(), urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            self._answer("preupload", lambda: self._preupload(match[1], json.loads(body)))
        elif re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            self._answer("batch", lambda: self._batch(json.loads(body)))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._answer("commit", lambda: self._commit(match[1], [json.loads(line) for line in body.splitlines()]))
        else:
            self._send(404, b"{}")

    def do_PUT(self) -> None:
        data, oid = self._body(), self.path.removeprefix("/lfs/")
        self._answer("put", lambda: self.server.blobs.update({oid: data}))
        self._send(200, b"{}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _preupload(self, name: str, asked: dict) -> None:
        if self._repo(name, None) is None:
            return
        large = (".npy", ".pt", ".parquet")
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in asked["files"]
        ]
        self._send(200, json.dumps({"files": files}).encode())

    def _batch(self, asked: dict) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}", "header": {}}}}
            for each in asked["objects"]
        ]
        self._send(200, json.dumps({"transfer": "basic", "objects": objects}).encode())

    def _commit(self, name: str, lines: list[dict]) -> None:
        files = self.server.repos[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        done = {"commitUrl": f"{self.server.url}/{name}/commit/{REVISION}", "commitOid": REVISION, "success": True}
        self._send(200, json.dumps(done).encode())

    def _answer(self, kind: str, answer: Callable[[], None]) -> None:
        with self.server.lock:
            number = self.server.kinds()[kind]
            self.server.requests.append((self.command, kind, self.path))
        fault = self.server.misbehave(kind, number)
        if isinstance(fault, int):
            self._send(fault, json.dumps({"error": f"made to answer {fault}"}).encode())
            return
        self.dropping = fault == "drop"
        answer()

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if getattr(self, "dropping", False):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.wfile.write(body)

    def _repo(self, name: str, revision: str | None) -> dict[str, bytes] | None:
        files = self.server.repos.get(name)
        if files is None:
            self._send(404, b'{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
        elif revision not in (None, "main", REVISION):
            self._send(404, b'{"error": "Invalid rev id"}', X_Error_Code="RevisionNotFound")
            return None
        return files

    def _info(self, name: str, revision: str | None) -> None:
        if (files := self._repo(name, revision)) is not None:
            siblings = [{"rfilename": path} for path in files]
            self._send(200, json.dumps({"_id": "0", "id": name, "sha": REVISION, "siblings": siblings}).encode())

    def _tree(self, name: str, revision: str, folder: str | None, query: dict[str, list[str]]) -> None:
        if (files := self._repo(name, revision)) is None:
            return
        prefix = f"{folder}/" if folder else ""
        entries = list(_entries(files, prefix, query.get("recursive", ["false"])[0].lower() == "true"))
        if not entries:
            self._send(404, b'{"error": "Entry not found"}', X_Error_Code="EntryNotFound")
            return
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.server.page
        links = {}
        if end < len(entries):
            pairs = {key: values[0] for key, values in query.items()} | {"cursor": str(end)}
            base = self.server.url + urllib.parse.urlsplit(self.path).path
            links["Link"] = f'<{base}?{urllib.parse.urlencode(pairs)}>; rel="next"'
        self._send(200, json.dumps(entries[start:end]).encode(), **links)

    def _resolve(self, name: str, revision: str, path: str) -> None:
        if (files := self._repo(name, revision)) is None:
            return
        if path not in files:
            self._send(404, b'{"error": "Entry not found"}', X_Error_Code="EntryNotFound")
            return
        self._send(
            302,
            b"",
            Location=f"{self.server.url}/cdn/{name}/{urllib.parse.quote(path)}",
            X_Repo_Commit=REVISION,
            X_Linked_Size=str(len(files[path])),
            X_Linked_ETag=f'"{_oid(files[path])}"',
        )

    def _file(self, name: str, path: str) -> None:
        files = self.server.repos.get(name, {})
        if not path or path.endswith("/"):
            links = "".join(f'<a href="{file.removeprefix(path)}">x</a>' for file in files if file.startswith(path))
            self._send(200, links.encode(), Content_Type="text/html")
            return
        if path not in files:
            self._send(404, b"no such file")
            return
        data = files[path]
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        # huggingface_hub looks for these where a redirect stays on one host.
        code, headers = 200, {"X_Repo_Commit": REVISION, "ETag": f'"{_oid(data)}"'}
        if match and self.server.gives_ranges:
            start, end = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
            code, headers = 206, {"Content_Range": f"bytes {start}-{end}/{len(data)}"}
            data = data[start : end + 1]
        with self.server.lock:  # before it is sent: who has it may look at once
            self.server.sent[path] += len(data) if self.command == "GET" else 0
        self._send(code, data, **headers)


def _entries(files: dict[str, bytes], prefix: str, recursive: bool) -> Iterator[dict]:
    """What the Hub says of a repo's files and folders below `prefix`."""
    folders = set()
    for path, data in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = prefix + "/".join(parts[:depth])
            if folder not in folders:
                folders.add(folder)
                yield {"type": "directory", "oid": _oid(folder.encode())[:40], "size": 0, "path": folder}
        if recursive or len(parts) == 1:
            oid = _oid(data)
            lfs = {"oid": oid, "size": len(data), "pointerSize": 130}
            yield {"type": "file", "oid": oid[:40], "size": len(data), "path": path, "lfs": lfs}


def _oid(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub, answering."""
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
