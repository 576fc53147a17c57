"""A store that fails while it is read is told by the file's address, in one sentence, whatever reads."""

import errno
import functools
import http.server
import os
import pathlib
import threading

import numpy as np
import pytest

from pipeline import planning, storage, subset
from pipeline.reshard import reshard


class Failing(http.server.SimpleHTTPRequestHandler):
    """A folder over http: its listing can be had, and of files the size, but of `gone` ones; no file itself."""

    def do_GET(self):
        if os.path.isfile(self.translate_path(self.path)):
            self.send_error(503)
        else:
            super().do_GET()

    def do_HEAD(self):
        if "gone" in self.path:
            self.send_error(503)
        else:
            super().do_HEAD()

    def log_message(self, *_):
        pass


@pytest.fixture
def store(tmp_path):
    """The address of `tmp_path` there."""
    serve = functools.partial(Failing, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def write_files(folder: pathlib.Path) -> None:
    (folder / "shards").mkdir()
    (folder / "shards/0.tar").write_bytes(bytes(10240))
    (folder / "work/plan").mkdir(parents=True)
    (folder / "work/plan/000000.parquet").write_bytes(bytes(100))
    for name in "subset.npy", "gone.npy":
        np.save(folder / name, np.array([(1, 2)], subset.UID_DTYPE))


READERS = {
    "subset.npy": lambda store, folder: storage.sha256(f"{store}/subset.npy"),
    "gone.npy": lambda store, folder: storage.sha256(f"{store}/gone.npy"),
    "work/plan/000000.parquet": lambda store, folder: planning.read_plan(
        planning.ShardPlan(0, (("000000", 0, 1),)), store
    ),
    "shards/0.tar": lambda store, folder: reshard(f"{store}/shards", f"{folder}/subset.npy", f"{folder}/out", 9, 1),
}


@pytest.mark.parametrize("name", READERS)
def test_a_store_that_fails_while_it_is_read(store, tmp_path, name):
    write_files(tmp_path)
    with pytest.raises(OSError, match=r"can't be reached \(503, message='Service Unavailable'") as error:
        READERS[name](store, tmp_path)
    assert error.value.filename == f"{store}/{name}"


def test_reshard_says_so_in_a_sentence(store, told, tmp_path):
    write_files(tmp_path)
    code, _, errors = told("reshard", "--shards", "shards", "--subset", f"{store}/subset.npy", "--out", "out")
    assert code == 1
    assert errors.startswith(f"curate: {store}/subset.npy: can't be reached (503, message='Service Unavailable', url=")


def test_json_has_every_name_that_a_file_can_have(tmp_path):
    value = {"ü": os.fsdecode(b"\xff.jpg")}
    storage.write_json(str(tmp_path / "x.json"), value)
    assert (tmp_path / "x.json").read_bytes() == '{\n  "ü": "\\udcff.jpg"\n}\n'.encode()
    assert storage.read_json(str(tmp_path / "x.json")) == value


def test_what_a_store_does_not_have_is_named_as_given(store):
    with pytest.raises(FileNotFoundError) as error:
        storage.open_read(f"{store}/none.npy")
    assert (error.value.strerror, error.value.filename) == ("No such file or directory", f"{store}/none.npy")


@pytest.mark.parametrize("place", ["{folder}", "file://{folder}", "{store}"])
def test_a_file_that_is_written_anew_has_another_etag(store, tmp_path, place):
    path = f"{place.format(folder=tmp_path, store=store)}/a.tar"
    (tmp_path / "a.tar").write_bytes(b"one")
    before = storage.etag(path)
    assert storage.etag(path) == before != ""
    (tmp_path / "a.tar").write_bytes(b"two")
    os.utime(tmp_path / "a.tar", (1, 1))  # of which http knows seconds
    assert storage.etag(path) not in (before, "")
    with pytest.raises(FileNotFoundError):
        storage.etag(f"{place.format(folder=tmp_path, store=store)}/none.tar")


@pytest.mark.parametrize("place", ["{}", "{}/", "{}/none/", "memory://{}/none/"])
def test_a_folder_is_no_place_for_a_file_and_that_is_known_before_it_is_made(tmp_path, place):
    path = place.format(tmp_path)
    with pytest.raises(IsADirectoryError) as error, storage.atomic(path):
        pytest.fail("the block ran")
    assert error.value.filename == path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["{}/a/b/c", "file://{}/a/b/c", "memory://{}/a/b/c"])
def test_a_files_folders_are_made(tmp_path, place):
    path = place.format(tmp_path)
    storage.write(path, b"whole")
    assert storage.read(path) == b"whole"


def failing_to_open(path):
    with storage.atomic(path) as file:
        file.write(b"x")
        pathlib.Path(".").read_bytes()


def writing_too_much(path):
    with storage.atomic(path):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write does, which has a descriptor only


def without_a_place(path):
    with storage.scratch(path):
        pytest.fail("the block ran")


@pytest.mark.parametrize(
    ("fails", "path", "named"),
    [
        (failing_to_open, "out/a.json", "."),
        (writing_too_much, "out/a.json", "out/a.json"),
        (writing_too_much, "/proc/a.json", "/proc/a.json"),  # where nobody can make a file
        (without_a_place, "../" * 20 + "proc", "../" * 20 + "proc"),
    ],
)
def test_what_fails_is_named_and_not_what_is_written_meanwhile(tmp_path, monkeypatch, fails, path, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=None) as error:
        fails(path)
    assert error.value.filename == named
    assert not [*tmp_path.glob("**/a.json*")]
