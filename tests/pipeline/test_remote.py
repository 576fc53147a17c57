"""Reading from afar: tried again when that helps, told at once when it does not, and in few requests."""

import fsspec
import pytest

from metadata.errors import CurateError
from pipeline import remote
from pipeline.remote import _LEAST_BYTES as LEAST
from pipeline.remote import RemoteFile, retried


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, wait_s: float) -> None:
        self.now += wait_s
        self.waits.append(wait_s)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(remote, "time", made)
    return made


class Refused(Exception):
    """An HTTP client's error: requests and httpx keep a response, aiohttp a status."""

    def __init__(self, status: int, keeps_response: bool) -> None:
        super().__init__(f"{status} Client Error\nwith a body that is long")
        if keeps_response:
            self.response = type("Response", (), {"status_code": status})
        else:
            self.status = status


def failing(times: int, error: Exception):
    """A function that raises so often and then gives how often it was called."""
    calls = []

    def function() -> int:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return len(calls)

    function.calls = calls
    return function


@pytest.mark.parametrize("error", [
    OSError("reset"), TimeoutError(), ConnectionRefusedError("refused"), Refused(503, True), Refused(429, False),
    Refused(500, False), Refused(408, True),
])  # fmt: skip
def test_what_may_pass_is_tried_again_with_growing_waits(clock, error):
    assert retried(failing(4, error), "s3://b/x") == 5
    assert clock.waits == [1, 2, 4, 8]


@pytest.mark.parametrize("error", [
    PermissionError("no"), ValueError("misuse"), Refused(401, True), Refused(403, False), Refused(404, True),
])  # fmt: skip
def test_a_refusal_is_told_at_once(clock, error):
    function = failing(1, error)
    with pytest.raises(CurateError, match=r"^s3://b/x: can't be read \(\w+.*\)\. Check the "):
        retried(function, "s3://b/x")
    assert len(function.calls) == 1
    assert not clock.waits


def test_what_is_not_there_is_told_at_once(clock):
    with pytest.raises(CurateError, match=r"^s3://b/x: there is no such file or folder\. Check the address \(hint\)\."):
        retried(failing(9, FileNotFoundError("x")), "s3://b/x", hint=" (hint)")
    assert not clock.waits


def test_fsspec_s_http_calls_a_server_that_is_down_a_missing_file(clock):
    import aiohttp

    error = FileNotFoundError("http://h/x")
    error.__cause__ = aiohttp.ServerDisconnectedError()
    assert retried(failing(2, error), "http://h/x") == 3
    error.__cause__ = FileNotFoundError("http://h/x")
    with pytest.raises(CurateError, match="no such file"):
        retried(failing(2, error), "http://h/x")


def test_our_own_errors_pass_through(clock):
    with pytest.raises(CurateError, match=r"^mine$"):
        retried(failing(9, CurateError("mine")), "s3://b/x")
    assert not clock.waits


@pytest.mark.parametrize("patience_s", [0, 15, 60])
def test_patience_ends_and_the_error_is_one_line(clock, patience_s):
    with pytest.raises(CurateError) as error:
        retried(failing(99, Refused(503, True)), "s3://b/x", patience_s)
    assert clock.now <= patience_s
    assert "503 Client Error)" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def counted(monkeypatch):
    """A file of 3 MB in memory, and the ranges that were read of it."""
    data = bytes(range(256)) * 12_000
    fs = fsspec.filesystem("memory")
    fs.pipe("/counted.bin", data)
    ranges = []
    fetch = RemoteFile._fetch
    monkeypatch.setattr(RemoteFile, "_fetch", lambda self, a, b: ranges.append((a, b)) or fetch(self, a, b))
    yield RemoteFile("memory:///counted.bin", None), data, ranges
    fs.rm("/counted.bin")


def test_a_large_read_is_one_range_of_just_that(counted):
    file, data, ranges = counted
    assert file.length == len(data)
    for start, end in [(1000, 1000 + LEAST), (5, len(data)), (5, len(data))]:
        file.seek(start)
        assert file.read(end - start) == data[start:end]
        assert file.tell() == end
        assert ranges.pop() == (start, end)
    assert not ranges


def test_small_reads_share_a_request(counted):
    file, data, ranges = counted
    for start, end in [(100, 200), (250, 400), (100, 100 + LEAST), (LEAST, LEAST + 100)]:
        file.seek(start)
        assert file.read(end - start) == data[start:end]
    assert ranges == [(100, 100 + LEAST)]
    file.seek(50)
    assert file.read(100) == data[50:150]
    assert len(ranges) == 2


def test_the_end_of_a_file(counted):
    file, data, ranges = counted
    assert file.seek(-8, 2) == len(data) - 8
    assert file.read(100) == data[-8:]
    assert file.read(5) == b""
    assert file.seek(-3, 1) == len(data) - 3
    assert file.read() == data[-3:]
    assert file.seek(len(data) + 10) == len(data) + 10
    assert file.read(5) == b""
    assert ranges == [(len(data) - 8, len(data))]


def test_few_blocks_are_held(counted):
    file, data, ranges = counted
    for start in [*range(0, 2_400_000, 600_000)] * 3:
        file.seek(start)
        assert file.read(9) == data[start : start + 9]
    assert len(ranges) == 4
    assert sum(len(block) for _, block in file.blocks) <= 4 * LEAST


def test_an_answer_that_is_too_short_is_asked_again(counted, clock):
    file, data, _ = counted
    whole = file.file

    class Short:
        tries = 0

        def seek(self, at: int) -> None:
            whole.seek(at)

        def read(self, size: int) -> bytes:
            Short.tries += 1
            return whole.read(size)[: None if Short.tries > 2 else -1]

    file.file = Short()
    assert file.read(100) == data[:100]
    assert clock.waits == [1, 2]
