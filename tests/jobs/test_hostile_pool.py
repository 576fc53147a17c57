"""A pool of traps: each row ends as a status, nothing hangs the run, and what is forbidden is never contacted."""

import hashlib
import json
import struct
import zlib

import pyarrow.parquet as pq
import pytest
from hostile_server import HostileServer
from image_server import draw, serving


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG with a header that says so, and that data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


CAPTION = "\x1b[31mred\x1b[0m <script>alert(1)</script> \x00"
BODIES = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "html": b"<html>not an image</html>",
    "huge.png": png(30_000, 30_000, zlib.compress(bytes(30_001 * 1_000), 9)),
    "broken.png": png(300, 300, b"not zlib"),
    "fine.jpg": draw(2),
}


@pytest.fixture
def hostile():
    """The server that misbehaves, on an allowed host, and one that must never hear of us."""
    with HostileServer() as server, HostileServer() as forbidden:
        server.raw = [
            b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(b) + b
            for b in BODIES.values()
        ]
        yield server, forbidden


def test_every_trap_ends_as_a_status(curate, hostile, write_pool, tmp_path):
    server, forbidden = hostile
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(draw(3))
    raw = {name: server.url(f"/raw/{n}") for n, name in enumerate(BODIES)}
    expected = {
        f"file://{secret}": "bad_url",
        "data:image/png;base64,AAAA": "bad_url",
        "ftp://127.0.0.1/a.jpg": "bad_url",
        "": "bad_url",
        "http://[::1": "bad_url",
        forbidden.url("/a.jpg"): "forbidden_address",
        forbidden.url("/a.jpg").replace("127.0.0.1", "2130706433"): "forbidden_address",
        "http://169.254.169.254/latest/meta-data/": "forbidden_address",
        server.url(f"/redirect?to={forbidden.url('/a.jpg')}"): "forbidden_address",
        server.url(f"/redirect?to=file://{secret}"): "bad_url",
        server.url("/loop"): "too_many_redirects",
        server.url("/drip"): "timeout",
        server.url("/silent"): "timeout",
        server.url("/endless"): "too_large",
        server.url("/huge"): "too_large",
        server.url("/reset"): "connection_failed",
        server.url("/truncated"): "connection_failed",
        server.url("/status?code=404"): "http_4xx",
        server.url("/status?code=500"): "http_5xx",
        server.url("/robots?tag=noai"): "opted_out",
        raw["svg"]: "not_an_image",
        raw["html"]: "not_an_image",
        raw["huge.png"]: "too_many_pixels",
        raw["broken.png"]: "undecodable",
        raw["fine.jpg"]: "ok",
    }
    rows = [
        {"uid": hashlib.md5(url.encode()).hexdigest(), "url": url, "text": CAPTION,
         "original_width": 300, "original_height": 300, "clip_b32_similarity_score": 0.3,
         "clip_l14_similarity_score": 0.3, "face_bboxes": [], "sha256": None}
        for url in expected
    ]  # fmt: skip
    pool = write_pool(tmp_path / "pool", rows, files=1)
    done = curate(
        "--pool",
        pool,
        "--recipe",
        "no_filter",
        "--allow-host",
        server.address,
        "--timeout",
        "6",
        "--out",
        tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr
    ledger = pq.read_table(tmp_path / "run/shards/00000000.parquet").to_pylist()
    assert {row["url"]: row["status"] for row in ledger} == expected
    assert forbidden.connections == 0
    assert json.loads((tmp_path / "run/shards/sizes.json").read_text()) == {"00000000.tar": 1}
    assert "\x1b[31m" not in done.stdout + done.stderr


def test_an_image_that_changed_is_kept_out_unless_accepted(curate, write_pool, tmp_path):
    with serving() as server:
        rows = server.rows(6)
        rows[2]["sha256"] = "0" * 64
        pool = write_pool(tmp_path / "pool", rows)
        for more, samples in (((), {"changed": 1, "ok": 5}), (("--accept-changed-images",), {"ok": 6})):
            out = tmp_path / f"run{len(more)}"
            done = curate("--pool", pool, "--recipe", "no_filter", "--allow-host", server.host, "--out", out, *more)
            assert done.returncode == 0, done.stderr
            assert json.loads((out / "manifest.json").read_text())["samples"] == samples
