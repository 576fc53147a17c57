"""Pool files found wherever they are, read exactly, and refused in a clear sentence where something is wrong."""

import contextlib
import os
import pathlib
import random
import socket
import threading
import time
import types
from collections.abc import Iterator

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_hub import FakeHub, serving

from metadata import uids
from metadata.errors import CurateError
from metadata.files import opened
from metadata.schema import COLUMNS
from metadata.web import Web
from pipeline import parquet_file, pieces, remote, storage
from pipeline.parquet_file import cut
from pipeline.pieces import Piece, batches, inspect
from pipeline.pools import Pool, open_pool

ALL = tuple(COLUMNS)
FEW = ("uid", "text", "clip_l14_similarity_score")


def pool_at(address: object, **columns: str) -> Pool:
    return Pool(str(address), str(address), columns)


def found_names(address: object, limit: int | None = None) -> list[str]:
    return [os.path.basename(path) for path, _ in pieces.find_files(pool_at(address), limit)]


def read(pool: Pool, columns=FEW) -> pa.Table:
    """All rows, as the workers get them."""
    found = inspect(pool, columns)
    table = pa.Table.from_batches([batch for piece in found.pieces for batch in batches(piece, columns)])
    assert table.num_rows == found.rows
    return table


def content(table: pa.Table) -> str:
    """All values, to be compared; a NaN is not equal to itself."""
    return repr(table.sort_by("uid").to_pydict() if "uid" in table.schema.names else table.to_pydict())


def expected(rows: list[dict], columns=FEW) -> pa.Table:
    schema = pa.schema([(name, COLUMNS[name].type) for name in columns])
    return pa.Table.from_pylist(rows, schema)


def write(path: pathlib.Path, table: pa.Table | dict, **options) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, **options)
    return path


def refused(address: object, columns=FEW, **mapping: str) -> str:
    """The sentence with which reading the pool ends."""
    with pytest.raises(CurateError) as error:
        read(pool_at(address, **mapping), columns)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# Where pools are.


def test_every_way_to_name_a_local_pool_gives_its_rows(toy_pool, toy_rows, monkeypatch):
    monkeypatch.chdir(toy_pool.parent)
    whole = content(expected(toy_rows))
    for address in (
        toy_pool,
        f"{toy_pool}/",
        "./pool",
        "pool/",
        f"file://{toy_pool}",
        f"{toy_pool}/*.parquet",
        "p*l/",
        "./**/",
    ):
        assert content(read(pool_at(address))) == whole, address


def test_one_file_may_have_any_name(tmp_path, toy_rows, write_pool):
    file = next(write_pool(tmp_path / "p", toy_rows, files=1).iterdir())
    odd = file.rename(tmp_path / "p" / "rows [1]*.data")
    assert read(pool_at(odd)).equals(expected(toy_rows))
    with pytest.raises(
        CurateError, match=r"/p: there is no parquet file, but a pool is one, a folder or a glob of them\. "
    ):
        found_names(tmp_path / "p")


def test_two_colons_are_part_of_a_name(tmp_path, toy_rows, write_pool):
    pool = write_pool(tmp_path / "a::b", toy_rows)
    assert content(read(pool_at(pool))) == content(expected(toy_rows))
    assert f"{tmp_path}/c::d can't be read (No such file or directory)" in refused(tmp_path / "c::d")


def test_a_name_that_is_no_utf_8_is_refused(toy_pool):
    folder = toy_pool / os.fsdecode(b"nu\xff")
    folder.mkdir()
    next(toy_pool.glob("*.parquet")).rename(folder / "a.parquet")
    assert refused(toy_pool) == (
        f"--pool {toy_pool}: {toy_pool}/nu\\udcff/a.parquet is no UTF-8, but files are opened and recorded by names "
        f"that are. Rename it."
    )


def test_folders_are_searched_to_the_bottom_and_in_order(tmp_path):
    wanted = ["a/1.parquet", "a/b/c.parquet/part-0.parquet", "a/b/d.parquet", "part_10/x.parquet", "part_9/x.parquet"]
    left = [".hidden.parquet", "_temporary/0/e.parquet", "a/.1.parquet.0123.tmp", "a/_x.parquet", ".cache/f.parquet",
            "a/1.npz", "a/1.parquet.crc", "a/PARQUET"]  # fmt: skip
    for name in random.Random(0).sample([*wanted, *left], len(wanted) + len(left)):
        write(tmp_path / "_pools" / name, {"x": [1]})
    root = tmp_path / "_pools"  # a name that the user gives is never passed over
    paths = [path for path, _ in pieces.find_files(pool_at(root), None)]
    assert [os.path.relpath(path, root) for path in paths] == wanted
    assert found_names(root, 2) == ["1.parquet", "part-0.parquet"]
    assert found_names(f"{root}/part_*") == ["x.parquet", "x.parquet"]
    assert found_names(f"{root}/**/d.parquet") == ["d.parquet"]
    assert found_names(f"{root}/a/*") == ["1.parquet", "part-0.parquet", "d.parquet"]


@pytest.mark.parametrize("root", ["{tmp_path}/pool", "memory://pool"])
def test_runs_in_the_folder_are_passed_over_unless_they_are_named(tmp_path, root):
    root = root.format(tmp_path=tmp_path)
    data = write(tmp_path / "x.parquet", {"x": [1]}).read_bytes()
    for name in ("a", "runs/mine/kept/b", "runs/mine/shards/c", "scored/metadata/d", "theirs/e"):
        storage.write(f"{root}/{name}.parquet", data)
    for name, text in (("", '{"command": "curate"}'), ("runs/mine/", '{"command": "curate"}'),
                       ("scored/", '{"command": "score"}'), ("theirs/", "[]")):  # fmt: skip
        storage.write(f"{root}/{name}run.json", text.encode())
    try:
        assert found_names(root) == found_names(f"{root}/") == ["a.parquet", "d.parquet", "e.parquet"]
        assert found_names(f"{root}/runs/mine/kept/") == ["b.parquet"]
        assert found_names(f"{root}/runs/*/kept/*") == ["b.parquet"]
        assert "there is no parquet file" in refused(f"{root}/runs/")
    finally:
        storage.remove(root)


def test_links_are_followed_and_loops_are_not(tmp_path):
    write(tmp_path / "blobs" / "0a", {"x": [1]})
    write(tmp_path / "more" / "b.parquet", {"x": [1]})
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.parquet").symlink_to("../blobs/0a")
    (tmp_path / "pool" / "sub").symlink_to("../more")
    (tmp_path / "more" / "up").symlink_to("../pool")
    (tmp_path / "more" / "here").symlink_to(".")
    (tmp_path / "pool" / "self").symlink_to("../pool")
    files = pieces.find_files(pool_at(tmp_path / "pool"), None)
    assert [os.path.relpath(path, tmp_path / "pool") for path, _ in files] == ["a.parquet", "sub/b.parquet"]
    assert files[0][1] == (tmp_path / "blobs" / "0a").stat().st_size


def test_a_link_to_nothing_is_named_and_not_left_out(tmp_path, toy_pool):
    (toy_pool / "gone.parquet").symlink_to("nowhere")
    assert "pool/gone.parquet can't be read (No such file or directory). Check the address" in refused(toy_pool)


def test_a_pipe_is_told_and_not_waited_for(toy_pool):
    os.mkfifo(toy_pool / "pipe.parquet")
    why = f"{toy_pool}/pipe.parquet: a pipe, a socket or a device, but a pool's files are regular ones. Take it away"
    for address in "", "/*.parquet", "/pipe.parquet":
        assert refused(f"{toy_pool}{address}").startswith(why)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(toy_pool):
    file = min(toy_pool.iterdir())
    file.chmod(0)
    assert f"{file}: can't be read (Permission denied)" in refused(toy_pool)
    (toy_pool / "sub").mkdir(mode=0)
    assert "pool/sub can't be read (Permission denied)" in refused(toy_pool)


def test_a_folder_that_may_not_be_listed_is_named(toy_pool, monkeypatch):
    (toy_pool / "sub").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "pool/sub can't be read (Permission denied)" in refused(toy_pool)


@pytest.mark.parametrize(("address", "told"), [
    ("nowhere", "--pool {}: {} can't be read (No such file or directory). "),
    ("nowhere/*.parquet", "--pool {}: {} can't be read (No such file or directory). "),
    ("empty", "--pool {}: there is no parquet file, but a pool is one, a folder or a glob of them. "),
    ("text.parquet/below", "--pool {}: {} can't be read (Not a directory). "),
])  # fmt: skip
def test_nothing_there(tmp_path, address, told):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("x")
    path = str(tmp_path / address)
    assert refused(path).startswith(told.format(path, path))


def test_unknown_kinds_of_address():
    assert refused("abc://x/y").startswith(
        "--pool abc://x/y: Protocol not known: abc. Give a local path or an address "
    )


def test_a_pool_in_memory(toy_pool, toy_rows):
    fs = fsspec.filesystem("memory")
    for number, file in enumerate(sorted(toy_pool.iterdir())):
        fs.pipe(f"/pool/{number}/x.parquet", file.read_bytes())
        fs.pipe(f"/pool/{number}/_y.parquet", b"not for us")
    try:
        assert [path for path, _ in pieces.find_files(pool_at("memory://pool"), 2)] == [
            "memory:///pool/0/x.parquet", "memory:///pool/1/x.parquet"]  # fmt: skip
        local = content(read(pool_at(toy_pool), ALL))
        assert content(read(pool_at("memory://pool"), ALL)) == local
        assert content(read(pool_at("memory://pool/*/x.parquet"), ALL)) == local
        assert "memory://nowhere: there is no such file or folder" in refused("memory://nowhere")
    finally:
        fs.rm("/pool", recursive=True)


@pytest.fixture
def web(toy_pool, monkeypatch):
    """The toy pool's files on a web server, and nobody really waits for it."""
    waited = [0.0]
    monkeypatch.setattr(remote, "time", types.SimpleNamespace(monotonic=lambda: sum(waited), sleep=waited.append))
    files = {f"pool/{file.name}": file.read_bytes() for file in toy_pool.iterdir()}
    with serving(FakeHub({"files/on-the-web": files})) as hub:
        hub.address = f"{hub.url}/cdn/files/on-the-web/pool/"
        yield hub


def test_a_pool_on_the_web(web, toy_pool):
    assert content(read(pool_at(web.address), ALL)) == content(read(pool_at(toy_pool), ALL))
    first = min(file.name for file in toy_pool.iterdir())
    one = read(pool_at(f"{web.address}{first}?download=true"), ALL)
    assert content(one) == content(read(pool_at(toy_pool / first), ALL))


def test_a_web_server_that_fails_now_and_then(web, toy_pool):
    faults = {4: 503, 6: "drop", 9: 429, 10: "drop"}
    web.misbehave = lambda kind, number: faults.get(number)
    assert read(pool_at(web.address)).equals(read(pool_at(toy_pool)))
    assert web.kinds()["file"] > 10


def test_a_web_server_without_ranges(web, tmp_path):
    web.gives_ranges = False
    table = {"url": [random.Random(i).randbytes(99).hex() for i in range(2000)], "text": [""] * 2000}
    web.repos["files/on-the-web"]["large.parquet"] = write(tmp_path / "large.parquet", table).read_bytes()
    message = refused(f"{web.url}/cdn/files/on-the-web/large.parquet", ["text"])
    assert "the server does not give parts of a file" in message
    assert message.endswith("Fetch the file and give its path.")


def test_nothing_on_the_web(web):
    assert "nowhere.parquet: there is no such file or folder" in refused(f"{web.address}nowhere.parquet")
    web.misbehave = lambda kind, number: 503
    assert "can't be read (503, message=" in refused(f"{web.address}some.parquet")
    assert "can't be read (Cannot connect to host 127.0.0.1:9" in refused("http://127.0.0.1:9/x.parquet")


@pytest.fixture
def hasty(monkeypatch):
    """Nobody waits long for a silent server; no file system that does is left to other tests."""
    monkeypatch.setattr("metadata.web.SILENCE_S", 0.2)

    def forget() -> None:
        remote._filesystem.cache_clear()
        Web.clear_instance_cache()

    forget()
    yield
    forget()


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The address of a server that accepts and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_web_server_that_says_nothing(hasty, web):
    began = time.monotonic()
    with silent() as address:
        for name in "x.parquet", "pool/*.parquet":
            why = "can't be read (Timeout on reading data from socket). Check the address, the network"
            assert f"--pool {address}/{name}: {why}" in refused(f"{address}/{name}")
        with pytest.raises(OSError, match="Timeout on reading data from socket"):
            storage.read(f"{address}/x")
        with pytest.raises(CurateError, match="can't be read"), opened(f"{address}/x.json", "it is needed"):
            pass
    assert time.monotonic() - began < 20


@contextlib.contextmanager
def falling_silent(hub: FakeHub, end: str) -> Iterator[None]:
    """The hub says nothing more once it was asked for what ends so."""
    over = threading.Event()
    hub.misbehave = lambda kind, number: over.wait() and None if hub.requests[-1][2].endswith(end) else None
    try:
        yield
    finally:
        over.set()


def test_a_web_server_that_falls_silent(hasty, web):
    first = min(web.repos["files/on-the-web"])
    with falling_silent(web, first):
        message = refused(f"{web.address}*.parquet")
    assert f"{first}: can't be read (Timeout on reading data from socket)" in message


@pytest.mark.parametrize("place", ["", "*/*.parquet"])
def test_a_folder_on_the_web_that_can_not_be_listed_is_told_though_others_can(hasty, web, place):
    web.repos["files/on-the-web"]["pool/sub/"] = b""
    with falling_silent(web, "/sub"):
        message = refused(f"{web.address}{place}")
    assert f"--pool {web.address}{place}: can't be read (Timeout on reading data from socket)" in message


def test_only_the_columns_asked_for_are_fetched(tmp_path, web):
    """A file with row groups of a thousand rows: still few requests, and few bytes."""
    rng = random.Random(0)
    n = 60_000
    table = {"uid": [rng.randbytes(16).hex() for _ in range(n)], "url": [rng.randbytes(60).hex() for _ in range(n)],
             "text": [rng.randbytes(60).hex() for _ in range(n)],
             "clip_l14_similarity_score": np.linspace(0, 1, n, dtype=np.float32)}  # fmt: skip
    file = write(tmp_path / "big.parquet", table, row_group_size=20_000)
    data = file.read_bytes()
    web.repos["files/on-the-web"]["big.parquet"] = data
    pool = pool_at(f"{web.url}/cdn/files/on-the-web/big.parquet")
    found = inspect(pool, ["clip_l14_similarity_score"])
    web.sent.clear()
    web.requests.clear()
    scores = pa.Table.from_batches(batches(found.pieces[0], ["clip_l14_similarity_score"]))
    assert scores.column(0).to_pylist() == table["clip_l14_similarity_score"].tolist()
    assert len(web.requests) == 1 + 3  # the footer, and a range a row group: they are far from each other
    assert web.sent["big.parquet"] < len(data) / 10


# What rows are.


def test_all_columns_as_they_were_written(toy_pool, toy_rows):
    assert content(read(pool_at(toy_pool), ALL)) == content(expected(toy_rows, ALL))


def test_only_what_is_asked_for_in_the_order_asked(toy_pool):
    found = inspect(pool_at(toy_pool), ["text"])
    batch = next(batches(found.pieces[0], ["text", "uid", "text"]))
    assert batch.schema.names == ["text", "uid", "text"]


@pytest.mark.parametrize("row_group_size", [1, 7, 50, 333, 1000])
def test_pieces_cover_the_rows_once_and_in_order(tmp_path, toy_rows, write_pool, monkeypatch, row_group_size):
    monkeypatch.setattr(pieces, "PIECE_ROWS", 100)
    monkeypatch.setattr(parquet_file, "BATCH_ROWS", 30)
    pool = pool_at(write_pool(tmp_path / "p", toy_rows, files=2, row_group_size=row_group_size))
    found = inspect(pool, FEW)
    assert [piece.index for piece in found.pieces] == list(range(len(found.pieces)))
    assert [piece.name for piece in found.pieces] == sorted(piece.name for piece in found.pieces)
    assert max(piece.rows for piece in found.pieces) <= max(100, row_group_size)
    offsets: dict[str, int] = {}
    for piece in found.pieces:
        assert piece.first_row == offsets.get(piece.path, 0)
        offsets[piece.path] = piece.first_row + piece.rows
    assert all(batch.num_rows <= 30 for piece in found.pieces for batch in batches(piece, FEW))
    assert read(pool).sort_by("uid").equals(expected(toy_rows).sort_by("uid"))


@pytest.mark.parametrize(("groups", "limit", "runs"), [
    ([], 10, []),
    ([0, 0], 10, []),
    ([5, 5, 5], 10, [(0, 2, 10), (2, 3, 5)]),
    ([25, 1], 10, [(0, 1, 25), (1, 2, 1)]),
    ([0, 3, 0, 9, 0], 10, [(0, 3, 3), (3, 5, 9)]),
])  # fmt: skip
def test_cut(groups, limit, runs):
    assert list(cut(groups, limit)) == runs


def test_a_file_without_rows_among_others_is_fine_and_alone_is_not(tmp_path, toy_rows, write_pool):
    pool = write_pool(tmp_path / "p", toy_rows[:5], files=1)
    rows = read(pool_at(pool))
    write(pool / "0.parquet", expected([], ALL))
    assert read(pool_at(pool)).equals(rows)
    assert [file.rows for file in inspect(pool_at(pool), FEW).files] == [0, 5]
    message = refused(pool / "0.parquet")
    assert message == f"--pool {pool}/0.parquet: 1 parquet files, but not one row. Check the address."


def laion() -> dict[str, pa.Array]:
    """Names and types as LAION, COYO and CC12M have them in their various releases."""
    return {
        "URL": pa.array(["http://a.test/1", "http://a.test/2", None], pa.large_string()),
        "TEXT": pa.array(["one ✓", None, ""], pa.large_string()),
        "WIDTH": pa.array([640, None, 2], pa.int32()),
        "HEIGHT": pa.array([480, 1, 65535], pa.uint16()),
        "similarity": pa.array([0.1, None, float("nan")], pa.float64()),
        "LICENSE": pa.array(["?", "cc", "?"]).dictionary_encode(),
        "boxes": pa.array([[[0.0, 0.5, 1.0, 1.0]], [], None], pa.large_list(pa.large_list(pa.float32()))),
        "nothing": pa.nulls(3),
    }


MAPPING = {"url": "URL", "text": "TEXT", "original_width": "WIDTH", "original_height": "HEIGHT",
           "clip_b32_similarity_score": "similarity", "face_bboxes": "boxes", "sha256": "nothing"}  # fmt: skip


def test_other_names_and_types_become_ours(tmp_path):
    table = laion()
    pool = pool_at(write(tmp_path / "laion.parquet", table), **MAPPING)
    columns = [*MAPPING, "uid", "LICENSE"]
    got = read(pool, columns)
    assert got.schema.types[:7] == [COLUMNS[name].type for name in MAPPING]
    assert (
        got.column("uid")
        .combine_chunks()
        .equals(uids.derive(table["URL"].cast("string"), table["TEXT"].cast("string")))
    )
    assert got.column("text").to_pylist() == ["one ✓", None, ""]
    assert got.column("original_height").to_pylist() == [480, 1, 65535]
    assert got.column("original_width").null_count == 1
    scores = got.column("clip_b32_similarity_score").to_pylist()
    assert scores[0] == np.float32(0.1)
    assert scores[1] is None
    assert np.isnan(scores[2])
    assert got.column("face_bboxes").to_pylist() == [[[0.0, 0.5, 1.0, 1.0]], [], None]
    assert got.column("LICENSE").to_pylist() == ["?", "cc", "?"]
    schema = inspect(pool, columns).schema
    assert set(schema.names) == {*MAPPING, "uid", "LICENSE"}
    assert schema.field("text").type == pa.string()


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string()),
                                  pa.dictionary(pa.int32(), pa.large_string())], ids=str)  # fmt: skip
def test_every_layout_of_strings_is_read(tmp_path, toy_rows, kind):
    table = expected(toy_rows)
    stored = table.set_column(1, "text", table.column("text").cast(kind)).set_column(
        0, "uid", table.column("uid").cast(kind)
    )
    assert read(pool_at(write(tmp_path / "a.parquet", stored, row_group_size=300))).equals(table)


@pytest.mark.parametrize(("kind", "values"), [
    (pa.string_view(), ["a", None]),
    (pa.list_(pa.string_view()), [["a", None], None]),
    (pa.large_list(pa.binary_view()), [[b"a", None], None]),
    (pa.list_(pa.string_view(), 2), [["a", None], ["b", "c"]]),  # pyarrow can't read a null one back
    (pa.map_(pa.string_view(), pa.large_list(pa.string_view())), [[("a", ["b", None])], None]),
    (pa.struct([("a", pa.list_(pa.string_view()))]), [{"a": ["b"]}, None]),
], ids=str)  # fmt: skip
def test_rows_are_taken_of_views_in_columns_that_are_not_ours(tmp_path, kind, values):
    table = pa.table({"uid": ["0" * 32, "1" * 32], "mine": pa.array(values, kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    found = inspect(Pool("x", str(tmp_path)), ["mine"])
    (batch,) = batches(found.pieces[0], ["mine"])
    assert batch.schema.field("mine").type == found.schema.field("mine").type
    assert batch.take(pa.array([1, 0])).column("mine").to_pylist() == values[::-1]


def test_a_uid_of_another_name_and_a_uid_that_is_not_wanted(tmp_path, toy_rows):
    table = expected(toy_rows, ("uid", "url", "text"))
    file = write(tmp_path / "a.parquet", table.rename_columns(["id", "url", "text"]))
    assert read(pool_at(file, uid="id"), ["uid"]).column(0).equals(table.column(0))
    made = uids.derive(table.column("url").combine_chunks(), table.column("text").combine_chunks())
    assert read(pool_at(file), ["uid"]).column(0).combine_chunks().equals(made)
    own = write(tmp_path / "b.parquet", table)
    assert read(pool_at(own, uid=""), ["uid", "text"]).column(0).combine_chunks().equals(made)


def test_names_may_be_exchanged_and_shared(tmp_path):
    file = write(tmp_path / "a.parquet", {"url": ["caption"], "text": ["link"]})
    assert read(pool_at(file, url="text", text="url"), ["url", "text"]).to_pylist() == [
        {"url": "link", "text": "caption"}
    ]
    both = read(pool_at(file, text="url"), ["url", "text"]).to_pylist()
    assert both == [{"url": "caption", "text": "caption"}]


def test_a_name_with_a_dot_is_one_column(tmp_path):
    file = write(tmp_path / "a.parquet", {"a.b": ["x"], "a": ["y"], "url": ["u"]})
    assert read(pool_at(file, text="a.b"), ["text", "a"]).to_pylist() == [{"text": "x", "a": "y"}]


def test_the_optional_columns_are_those_of_the_first_file(toy_pool, tmp_path):
    found = inspect(pool_at(toy_pool), ["uid"], ["sha256", "original_width", "clip_q9"])
    assert found.optional == ("sha256", "original_width")
    bare = write(tmp_path / "bare.parquet", {"url": ["u"], "text": ["t"], "H": ["f"]})
    assert inspect(pool_at(bare), ["uid"], ["sha256"]).optional == ()
    assert inspect(pool_at(bare, sha256="H"), ["uid"], ["sha256"]).optional == ("sha256",)


def test_hidden_columns_are_not_there_under_any_name(toy_pool):
    for columns, mapping in [
        (["sha256"], {}), (["text"], {"text": "sha256"}), (["extra"], {"extra": "sha256"}),
        (["uid"], {"uid": "sha256"}), (["uid"], {"unused": "sha256"}),
    ]:  # fmt: skip
        pool = Pool("x", str(toy_pool), mapping, frozenset({"sha256"}))
        with pytest.raises(CurateError, match="unknown column 'sha256'") as error:
            inspect(pool, columns)
        assert "sha256" not in str(error.value).split("Known:")[1].split("--columns")[0]
        plain = inspect(Pool("x", str(toy_pool), {}, frozenset({"sha256"})), ["uid"], ["sha256"])
        assert "sha256" not in plain.schema.names
        assert plain.optional == ()


# What is wrong with files.


@pytest.mark.parametrize(("content", "why"), [
    (b"", "Parquet file size is 0 bytes"),
    (b"a,b\n1,2\n" * 100, "Parquet magic bytes not found in footer"),
    (b"PAR1", "Parquet file size is 4 bytes"),
    (b"PAR1" + b"\xff" * 8 + b"PAR1", ""),
    (b"PAR1" + b"\0" * 4 + b"PAR1", ""),
])  # fmt: skip
def test_what_is_not_parquet(toy_pool, content, why):
    file = toy_pool / "5.parquet"
    file.write_bytes(content)
    message = refused(toy_pool)
    assert message.startswith(f"{file}: not a whole parquet file (")
    assert why in message


def test_a_file_cut_off_anywhere(tmp_path, toy_rows, write_pool):
    pool = write_pool(tmp_path / "p", toy_rows, files=1, row_group_size=400)
    (file,) = pool.iterdir()
    data = file.read_bytes()
    for length in {*range(0, len(data), len(data) // 60), *range(len(data) - 20, len(data))}:
        file.write_bytes(data[:length])
        assert refused(pool).startswith(f"{file}: not a whole parquet file (")


@pytest.mark.parametrize("options", [{}, {"compression": "none", "use_dictionary": False}], ids=["snappy", "plain"])
def test_a_file_with_a_hole(tmp_path, toy_rows, write_pool, options):
    """Its footer is whole, but pages are gone before it."""
    pool = write_pool(tmp_path / "p", toy_rows, files=1, row_group_size=400, **options)
    (file,) = pool.iterdir()
    data = file.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for start in range(4, footer - 2000, footer // 20):
        file.write_bytes(data[:start] + data[start + 2000 :])
        assert refused(pool, ALL).startswith(f"{file}: ")


@pytest.mark.parametrize("column", ["uid", "url", "text", "clip_l14_similarity_score", "face_bboxes"])
def test_garbage_in_a_column_names_it(tmp_path, toy_rows, write_pool, column):
    pool = write_pool(tmp_path / "p", toy_rows, files=1, row_group_size=300)
    (file,) = pool.iterdir()
    data = bytearray(file.read_bytes())
    group = pq.read_metadata(file).row_group(2)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.split(".")[0] == column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = random.Random(0).randbytes(chunk.total_compressed_size)
    file.write_bytes(data)
    assert refused(pool, ALL).startswith(f"{file}: column {column!r} can't be read (")
    others = [name for name in ALL if name != column]
    assert content(read(pool_at(pool), others)) == content(expected(toy_rows, others))


def test_a_changed_bit_is_seen_where_pages_have_checksums(tmp_path, toy_rows, write_pool):
    pool = write_pool(
        tmp_path / "p", toy_rows, files=1, write_page_checksum=True, compression="none", use_dictionary=False
    )
    (file,) = pool.iterdir()
    data = bytearray(file.read_bytes())
    data[pq.read_metadata(file).row_group(0).column(1).data_page_offset + 1000] ^= 1
    file.write_bytes(data)
    assert refused(pool, ALL).startswith(f"{file}: column 'url' can't be read (")


@pytest.mark.parametrize("remote_too", [False, True], ids=["local", "memory"])
def test_any_damage_is_told_or_changes_no_count(tmp_path, toy_rows, write_pool, remote_too):
    pool = write_pool(tmp_path / "p", toy_rows[:200], files=1, row_group_size=80)
    (file,) = pool.iterdir()
    data = file.read_bytes()
    rng = random.Random(int(remote_too))
    fs = fsspec.filesystem("memory")
    outcomes = []
    for _ in range(300):
        broken = bytearray(data)
        # Half of the damage is in the footer, where a bit means much.
        start = rng.choice([0, len(data) - int.from_bytes(data[-8:-4], "little") - 8])
        for position in rng.sample(range(start, len(data)), rng.choice([1, 1, 5])):
            broken[position] ^= 1 << rng.randrange(8)
        file.write_bytes(broken)
        fs.pipe("/broken.parquet", bytes(broken))
        try:
            outcomes.append(read(pool_at("memory://broken.parquet" if remote_too else file), ALL).num_rows)
        except CurateError as error:
            outcomes.append(str(error)[:0])
    fs.rm("/broken.parquet")
    assert set(outcomes) == {200, ""}


def varint(n: int) -> bytes:
    """As a parquet footer has a number of rows."""
    n <<= 1
    return bytes([n & 0x7F | 0x80, n >> 7])


def test_footers_that_lie_about_rows(tmp_path):
    """The number of rows is in the footer for the file, each row group and each column chunk: any of them may lie."""
    rows = 1001
    table = {"uid": [f"{i:032x}" for i in range(rows)], "score": np.arange(rows, dtype=np.float64)}
    file = write(tmp_path / "a.parquet", table, store_schema=False)
    data = file.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    places = [i for i in range(footer, len(data)) if data[i : i + 2] == varint(rows)]
    assert len(places) >= 4

    def lie(number: int, chosen: list[int]) -> str | int:
        broken = bytearray(data)
        for place in chosen:
            broken[place : place + 2] = varint(number)
        file.write_bytes(broken)
        try:
            return read(pool_at(file), ["uid", "score"]).num_rows
        except CurateError as error:
            return str(error)

    for number in (rows + 1, rows + 900):
        assert lie(number, places) == f"{file}: {rows} rows came, but its footer says {number}. Fetch the file again."
    alone = [lie(number, [place]) for number in (rows - 1, rows + 1) for place in places]
    assert {answer for answer in alone if isinstance(answer, int)} == {rows}
    refusals = [answer for answer in alone if isinstance(answer, str)]
    assert len(refusals) == 4  # of the file and of its row group, more and less
    assert all("rows, but its row groups have" in answer for answer in refusals)


def test_a_file_that_changes_while_the_run_goes_on(toy_pool, toy_rows, write_pool, tmp_path):
    found = inspect(pool_at(toy_pool), FEW)
    piece = found.pieces[1]
    path = pathlib.Path(piece.path)
    data = path.read_bytes()
    other = next(write_pool(tmp_path / "q", list(reversed(toy_rows)), files=1).iterdir()).read_bytes()
    for content in (other, data[: len(data) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(
            CurateError, match=rf"^{path}: (the file has changed since the run began|not a whole parquet)"
        ):
            list(batches(piece, FEW))
    path.unlink()
    with pytest.raises(CurateError, match=rf"^{path}: can't be read \(.*No such file or directory"):
        list(batches(piece, FEW))
    path.write_bytes(data)
    assert sum(batch.num_rows for batch in batches(piece, FEW)) == piece.rows


def test_a_file_that_is_cut_off_while_it_is_read(toy_pool, monkeypatch):
    """It must not be mapped into memory: that would kill the process."""
    monkeypatch.setattr(parquet_file, "BATCH_ROWS", 10)
    piece = inspect(pool_at(toy_pool), ALL).pieces[0]
    reading = batches(piece, ALL)
    next(reading)
    os.truncate(piece.path, 100)
    with pytest.raises(CurateError, match=f"^{piece.path}: "):  # noqa: PT012
        list(reading)
        list(batches(piece, ALL))


@pytest.mark.parametrize("size", [-1, 1])
def test_a_footer_of_another_size(toy_pool, size):
    piece = inspect(pool_at(toy_pool), FEW).pieces[0]
    changed = Piece(**{**vars(piece), "size": piece.size + size})
    with pytest.raises(CurateError, match="the file has changed since the run began"):
        list(batches(changed, FEW))


# What is wrong with columns.


def test_a_column_missing_in_one_of_the_files(toy_pool, toy_rows):
    bad = write(toy_pool / "c5.parquet", expected(toy_rows, ("uid", "url", "clip_l14_similarity_score")))
    assert refused(toy_pool) == (f"{bad}: unknown column 'text'. Known: uid, url, clip_l14_similarity_score. "
                                 f"--columns text=NAME reads it under another name.")  # fmt: skip
    assert "text" not in inspect(pool_at(toy_pool), ["url"]).pieces[0].columns


def test_no_uid_and_nothing_to_make_one_from(tmp_path):
    bad = write(tmp_path / "a.parquet", {"url": ["u"], "caption": ["t"]})
    assert refused(bad, ["uid"]).startswith(f"{bad}: unknown column 'text'. ")
    message = refused(bad, ["uid"], uid="key", text="caption")
    assert message.endswith(
        "--columns uid=NAME reads it under another name; --columns uid= makes uids from url and text."
    )


def test_a_mapping_to_a_column_that_is_not_there_is_told_though_nothing_asks_for_it(toy_pool):
    assert "unknown column 'HASH'" in refused(toy_pool, ["uid"], sha256="HASH")


@pytest.mark.parametrize(("column", "values", "kind"), [
    ("uid", pa.array([1, 2]), "int64"),
    ("uid", pa.array([b"x", b"y"]), "binary"),
    ("text", pa.array([1.5, 2]), "double"),
    ("text", pa.array([["a"], []]), "list<element: string>"),
    ("original_width", pa.array(["640", "480"]), "string"),
    ("original_width", pa.array([1.0, 2.0]), "double"),
    ("original_width", pa.array([True, False]), "bool"),
    ("clip_l14_similarity_score", pa.array([1, 2]), "int64"),
    ("clip_l14_similarity_score", pa.array(["a", "b"]).dictionary_encode(),
     "dictionary<values=string, indices=int32, ordered=0>"),
    ("face_bboxes", pa.array([[1.0], []]), "list<element: double>"),
    ("face_bboxes", pa.array([[["a"]], []]), "list<element: list<element: string>>"),
])  # fmt: skip
def test_a_column_of_another_type(toy_pool, column, values, kind):
    table = {"uid": ["0" * 32] * 2, "url": ["u"] * 2, "text": ["t"] * 2} | {column: values}
    bad = write(toy_pool / "c5.parquet", table)
    message = refused(toy_pool, [column])
    assert message.startswith(
        f"{bad}: column {column!r} is of type {kind}, but {COLUMNS[column].type} is needed for {column} ("
    )


def test_the_first_bad_file_is_named_whatever_the_threads_do(tmp_path):
    for number in range(60):
        write(tmp_path / f"{number:02}.parquet", {"url": ["u"], "text" if number % 20 else "alt": ["t"]})
    write(tmp_path / "00.parquet", {"url": ["u"], "text": ["t"]})
    assert {refused(tmp_path, ["text"])[:100] for _ in range(5)} == {
        f"{tmp_path}/20.parquet: unknown column 'text'. Known: url, alt."[:100]
    }


def test_a_column_that_is_there_twice(tmp_path):
    table = pa.Table.from_arrays(
        [pa.array(["0" * 32]), pa.array(["a"]), pa.array(["b"])], names=["uid", "text", "text"]
    )
    file = write(tmp_path / "a.parquet", table)
    assert "column 'text' is there 2 times, but it is needed once" in refused(file, ["text"])
    assert read(pool_at(file), ["uid"]).num_rows == 1


def test_names_that_a_terminal_would_obey(tmp_path):
    file = write(tmp_path / "a.parquet", {"\x1b[2Jx\n": ["u"]})
    assert "\\x1b[2Jx\\n" in refused(file, ["text"])


def test_a_whole_number_that_is_too_large_has_a_row(tmp_path):
    widths = pa.array([*range(700), 2**63, 1], pa.uint64())
    file = write(tmp_path / "a.parquet", {"uid": ["0" * 32] * 702, "original_width": widths}, row_group_size=100)
    message = refused(file, ["original_width"])
    assert message.startswith(f"{file}: column 'original_width' has in row 700 a value that is no int64 (")


def test_text_that_is_not_utf8_has_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_ROWS", 100)
    good, bad = [b"caf\xc3\xa9"] * 250, [b"caf\xe9"]
    offsets = np.cumsum([0, *map(len, good + bad)]).astype(np.int32)
    text = pa.StringArray.from_buffers(251, pa.py_buffer(offsets), pa.py_buffer(b"".join(good + bad)))
    file = write(tmp_path / "a.parquet", {"url": ["u"] * 251, "text": text}, row_group_size=60)
    assert refused(file, ["text"]).startswith(
        f"{file}: column 'text' has in row 250 a value that is no string (Invalid UTF8"
    )


# The command.


def test_the_command_ends_with_one_sentence(curate, toy_pool, tmp_path):
    missing = write(toy_pool / "zz.parquet", {"uid": ["0" * 32]})
    for address, told in [
        (toy_pool, f"curate: {missing}: unknown column"),
        (tmp_path / "no", f"curate: --pool {tmp_path}/no: "),
    ]:
        done = curate("--pool", address, "--select-only", "--out", tmp_path / "run")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(told)
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_names_file_and_row_of_a_bad_uid(curate, toy_pool, tmp_path):
    bad = toy_pool / "zz.parquet"
    for uid, told in [(None, "the uid of row 2 is null"), ("2" * 31, f"the uid of row 2 is '{'2' * 31}'")]:
        write(bad, expected([{"uid": "0" * 32}, {"uid": "1" * 32}, {"uid": uid}], ALL))
        done = curate(
            "--pool", toy_pool, "--recipe", "no_filter", "--select-only", "--out", tmp_path / "run", "--overwrite"
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(f"curate: {bad}: ")
        assert told in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_names_a_broken_column(curate, toy_pool, tmp_path):
    file = max(toy_pool.iterdir())
    data = bytearray(file.read_bytes())
    chunk = pq.read_metadata(file).row_group(0).column(0)
    data[chunk.data_page_offset + 40 : chunk.data_page_offset + 400] = b"x" * 360
    file.write_bytes(data)
    done = curate("--pool", toy_pool, "--recipe", "no_filter", "--select-only", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"curate: {file}: column 'uid' ")
    assert "Traceback" not in done.stderr


def test_an_address_of_a_pool_is_known_by_its_marks(toy_pool):
    assert open_pool(f"{toy_pool}/*.parquet", None, {}).address == f"{toy_pool}/*.parquet"
