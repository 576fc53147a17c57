"""From a plan to a tar and its ledger: every row accounted for, the same bytes every time, whole or not there."""

import collections
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import uuid

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metadata.errors import CurateError
from pipeline import shards, storage
from pipeline.fetch import Fetched
from pipeline.images import ImageProcessor
from pipeline.ledger import LEDGER_SCHEMA, read_ledger, shard_is_whole, write_sizes
from pipeline.options import FetchPolicy, ImageOptions
from pipeline.shards import retry_shard, write_shard
from pipeline.tars import sample_key

SAMPLES = 1000
FACE = [[0.2, 0.3, 0.4, 0.6]]


class Server(http.server.ThreadingHTTPServer):
    """Gives `files` by path, 404 for the rest, 503 for what is in `down`; counts requests."""

    request_queue_size = 128  # or a connection too many is tried again after a second

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.down, self.requests = {}, set(), collections.Counter()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def url(self, name: str) -> str:
        return f"http://{self.host}/{name}"

    def handle_error(self, *_):
        """A client that hangs up is no event."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, name = self.server, self.path[1:]
        server.requests[name] += 1
        body = server.files.get(name, b"")
        self.send_response(503 if name in server.down else 200 if name in server.files else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def drawing(seed: int, width=80, height=60) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(pixels, (width, height)))[1].tobytes()


def policy(server: Server) -> FetchPolicy:
    return FetchPolicy(allow_hosts=frozenset({server.host}), attempts=2, backoff_s=0.01)


def planned(urls, **columns) -> pa.Table:
    """A plan of these URLs with made-up uids and captions, unless others are given."""
    table = {
        "uid": [hashlib.md5(f"{i}".encode()).hexdigest() for i in range(len(urls))],
        "url": urls,
        "text": [f"caption {i}" for i in range(len(urls))],
    }
    return pa.table({name: pa.array(values, *_type(name)) for name, values in (table | columns).items()})


def _type(name: str) -> tuple:
    return (pa.list_(pa.list_(pa.float64())),) if name == "face_bboxes" else (pa.string(),)


@pytest.fixture
def mixed(server) -> pa.Table:
    """A plan of 12 rows, six of them good, and something of everything else."""
    for i in range(6):
        server.files[f"{i}.jpg"] = drawing(i)
    server.files |= {"page": b"<html>", "other.jpg": drawing(99)}
    names = ["0.jpg", "page", "1.jpg", "gone", "2.jpg", "3.jpg", "down", "other.jpg", "4.jpg", "5.jpg"]
    server.down.add("down")
    urls = [*map(server.url, names), None, "ftp://example.org/x.jpg"]
    hashes = [hashlib.sha256(server.files[name]).hexdigest() if name in server.files else None for name in names]
    hashes[7] = "0" * 64
    return planned(urls, sha256=[*hashes, None, None], face_bboxes=[FACE, [], *[None] * 10])


MIXED = {"ok": 6, "not_an_image": 1, "http_4xx": 1, "http_5xx": 1, "changed": 1, "bad_url": 2}


def files(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def write(plan, folder, fetch=None, images=ImageOptions(), shard=0, **options):  # noqa: B008
    return write_shard(shard, plan, str(folder), fetch or FetchPolicy(), images, SAMPLES, **options)


def members(path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def fake_fetch(bodies, order=None):
    """A `fetch_all` that gives these bodies (or outcomes), in this order."""

    def fetch_all(urls, policy):
        for index in order or range(len(urls)):
            body = bodies[index]
            yield index, body if isinstance(body, Fetched) else Fetched("ok", 1, body)

    return fetch_all


# One shard.


def test_every_row_is_in_the_ledger_and_every_good_one_in_the_tar(server, mixed, tmp_path):
    counts = write(mixed, tmp_path, policy(server), shard=7)
    assert counts == MIXED
    assert sorted(os.listdir(tmp_path)) == ["00000007.parquet", "00000007.tar"]
    ledger = read_ledger(str(tmp_path), 7)
    assert ledger.schema.equals(LEDGER_SCHEMA)
    lines = ledger.to_pylist()
    assert [line["uid"] for line in lines] == mixed["uid"].to_pylist()
    assert [line["url"] for line in lines] == mixed["url"].to_pylist()
    assert collections.Counter(line["status"] for line in lines) == counts
    found = members(tmp_path / "00000007.tar")
    good = [line["key"] for line in lines if line["status"] == "ok"]
    assert list(found) == [f"{key}.{part}" for key in good for part in ("jpg", "txt", "json")]


def test_the_ledger_says_what_arrived(server, mixed, tmp_path):
    write(mixed, tmp_path, policy(server))
    lines = read_ledger(str(tmp_path), 0).to_pylist()
    page, good, gone, down, nothing = (lines[i] for i in (1, 2, 3, 6, 10))
    assert (page["status"], page["bytes"], page["sha256"]) == ("not_an_image", 6, hashlib.sha256(b"<html>").hexdigest())
    assert (good["attempts"], good["bytes"], good["width"], good["height"]) == (1, len(server.files["1.jpg"]), 80, 60)
    assert (gone["bytes"], gone["sha256"], gone["width"]) == (0, None, None)
    assert (down["status"], down["attempts"]) == ("http_5xx", 2)
    assert (nothing["status"], nothing["attempts"], nothing["url"]) == ("bad_url", 0, None)


def test_the_members_are_img2datasets(server, mixed, tmp_path):
    write(mixed, tmp_path, policy(server), shard=3)
    found, body = members(tmp_path / "00000003.tar"), server.files["0.jpg"]
    picture = ImageProcessor(ImageOptions())(body, None, FACE)
    assert found["00000003000.jpg"] == picture.jpeg
    assert found["00000003000.txt"] == b"caption 0"
    assert list(json.loads(found["00000003000.json"]).items()) == [
        ("uid", mixed["uid"][0].as_py()),
        ("face_bboxes", FACE),
        ("caption", "caption 0"),
        ("url", server.url("0.jpg")),
        ("key", "00000003000"),
        ("status", "success"),
        ("error_message", None),
        ("width", 80),
        ("height", 60),
        ("original_width", 80),
        ("original_height", 60),
        ("sha256", hashlib.sha256(body).hexdigest()),
    ]


def test_webdataset_reads_it(server, mixed, tmp_path):
    import webdataset

    write(mixed, tmp_path, policy(server))
    path = str(tmp_path / "00000000.tar")
    read = list(webdataset.WebDataset(path, shardshuffle=False).decode("pil").to_tuple("jpg;png", "txt", "json"))
    assert [caption for _, caption, _ in read] == [f"caption {i}" for i in (0, 2, 4, 5, 8, 9)]
    assert [image.size for image, _, _ in read] == [(80, 60)] * 6
    keys = [sample["__key__"] for sample in webdataset.WebDataset(path, shardshuffle=False)]
    assert len(set(keys)) == 6
    assert not any("." in key for key in keys)


@pytest.mark.parametrize("samples", [1, 7, 10, 1000, 1024, 10_000])
def test_keys_are_img2datasets(samples):
    import math

    from img2dataset.downloader import compute_key

    for shard, index in ((0, 0), (12, samples - 1), (99_999_999, samples - 1)):
        assert sample_key(shard, index, samples) == compute_key(index, shard, math.ceil(math.log10(samples)), 8)


def test_a_uid_may_be_planned_twice(server, tmp_path):
    server.files["a.jpg"] = drawing(1)
    counts = write(planned([server.url("a.jpg")] * 2, uid=["ab" * 16] * 2), tmp_path, policy(server))
    assert counts == {"ok": 2}
    assert len(members(tmp_path / "00000000.tar")) == 6


def test_the_same_bytes_make_the_same_files_in_whatever_order_they_come(tmp_path, monkeypatch):
    bodies = [drawing(i) for i in range(20)]
    bodies[3] = Fetched("timeout", 2, b"")
    plan, made = planned(["http://x"] * 20), []
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(20).tolist() if seed else None
        monkeypatch.setattr(shards, "fetch_all", fake_fetch(bodies, order))
        write(plan, tmp_path / str(seed))
        made.append(files(tmp_path / str(seed)))
    assert all(one == made[0] for one in made)
    header = made[0]["00000000.tar"][:512]
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").mtime == 0


def test_progress_is_told_after_every_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "fetch_all", fake_fetch([drawing(0), b"", drawing(1)]))
    told = []
    write(planned(["http://x"] * 3), tmp_path, on_progress=lambda counts: told.append(dict(counts)))
    assert told == [{"ok": 1}, {"ok": 1, "not_an_image": 1}, {"ok": 2, "not_an_image": 1}]


def test_sizes_are_what_open_clip_sums_up(tmp_path):
    write_sizes(str(tmp_path), {"00000001.tar": 0, "00000000.tar": 6})
    sizes = json.loads((tmp_path / "sizes.json").read_text())
    assert list(sizes.items()) == [("00000000.tar", 6), ("00000001.tar", 0)]


# Hostile plans.


def test_captions_of_all_kinds_arrive_as_utf8(tmp_path, monkeypatch):
    raw = ["plain", None, "", "naïve 犬 🐕", "\x00\x1b[31m\n\t", "q" * 100_000]
    texts = [None if text is None else text.encode() for text in raw] + [b"lone \xed\xa0\x80 surrogate", b"\xff\xfe"]
    plan = planned(["http://x"] * 8).set_column(2, "text", pa.array(texts, pa.binary()).view(pa.string()))
    monkeypatch.setattr(shards, "fetch_all", fake_fetch([drawing(i) for i in range(8)]))
    assert write(plan, tmp_path) == {"ok": 8}
    found = members(tmp_path / "00000000.tar")
    captions = [data.decode() for name, data in found.items() if name.endswith(".txt")]
    assert captions == [text or "" for text in raw] + ["lone \ufffd\ufffd\ufffd surrogate", "\ufffd\ufffd"]
    metas = [json.loads(data) for name, data in found.items() if name.endswith(".json")]
    assert [meta["caption"] for meta in metas] == [*raw, *captions[6:]]
    assert all(data.isascii() for name, data in found.items() if name.endswith(".json"))


def test_a_url_that_is_not_utf8_is_a_line_in_a_readable_ledger(tmp_path):
    plan = planned(["x"]).set_column(1, "url", pa.array([b"http://\xff/\xed\xa0\x80"], pa.binary()).view(pa.string()))
    assert write(plan, tmp_path).total() == 1
    assert read_ledger(str(tmp_path), 0)["url"].to_pylist() == ["http://\ufffd/\ufffd\ufffd\ufffd"]


def test_malformed_boxes_keep_a_sample_out_or_are_null_in_its_json(tmp_path, monkeypatch):
    plan = planned(["http://x"] * 2, face_bboxes=[[[float("nan"), 0.0, 0.1, float("inf")]], [[0.1, None]]])
    monkeypatch.setattr(shards, "fetch_all", fake_fetch([drawing(0), drawing(1)]))
    assert write(plan, tmp_path / "blurred") == {"undecodable": 2}
    assert write(plan, tmp_path / "left", images=ImageOptions(blur_faces=False)) == {"ok": 2}
    found = members(tmp_path / "left" / "00000000.tar")
    assert [json.loads(data)["face_bboxes"] for name, data in found.items() if "json" in name] == [None, None]


@pytest.mark.parametrize("rows", [0, 3])
def test_a_shard_without_samples_is_a_tar_without_members(rows, tmp_path, monkeypatch):
    import webdataset

    monkeypatch.setattr(shards, "fetch_all", fake_fetch([Fetched("timeout", 1, b"")] * rows))
    assert write(planned(["http://x"] * rows), tmp_path).total() == rows
    assert (tmp_path / "00000000.tar").read_bytes() == bytes(1024)
    assert members(tmp_path / "00000000.tar") == {}
    assert list(webdataset.WebDataset(str(tmp_path / "00000000.tar"), shardshuffle=False, empty_check=False)) == []
    assert shard_is_whole(str(tmp_path), 0, deep=True)
    assert read_ledger(str(tmp_path), 0).schema.equals(LEDGER_SCHEMA)


# What goes wrong.


def test_a_defect_fails_the_shard_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "fetch_all", fake_fetch([drawing(i) for i in range(3)]))
    monkeypatch.setattr(ImageProcessor, "__call__", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(planned(["http://x"] * 3), tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("order", "words"), [([0, 1], "gave 2 of 3 rows"), ([0, 1, 1], "gave row 1 twice")])
def test_a_row_that_is_lost_or_doubled_fails_the_shard(order, words, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "fetch_all", fake_fetch([drawing(i) for i in range(3)], order))
    with pytest.raises(RuntimeError, match=words):
        write(planned(["http://x"] * 3), tmp_path)
    assert os.listdir(tmp_path) == []


def test_more_rows_than_keys_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1001 rows, but there are keys for 1000"):
        write(planned(["http://x"] * 1001), tmp_path)


def test_a_failed_shard_ends_its_fetching(server, tmp_path):
    server.files |= {f"{i}": drawing(i) for i in range(50)}

    def stop(counts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(planned([server.url(f"{i}") for i in range(50)]), tmp_path, policy(server), on_progress=stop)
    assert "fetch" not in {thread.name for thread in threading.enumerate()}
    assert os.listdir(tmp_path) == []


@pytest.fixture
def made(server, mixed, tmp_path):
    """A folder with the mixed plan's shard."""
    write(mixed, tmp_path, policy(server))
    return tmp_path


def test_a_shard_is_whole_with_its_ledger_and_the_tar_it_describes(made):
    folder, tar, ledger = str(made), made / "00000000.tar", made / "00000000.parquet"
    assert shard_is_whole(folder, 0)
    assert shard_is_whole(folder, 0, deep=True)
    assert not shard_is_whole(folder, 1)
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    assert shard_is_whole(folder, 0)
    assert not shard_is_whole(folder, 0, deep=True)
    tar.write_bytes(data[:-1])
    assert not shard_is_whole(folder, 0)
    tar.unlink()
    assert not shard_is_whole(folder, 0)
    pq.write_table(pa.table({"uid": ["x"]}), ledger)
    assert not shard_is_whole(folder, 0)
    ledger.write_bytes(b"PAR1")
    assert not shard_is_whole(folder, 0)


def die(*_, **__):
    raise KeyboardInterrupt


def test_an_old_ledger_never_vouches_for_a_new_tar(server, mixed, made, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_parquet", die)
        with pytest.raises(KeyboardInterrupt):
            write(mixed, made, policy(server))
    assert not shard_is_whole(str(made), 0)


# Trying again.


def retry(plan, folder, server, *statuses):
    return retry_shard(0, plan, str(folder), policy(server), ImageOptions(), SAMPLES, frozenset(statuses))


def recover(server):
    """Mends everything that can be mended."""
    server.down.clear()
    server.files |= {"down": drawing(50), "gone": drawing(51)}


def lucky(server, plan, folder):
    recover(server)
    write(plan, folder, policy(server))
    return (folder / "00000000.tar").read_bytes()


def test_a_retry_fetches_what_failed_so_and_gives_the_tar_of_a_luckier_run(server, mixed, made, tmp_path_factory):
    old = read_ledger(str(made), 0)
    server.requests.clear()
    recover(server)
    before, after = retry(mixed, made, server, "http_5xx", "http_4xx")
    assert (before, after) == (MIXED, {"ok": 8, "not_an_image": 1, "changed": 1, "bad_url": 2})
    assert server.requests == {"down": 1, "gone": 1}
    assert (made / "00000000.tar").read_bytes() == lucky(server, mixed, tmp_path_factory.mktemp("lucky"))
    assert shard_is_whole(str(made), 0, deep=True)
    assert sorted(os.listdir(made)) == ["00000000.parquet", "00000000.tar"]
    new = read_ledger(str(made), 0)
    assert [new["attempts"][i].as_py() for i in (3, 6)] == [2, 3]
    untouched = pa.array([i not in (3, 6) for i in range(12)])
    assert new.filter(untouched).equals(old.filter(untouched))


def test_a_retry_that_gains_nothing_leaves_the_tar_and_counts_the_attempts(server, mixed, made):
    tar = os.stat(made / "00000000.tar")
    before, after = retry(mixed, made, server, "http_4xx", "http_5xx")
    assert before == after == MIXED
    assert os.stat(made / "00000000.tar") == tar
    assert [read_ledger(str(made), 0)["attempts"][i].as_py() for i in (3, 6)] == [2, 4]
    assert shard_is_whole(str(made), 0, deep=True)


def test_a_retry_may_change_the_status(server, mixed, made):
    server.files["gone"] = b"<html>"
    _, after = retry(mixed, made, server, "http_4xx")
    assert after == {"ok": 6, "not_an_image": 2, "http_5xx": 1, "changed": 1, "bad_url": 2}
    assert read_ledger(str(made), 0)["bytes"][3].as_py() == 6


@pytest.mark.parametrize("statuses", [(), ("timeout",), ("ok",)])
def test_a_retry_of_nothing_changes_nothing(statuses, server, mixed, made):
    files_before = files(made)
    server.requests.clear()
    assert retry(mixed, made, server, *statuses) == (MIXED, MIXED)
    assert not server.requests
    assert files(made) == files_before


def test_a_retry_with_another_plan_is_refused(server, mixed, made):
    with pytest.raises(CurateError, match=r"00000000.parquet: its uids are not the plan's, .* Remove the ledger"):
        retry(mixed.slice(1), made, server, "http_4xx")


@pytest.mark.parametrize("retried", [True, False], ids=["by a retry", "by a run"])
def test_death_between_tar_and_ledger_is_seen_and_mended(retried, server, mixed, made, monkeypatch, tmp_path_factory):
    recover(server)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_parquet", die)
        with pytest.raises(KeyboardInterrupt):
            retry(mixed, made, server, "http_4xx")
    assert not shard_is_whole(str(made), 0)
    after = retry(mixed, made, server, "http_5xx")[1] if retried else write(mixed, made, policy(server))
    assert after["ok"] == 8
    assert shard_is_whole(str(made), 0, deep=True)
    assert (made / "00000000.tar").read_bytes() == lucky(server, mixed, tmp_path_factory.mktemp("lucky"))


def test_a_retry_does_not_carry_damage_on(server, mixed, made):
    good = files(made)
    data = bytearray(good["00000000.tar"])
    data[700] ^= 1
    (made / "00000000.tar").write_bytes(data)
    retry(mixed, made, server, "http_4xx")
    assert files(made) == good


def test_a_retry_of_a_shard_that_is_not_there_makes_it(server, mixed, tmp_path):
    assert retry(mixed, tmp_path, server, "timeout") == ({}, MIXED)


def test_shards_can_be_remote(server, mixed, made):
    folder = f"memory://{uuid.uuid4().hex}"
    write(mixed, folder, policy(server))
    assert shard_is_whole(folder, 0, deep=True)
    assert {name: storage.read(storage.join(folder, name)) for name in storage.names(folder)} == files(made)
    recover(server)
    assert retry(mixed, folder, server, "http_5xx", "http_4xx")[1]["ok"] == 8
    with tarfile.open(fileobj=io.BytesIO(storage.read(storage.join(folder, "00000000.tar")))) as tar:
        assert len(tar.getmembers()) == 24


# The whole of img2dataset.


@pytest.mark.slow
def test_a_shard_holds_what_a_run_of_img2dataset_gives(server, tmp_path):
    server.files |= {f"{i}.jpg": drawing(i, 400 + 40 * i, 300 + i) for i in range(12)}
    plan = planned(
        [server.url(f"{i}.jpg") for i in range(12)], face_bboxes=[FACE if i % 3 else [] for i in range(12)]
    )
    write_shard(0, plan, str(tmp_path / "ours"), policy(server), ImageOptions(), 12)
    pq.write_table(plan, tmp_path / "pool.parquet")
    options = {
        "url_list": str(tmp_path / "pool.parquet"),
        "output_folder": str(tmp_path / "theirs"),
        "processes_count": 1,
        "thread_count": 4,
        "image_size": 512,
        "resize_mode": "keep_ratio_largest",
        "resize_only_if_bigger": True,
        "encode_format": "jpg",
        "output_format": "webdataset",
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "text",
        "bbox_col": "face_bboxes",
        "save_additional_columns": ["uid"],
        "number_sample_per_shard": 12,
        "oom_shard_count": 8,
    }
    code = f"import img2dataset\nif __name__ == '__main__': img2dataset.download(**{options!r})"
    script = tmp_path / "run.py"
    script.write_text(code)
    env = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    subprocess.run([sys.executable, str(script)], check=True, env=env, capture_output=True, timeout=120)
    ours, theirs = members(tmp_path / "ours" / "00000000.tar"), members(tmp_path / "theirs" / "00000000.tar")
    assert len(theirs) == 36
    assert ours.keys() == theirs.keys()
    for name, data in theirs.items():
        if not name.endswith(".json"):
            assert ours[name] == data
            continue
        meta = json.loads(data)
        del meta["exif"]
        assert list(json.loads(ours[name]).items()) == list(meta.items())
