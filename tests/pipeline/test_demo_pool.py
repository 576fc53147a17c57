"""The demo pool: the same pairs every time, the junk it declares, and a server that misbehaves as it says."""

import collections
import concurrent.futures
import hashlib
import http.client
import os
import socket
import subprocess
import sys
import urllib.parse

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from metadata.errors import CurateError
from metadata.schema import COLUMNS
from metadata.uids import parse
from pipeline import statuses
from pipeline.pools import demo, demo_pairs, demo_words
from pipeline.pools.demo_painting import draw
from pipeline.pools.demo_server import HOSTS, LINKS, REFUSED_HOST, UNKNOWN_HOST
from pipeline.pools.demo_shapes import SHAPES
from pipeline.pools.demo_world import COLOURS, CONCEPTS

PAIRS = 1200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("demo") / "pool")
    assert demo.build(folder, PAIRS) == f"{folder}/metadata"
    return folder


@pytest.fixture(scope="module")
def table(folder):
    return pq.read_table(f"{folder}/metadata")


@pytest.fixture(scope="module")
def rows(table):
    return table.to_pylist()


@pytest.fixture
def resolve(folder):
    with demo.serve(folder) as triples:
        yield {host: (ip, port) for host, ip, port in triples}


def get(resolve, url, method="GET"):
    """Status, headers and body, without following redirects."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(*resolve[address.hostname], timeout=10)
    try:
        connection.request(method, address.path, headers={"Host": address.hostname})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def of(rows, link):
    found = [row for row in rows if row["truth"]["link"] == link]
    assert found, f"no {link} among the pairs of this test"
    return found


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def tree(folder):
    return {
        os.path.relpath(os.path.join(path, name), folder): sha256(open(os.path.join(path, name), "rb").read())
        for path, _, names in os.walk(folder)
        for name in names
    }


# The pairs.


def test_the_columns_are_commonpools_and_the_truth(table):
    expected = [(column.name, column.type) for column in COLUMNS.values()]
    assert [(field.name, field.type) for field in table.schema][:-1] == expected
    assert table.schema[-1].name == demo.TRUTH_COLUMN


def test_files_are_named_as_commonpools_and_hold_every_pair_once(folder, table):
    names = os.listdir(f"{folder}/metadata")
    assert len(names) == 2
    assert all(len(name) == len("0" * 32 + ".parquet") for name in names)
    assert table.num_rows == PAIRS
    assert len(np.unique(parse(table["uid"].combine_chunks()))) == PAIRS
    assert len(set(table["url"].to_pylist())) == PAIRS


def test_building_again_gives_the_same_bytes(tmp_path):
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    demo.build(first, 60)
    demo.build(second, 60)
    assert tree(first) == tree(second)


def test_a_pair_does_not_depend_on_the_others(folder, rows):
    by_uid = {row["uid"]: row for row in rows}
    for index in (1150, 7, 640):
        made = demo_pairs.pair(0, index)
        assert by_uid[made.row["uid"]]["sha256"] == made.row["sha256"]
        assert by_uid[made.row["uid"]]["text"] == made.row["text"]
        assert by_uid[made.row["uid"]][demo.TRUTH_COLUMN] == made.row[demo.TRUTH_COLUMN]


def test_a_smaller_pool_is_the_beginning_of_a_larger_one(tmp_path, rows):
    small = pq.read_table(demo.build(str(tmp_path / "small"), 40)).to_pylist()
    by_uid = {row["uid"]: row for row in rows}
    assert small == [by_uid[row["uid"]] for row in small]


def test_another_seed_gives_other_pairs(rows):
    assert demo_pairs.pair(1, 0).row["uid"] not in {row["uid"] for row in rows}


def test_the_pairs_are_those_of_this_version():
    """Fails when the world has changed: raise demo_pairs.VERSION then, so that nobody's cached pool is taken for it."""
    said = [demo_pairs.pair(0, index).row for index in range(60)]
    digest = sha256(repr([(row["uid"], row["url"], row["text"], row[demo.TRUTH_COLUMN]) for row in said]).encode())
    assert (demo_pairs.VERSION, digest[:16]) == (1, "3dfdbb76fe84585a")


@pytest.mark.parametrize("kinds", ["caption", "picture", "link"])
def test_the_shares_are_the_declared_ones(rows, kinds):
    declared = {"caption": demo_pairs.CAPTIONS, "picture": demo_pairs.PICTURES,
                "link": {kind: share for kind, (share, _) in LINKS.items()}}[kinds]  # fmt: skip
    assert sum(declared.values()) == pytest.approx(1)
    counts = collections.Counter(row["truth"][kinds] for row in rows)
    assert counts.keys() <= declared.keys()
    for kind, share in declared.items():
        slack = 4 * (share * (1 - share) * PAIRS) ** 0.5
        assert abs(counts[kind] - share * PAIRS) < slack, kind


def test_every_status_a_link_should_end_with_is_a_status():
    assert {status for _, status in LINKS.values()} <= statuses.STATUSES.keys()


def test_pictures_are_what_their_kind_says(rows):
    for row in rows:
        short, long = sorted((row["original_width"], row["original_height"]))
        kind = row["truth"]["picture"]
        assert short < 200 or kind != "tiny"
        assert short >= 200 or kind in ("tiny", "stretched")
        assert (long / short > 3) == (kind == "stretched")
        assert long <= 1000
    by_kind = collections.defaultdict(list)
    for row in rows:
        by_kind[row["truth"]["picture"]].append(row["sha256"])
    assert len(set(by_kind["placeholder"])) == 1 < len(by_kind["placeholder"])
    assert len(set(by_kind["duplicate"])) < 0.6 * len(by_kind["duplicate"])
    assert len(set(by_kind["usual"])) == len(by_kind["usual"])


def test_duplicates_share_their_captions_too(rows):
    stock = [(row["sha256"], row["text"]) for row in rows
             if row["truth"]["picture"] == "duplicate" and row["truth"]["caption"] == "plain"]  # fmt: skip
    assert len(set(stock)) == len({sha for sha, _ in stock}) < len(stock)


def test_captions_are_what_their_kind_says(rows):
    for row in rows:
        truth, text = row["truth"], row["text"]
        shown, said = truth["shows"], truth["says"]
        if truth["caption"] in ("plain", "detailed"):
            assert len(text.split()) > 2
            assert said.split()[1][:3] in text.lower()
        if truth["caption"] == "brief":
            assert 1 <= len(text.split()) <= 2
        if truth["caption"] == "foreign":
            assert any(noun in text for noun in demo_words.TRANSLATIONS[said.split()[1]].values())
        if truth["caption"] == "empty":
            assert not (text or "").strip()
        if truth["caption"] in ("empty", "boilerplate", "file_name"):
            assert said is None
        if truth["caption"] == "mismatched":
            assert shown is None or said.split()[1] != shown.split()[1]
        elif said is not None and shown is not None:
            assert said == shown
        assert (shown is None) == (truth["picture"] == "placeholder")
    assert any(row["text"] is None for row in rows)


def test_every_word_of_the_world_has_its_translations():
    assert demo_words.TRANSLATIONS.keys() == SHAPES.keys() | COLOURS.keys()


def test_scores_tell_most_of_the_junk_apart_but_not_all(rows):
    def scores(kind, column):
        return np.array([row[column] for row in rows if row["truth"]["caption"] == kind])

    l14, b32 = "clip_l14_similarity_score", "clip_b32_similarity_score"
    assert 0.03 < scores("plain", l14).mean() - scores("mismatched", l14).mean() < 0.12
    assert scores("mismatched", l14).max() > np.quantile(scores("plain", l14), 0.3)
    assert scores("plain", b32).std() > 1.1 * scores("plain", l14).std()
    assert all(-0.05 <= row[l14] <= 0.45 for row in rows)


def test_faces_lie_inside_the_picture_and_are_drawn_there(folder, rows, resolve):
    with_faces = [row for row in rows if row["face_bboxes"]]
    assert 0.02 * PAIRS < len(with_faces) < 0.08 * PAIRS
    for row in with_faces:
        ((x0, y0, x1, y1),) = row["face_bboxes"]
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
    row = next(row for row in with_faces if row["truth"]["link"] == "answers")
    image = cv2.imdecode(np.frombuffer(get(resolve, row["url"])[2], np.uint8), cv2.IMREAD_COLOR)
    (x0, y0, x1, y1) = np.array(row["face_bboxes"][0]) * (image.shape[1::-1] * 2)
    face = image[int(y0) : int(y1), int(x0) : int(x1)]
    assert cv2.Laplacian(face, cv2.CV_32F).std() > 5  # eyes and mouth, not a plain patch


# The world.


def test_concepts_have_a_long_tail_and_drawing_follows_from_the_generator():
    weights = np.array([concept.weight for concept in CONCEPTS])
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > 100 * weights[-1]
    assert len({concept.name for concept in CONCEPTS}) == len(CONCEPTS) == len(SHAPES) * len(COLOURS)
    image = draw(CONCEPTS[3], np.random.default_rng(5))
    draw(CONCEPTS[4], np.random.default_rng(6))
    assert np.array_equal(image, draw(CONCEPTS[3], np.random.default_rng(5)))
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert draw(CONCEPTS[3], np.random.default_rng(5), (64, 48)).shape == (48, 64, 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_thing_stays_inside_its_square_and_has_a_part_in_its_own_colour(shape):
    assert any(paint == "m" for paint, _ in SHAPES[shape])
    assert all(np.abs(points).max() <= 1.1 for _, points in SHAPES[shape])


# The server.


def test_what_answers_has_the_bytes_of_the_pool(rows, resolve):
    for link in ("answers", "slow", "opted_out"):
        for row in of(rows, link)[: 40 if link == "answers" else 3]:
            status, headers, body = get(resolve, row["url"])
            assert (status, sha256(body)) == (200, row["sha256"])
            assert headers["Content-Type"] == demo_pairs._CONTENT_TYPES[row["url"].rpartition(".")[2]]
            assert headers["X-Robots-Tag"] == ("noai" if link == "opted_out" else None)
            height, width = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR).shape[:2]
            assert (width, height) == (row["original_width"], row["original_height"])


def test_flaky_links_fail_once_each_time_the_server_runs(rows, folder):
    url = of(rows, "flaky")[0]["url"]
    for _ in range(2):
        with demo.serve(folder) as triples:
            resolve = {host: (ip, port) for host, ip, port in triples}
            assert [get(resolve, url)[0] for _ in range(3)] == [503, 200, 200]


@pytest.mark.parametrize(("link", "status"), [("not_found", 404), ("gone", 410), ("server_error", 500)])
def test_dead_links_give_their_status_every_time(rows, resolve, link, status):
    for row in of(rows, link)[:5]:
        assert [get(resolve, row["url"])[0] for _ in range(2)] == [status] * 2


def test_moved_links_lead_to_the_image_on_another_host(rows, resolve):
    for row in of(rows, "moved")[:5]:
        status, headers, _ = get(resolve, row["url"])
        assert status == 301
        status, _, body = get(resolve, headers["Location"])
        assert (status, sha256(body)) == (200, row["sha256"])


def test_changed_links_give_another_image(rows, resolve):
    for row in of(rows, "changed")[:5]:
        status, _, body = get(resolve, row["url"])
        assert status == 200
        assert sha256(body) != row["sha256"]
        assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR) is not None


def test_html_is_called_an_image(rows, resolve):
    _, headers, body = get(resolve, of(rows, "html")[0]["url"])
    assert headers["Content-Type"].startswith("image/")
    assert body.startswith(b"<!DOCTYPE html>")


def test_some_bodies_are_cut_short(rows, resolve):
    with pytest.raises(http.client.IncompleteRead) as cut:
        get(resolve, of(rows, "cut_short")[0]["url"])
    assert cut.value.partial


def test_refused_and_unknown_hosts_and_links_without_a_host(rows, resolve):
    for row in of(rows, "refused"):
        with pytest.raises(ConnectionRefusedError):
            get(resolve, row["url"])
    assert {urllib.parse.urlsplit(row["url"]).hostname for row in of(rows, "unknown_host")} == {UNKNOWN_HOST}
    assert resolve.keys() == {*HOSTS, REFUSED_HOST}
    assert all(row["url"].startswith("/") for row in of(rows, "bad_url"))


@pytest.mark.parametrize("target", [
    "/", "/../pool.json", "/images/../pool.json", "/images/%2e%2e/pool.json", "//etc/passwd", "/moved", "/moved/",
    "/images/" + "0" * 32 + ".jpg", "http://127.0.0.1/pool.json", "/%00", "/moved/moved/x", "*",
])  # fmt: skip
def test_only_the_pools_own_paths_are_served(resolve, target):
    with socket.create_connection(resolve[HOSTS[0]], timeout=10) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] in (b"404", b"400")
    assert b"demo_pool_version" not in answer


def test_an_image_that_did_not_move_is_not_found_there(rows, resolve):
    url = of(rows, "answers")[0]["url"]
    assert get(resolve, url.replace("/images/", "/moved/images/"))[0] == 404


def test_nothing_can_be_sent_to_the_server(rows, resolve):
    url = of(rows, "answers")[0]["url"]
    assert [get(resolve, url, method)[0] for method in ("POST", "PUT", "DELETE", "HEAD")] == [405, 405, 405, 200]


def test_connections_are_kept_and_many_are_served_at_once(rows, resolve):
    urls = [row["url"] for row in of(rows, "answers")[:200]]
    connection = http.client.HTTPConnection(*resolve[HOSTS[0]], timeout=10)
    for url in urls[:3]:
        connection.request("GET", urllib.parse.urlsplit(url).path)
        connection.getresponse().read()
        assert connection.sock is not None
    connection.close()
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert set(pool.map(lambda url: get(resolve, url)[0], urls)) == {200}


def test_nothing_is_served_after_the_block(rows, folder):
    with demo.serve(folder) as triples:
        kept = http.client.HTTPConnection("127.0.0.1", triples[0][2], timeout=10)
        path = urllib.parse.urlsplit(of(rows, "answers")[0]["url"]).path
        kept.request("GET", path)
        kept.getresponse().read()
    assert kept.sock.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", triples[0][2]), timeout=10)


def test_serving_what_is_no_pool_says_so(tmp_path):
    with pytest.raises(CurateError, match="there is no demo pool"), demo.serve(str(tmp_path)):
        pass


# The build.


def test_a_whole_pool_is_left_alone(tmp_path):
    folder = str(tmp_path / "pool")
    demo.build(folder, 5)
    before = os.stat(f"{folder}/pool.json").st_mtime_ns
    demo.build(folder, 5)
    assert os.stat(f"{folder}/pool.json").st_mtime_ns == before


@pytest.mark.parametrize("part", ["metadata", "images", "links"])
def test_a_pool_that_has_lost_a_file_is_made_again(tmp_path, part):
    folder = str(tmp_path / "pool")
    demo.build(folder, 5)
    whole = tree(folder)
    (name,) = os.listdir(f"{folder}/{part}")
    os.unlink(f"{folder}/{part}/{name}")
    demo.build(folder, 5)
    assert tree(folder) == whole


@pytest.mark.parametrize("damage", [b"", b'{"pool": {"dem', b"[]", b"\xff"])
def test_a_pool_whose_marker_is_damaged_is_made_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = demo.cached(5)
    whole = tree(folder)
    with open(f"{folder}/pool.json", "wb") as file:
        file.write(damage)
    demo.cached(5)
    assert tree(folder) == whole


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(seed, index):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(demo, "pair", full_disk)
        with pytest.raises(OSError, match="No space left"):
            demo.build(str(tmp_path / "pool"), 5)
    assert os.listdir(tmp_path) == []


def test_a_killed_build_is_not_taken_for_a_pool(tmp_path):
    folder = str(tmp_path / "pool")
    script = ("import os, sys; from pipeline.pools import demo; whole = demo.pair\n"
              "demo.pair = lambda seed, index: whole(seed, index) if index < 3 else os.kill(os.getpid(), 9)\n"
              "demo.build(sys.argv[1], 5)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", script, folder], check=False).returncode == -9
    assert not os.path.exists(folder)
    assert pq.read_table(demo.build(folder, 5)).num_rows == 5


def test_two_builds_at_once_end_with_one_pool(tmp_path):
    folder = str(tmp_path / "pool")
    script = "import sys; from pipeline.pools import demo; demo.build(sys.argv[1], 40)"
    both = [subprocess.Popen([sys.executable, "-c", script, folder]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert os.listdir(tmp_path) == ["pool"]
    demo.build(str(tmp_path / "other"), 40)
    assert tree(folder) == tree(str(tmp_path / "other"))


def test_the_loser_of_a_race_leaves_the_winners_pool(tmp_path, monkeypatch):
    folder, write = str(tmp_path / "pool"), demo.storage.write_json

    def overtaken(path, value):
        write(path, value)
        monkeypatch.setattr(demo.storage, "write_json", write)
        demo.build(folder, 5)

    monkeypatch.setattr(demo.storage, "write_json", overtaken)
    demo.build(folder, 5)
    assert os.listdir(tmp_path) == ["pool"]


@pytest.mark.parametrize("name", ["pool.json", "notes.txt"])
def test_other_things_in_the_folder_are_never_touched(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(CurateError, match=r"holds other files, but .* Name another folder"):
        demo.build(str(tmp_path), 5)
    assert os.listdir(tmp_path) == [name]


def test_a_pool_of_another_size_is_never_touched(tmp_path):
    demo.build(str(tmp_path), 5)
    with pytest.raises(CurateError, match=r"holds the demo pool .*'pairs': 5.*, but .*'pairs': 6"):
        demo.build(str(tmp_path), 6)


def test_no_pairs_are_refused(tmp_path):
    with pytest.raises(CurateError, match="0 pairs were asked for, but it needs at least 1"):
        demo.build(str(tmp_path), 0)


def test_the_cached_pool_is_below_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = demo.cached(5)
    assert folder.startswith(str(tmp_path / "clip-curate"))
    assert pq.read_table(f"{folder}/metadata").num_rows == 5
    assert demo.cached(6) != folder


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CurateError, match=r"the demo pool is made there. Make room, .* XDG_CACHE_HOME"):
        demo.cached(5)
