"""A store that fails is told in one sentence, whichever list of the user's is read from it."""

import functools
import http.server
import pathlib
import threading

import pytest

from metadata import entries, removals
from metadata.errors import CurateError


class Failing(http.server.SimpleHTTPRequestHandler):
    """A folder over http, of whose files the size can be had, but nothing else."""

    def do_GET(self) -> None:
        self.send_error(503)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(tmp_path: pathlib.Path):
    """The address of `tmp_path` there."""
    serve = functools.partial(Failing, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


READERS = {
    "e.json": entries.read,
    "list.txt": lambda path: removals.read(path, "url"),
    "list.txt.gz": lambda path: removals.read(path, "url"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_store_that_fails_while_it_is_read(store, tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CurateError, match=rf"^{store}/{name}: it can't be read \(503, message='Service Unavailable'"):
        READERS[name](f"{store}/{name}")
