"""Features come from the npz beside the parquet file, row for row, and whatever does not fit is refused by name."""

import io
import os
import pathlib
import random
import struct
import threading
import tracemalloc
import types
import zipfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_hub import FakeHub, serving

from metadata.errors import CurateError
from metadata.schema import FEATURES
from pipeline import parquet_file, pieces, remote
from pipeline.features import Features, npz_path, open_npz
from pipeline.pieces import batches, inspect
from pipeline.pools import Pool

ROWS = 300
FLOAT16 = [name for name in FEATURES if name != "dedup"]


def arrays_of(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """All arrays of an npz, as CommonPool has them; float16 rows of unit length."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, column in FEATURES.items():
        values = rng.standard_normal((rows, column.type.list_size))
        made[name] = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(
            column.type.value_type.to_pandas_dtype()
        )
    return made


def write_file(path: pathlib.Path, first: int = 0, rows: int = ROWS, **options) -> dict[str, np.ndarray]:
    """A parquet file whose uids are row numbers, and its npz; gives the arrays."""
    table = {"uid": [f"{i:032x}" for i in range(first, first + rows)], "text": [f"caption {i}" for i in range(rows)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, **options)
    arrays = arrays_of(rows, first)
    np.savez(path.with_suffix(".npz"), **arrays)
    return arrays


@pytest.fixture
def pool(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two files with features."""
    for number in range(2):
        write_file(tmp_path / "pool" / f"{number}.parquet", number * ROWS)
    return tmp_path / "pool"


def read(address: object, columns, **mapping: str) -> pa.Table:
    found = inspect(Pool(str(address), str(address), mapping), columns)
    assert set(columns) <= set(found.schema.names)
    table = pa.Table.from_batches([batch for piece in found.pieces for batch in batches(piece, columns)])
    assert table.num_rows == found.rows
    return table


def values(table: pa.Table, name: str) -> np.ndarray:
    column = table.column(name).combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def refused(address: object, columns=("uid", "l14_img"), **mapping: str) -> str:
    with pytest.raises(CurateError) as error:
        read(address, columns, **mapping)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# What comes.


@pytest.mark.parametrize("columns", [["uid", *FEATURES], ["l14_img"], ["dedup", "uid"]], ids=len)
def test_features_are_columns_like_any_other(pool, columns):
    table = read(pool, columns)
    assert table.schema.names == columns
    for name in set(columns) & set(FEATURES):
        assert table.schema.field(name).type == FEATURES[name].type
        expected = np.concatenate([arrays_of(ROWS, number * ROWS)[name] for number in range(2)])
        assert values(table, name).tobytes() == expected.tobytes()
    if "uid" in columns:
        assert table["uid"].to_pylist() == [f"{i:032x}" for i in range(2 * ROWS)]


@pytest.mark.parametrize("row_group_size", [1, 7, 90, 1000])
def test_rows_stay_together_however_the_file_is_cut(tmp_path, monkeypatch, row_group_size):
    monkeypatch.setattr(pieces, "PIECE_ROWS", 100)
    monkeypatch.setattr(parquet_file, "BATCH_ROWS", 30)
    arrays = write_file(tmp_path / "a.parquet", row_group_size=row_group_size)
    table = read(tmp_path, ["uid", "b32_txt"])
    assert values(table, "b32_txt").tobytes() == arrays["b32_txt"].tobytes()
    assert table["uid"].to_pylist() == [f"{i:032x}" for i in range(ROWS)]


def test_batches_with_features_are_small(tmp_path, monkeypatch):
    write_file(tmp_path / "a.parquet", rows=3000)
    monkeypatch.setattr(pieces, "_FEATURE_BYTES", 100 * 768 * 2)

    def most(*columns: str) -> int:
        (piece,) = inspect(Pool("x", str(tmp_path)), columns).pieces
        return max(batch.num_rows for batch in batches(piece, columns))

    assert most("l14_img", "uid") == 100
    assert most("l14_img", "l14_txt") == 50
    assert most("l14_img", "l14_img") == 100
    assert most("uid") == 3000
    assert pieces._FEATURE_BYTES // (768 * 2) < parquet_file.BATCH_ROWS


def test_memory_is_a_blocks_and_not_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "_FEATURE_BYTES", 1 << 20)
    write_file(tmp_path / "a.parquet", rows=20_000)
    (piece,) = inspect(Pool("x", str(tmp_path)), ["l14_img"]).pieces
    tracemalloc.start()
    pa_before, pa_peak = pa.total_allocated_bytes(), 0
    for _ in batches(piece, ["l14_img"]):
        pa_peak = max(pa_peak, pa.total_allocated_bytes() - pa_before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak + pa_peak < 4 << 20  # of 30 MB


def test_a_pool_without_npz_is_read_as_ever(pool):
    for file in pool.glob("*.npz"):
        file.unlink()
    found = inspect(Pool("x", str(pool)), ["uid"])
    assert "l14_img" not in found.schema.names
    assert found.pieces[0].npz == ""
    assert read(pool, ["uid"]).num_rows == 2 * ROWS


def test_an_npz_is_not_opened_for_other_columns(pool):
    (pool / "0.npz").write_bytes(b"broken")
    assert read(pool, ["uid", "text"]).num_rows == 2 * ROWS
    assert refused(pool).startswith(f"{pool}/0.parquet: has no column 'l14_img', and {pool}/0.npz: not a whole npz (")


@pytest.mark.parametrize("layout", ["list of float32", "fixed list of float64", "large list of float16"])
def test_a_column_of_the_parquet_file_wins(pool, layout):
    own = arrays_of(ROWS, seed=9)["l14_img"]
    ends, flat = np.arange(ROWS + 1) * 768, own.reshape(-1)
    column = {
        "list of float32": lambda: pa.ListArray.from_arrays(ends.astype("i4"), pa.array(flat.astype("f4"))),
        "fixed list of float64": lambda: pa.FixedSizeListArray.from_arrays(pa.array(flat.astype("f8")), 768),
        "large list of float16": lambda: pa.LargeListArray.from_arrays(ends, pa.array(flat)),
    }[layout]()
    table = pq.read_table(pool / "0.parquet")
    pq.write_table(table.append_column("l14_img", column), pool / "0.parquet")
    got = values(read(pool, ["l14_img"]), "l14_img")
    assert got[:ROWS].tobytes() == own.tobytes()
    assert got[ROWS:].tobytes() == arrays_of(ROWS, ROWS)["l14_img"].tobytes()


def test_a_column_of_lists_is_rounded_and_keeps_its_nulls(tmp_path):
    rows = [np.full(768, 0.1).tolist(), None, np.full(768, 1e-9).tolist()]
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"uid": ["0" * 32] * 3, "emb": pa.array(rows, pa.list_(pa.float64()))}), file)
    column = read(file, ["l14_img"], l14_img="emb").column(0)
    assert column.is_valid().to_pylist() == [True, False, True]
    assert column[0].as_py() == [np.float16(0.1)] * 768
    assert column[2].as_py() == [0] * 768


def test_columns_of_lists_that_do_not_fit(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"uid": ["0"], "l14_img": pa.array([[0.5] * 512], pa.list_(pa.float32(), 512))}), file)
    assert "column 'l14_img' is of type fixed_size_list<element: float>[512], but fixed_size_list<" in refused(
        file, ["l14_img"]
    )
    pq.write_table(pa.table({"uid": ["0", "1"], "l14_img": pa.array([[0.5] * 768, [0.5] * 767])}), file)
    assert "a.parquet: column 'l14_img' has in row 1 a value that is no fixed_size_list<" in refused(file, ["l14_img"])


def test_the_features_of_a_models_own_are_of_one_length(tmp_path):
    """In columns, in an npz, and in the one and the other."""
    table = {"uid": [f"{i:032x}" for i in range(3)]}
    own = np.eye(3, 64, dtype=np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(own.reshape(-1)), 64)
    for number in range(3):
        pq.write_table(pa.table(table | {"emb": column}), tmp_path / f"{number}.parquet")
    assert values(read(tmp_path, ["dfn_img"], dfn_img="emb"), "dfn_img").tobytes() == own.tobytes() * 3
    narrow = pa.FixedSizeListArray.from_arrays(column.values, 32)[:3]
    pq.write_table(pa.table(table | {"emb": narrow}), tmp_path / "2.parquet")
    told = (f"has 32 dimensions, but that of {tmp_path}/0.parquet has 64, and a pool's are of one model. Score its "
            f"files with the same one.")  # fmt: skip
    assert refused(tmp_path, ["dfn_img"], dfn_img="emb") == f"{tmp_path}/2.parquet: column 'emb' {told}"
    pq.write_table(pa.table(table), tmp_path / "2.parquet")
    np.savez(tmp_path / "2.npz", emb=own[:, :32])
    assert refused(tmp_path, ["dfn_img"], dfn_img="emb") == f"{tmp_path}/2.npz: array 'emb' {told}"


@pytest.mark.parametrize("lists", [pa.list_(pa.float64()), pa.large_list(pa.float16()), pa.null()], ids=str)
def test_a_column_of_a_models_own_says_its_dimensions(tmp_path, lists):
    rows = [[0.6, 0.8], [1.0, 0.0]] if lists != pa.null() else [None, None]
    pq.write_table(pa.table({"uid": ["0", "1"], "dfn_img": pa.array(rows, lists)}), tmp_path / "a.parquet")
    assert refused(tmp_path, ["dfn_img"]) == (
        f"{tmp_path}/a.parquet: column 'dfn_img' is of type {pq.read_schema(tmp_path / 'a.parquet').field(1).type}, "
        f"but features are lists of one length, which the type says. Write it as pyarrow.list_(pyarrow.float16(), "
        f"dims); or --columns dfn_img=NAME reads it under another name."
    )


def test_a_null_among_lists_of_one_length(tmp_path):
    column = pa.array([[0.5] * 768, None], pa.list_(pa.float16(), 768))
    pq.write_table(pa.table({"uid": ["0", "1"], "l14_img": column}), tmp_path / "a.parquet")
    message = refused(tmp_path, ["l14_img"])
    assert message.startswith(f"{tmp_path}/a.parquet: column 'l14_img' can't be read (Expected all lists to be of size")
    assert message.endswith("Write a list of NaN where there is a null, or a list of another length.")


def test_an_array_of_another_name(pool):
    for number in range(2):
        np.savez(pool / f"{number}.npz", image_embeddings=arrays_of(ROWS, number)["l14_img"])
    expected = np.concatenate([arrays_of(ROWS, number)["l14_img"] for number in range(2)])
    assert values(read(pool, ["l14_img"], l14_img="image_embeddings"), "l14_img").tobytes() == expected.tobytes()


# Where it comes from.


def serve(pool: pathlib.Path) -> FakeHub:
    return FakeHub({"files/on-the-web": {f"pool/{file.name}": file.read_bytes() for file in pool.iterdir()}})


@pytest.mark.parametrize("columns", [["uid", *FEATURES], ["l14_txt"]], ids=len)
def test_features_from_elsewhere(pool, columns, monkeypatch):
    monkeypatch.setattr(pieces, "_FEATURE_BYTES", 100_000)
    fs = fsspec.filesystem("memory")
    for file in pool.iterdir():
        fs.pipe(f"/features/{file.name}", file.read_bytes())
    try:
        assert read("memory://features", columns).equals(read(pool, columns))
    finally:
        fs.rm("/features", recursive=True)
    with serving(serve(pool)) as hub:
        assert read(f"{hub.url}/cdn/files/on-the-web/pool/", columns).equals(read(pool, columns))


def test_only_the_array_asked_for_travels(tmp_path):
    write_file(tmp_path / "a.parquet", rows=3000)
    with serving(serve(tmp_path)) as hub:
        (piece,) = inspect(Pool("x", f"{hub.url}/cdn/files/on-the-web/pool/"), ["l14_img"]).pieces
        hub.sent.clear()
        hub.requests.clear()
        assert sum(batch.num_rows for batch in batches(piece, ["l14_img"])) == 3000
        least = remote._LEAST_BYTES
        assert hub.sent["pool/a.npz"] <= 3000 * 768 * 2 + 2 * least  # its bytes, the directory, and what is before it
        asked = [path for method, _, path in hub.requests if method == "GET" and path.endswith(".npz")]
        assert len(asked) == 3
        assert hub.sent["pool/a.npz"] < 0.7 * (tmp_path / "a.npz").stat().st_size


def test_a_web_server_that_fails_now_and_then(pool, monkeypatch):
    waited = [0.0]
    monkeypatch.setattr(remote, "time", types.SimpleNamespace(monotonic=lambda: sum(waited), sleep=waited.append))
    with serving(serve(pool)) as hub:
        faults = {9: 503, 12: "drop", 15: 429, 18: "drop"}
        hub.misbehave = lambda kind, number: faults.get(number)
        assert read(f"{hub.url}/cdn/files/on-the-web/pool/", ["l14_img"]).equals(read(pool, ["l14_img"]))
        assert hub.kinds()["file"] > 18


@pytest.mark.parametrize("from_web", [False, True], ids=["here", "web"])
def test_the_next_batch_is_read_while_the_caller_has_one(tmp_path, monkeypatch, from_web):
    write_file(tmp_path / "a.parquet", rows=3000)
    monkeypatch.setattr(pieces, "_FEATURE_BYTES", 1000 * 768 * 2)
    begun, rows, before = threading.Semaphore(0), Features.rows, threading.enumerate()

    def noting(features: Features, first: int, end: int) -> pa.FixedSizeListArray:
        begun.release()
        return rows(features, first, end)

    monkeypatch.setattr(Features, "rows", noting)
    with serving(serve(tmp_path)) as hub:
        address = f"{hub.url}/cdn/files/on-the-web/pool/" if from_web else str(tmp_path)
        (piece,) = inspect(Pool("x", address), ["l14_img"]).pieces
        coming = batches(piece, ["l14_img"])
        assert not begun.acquire(timeout=0.05)  # nothing before it is asked for
        assert next(coming).num_rows == 1000
        assert begun.acquire(timeout=5)
        assert begun.acquire(timeout=5)  # nobody has asked for the second
        coming.close()  # as when its caller fails: what is being read is waited for, and the file is closed
        assert not [t for t in threading.enumerate() if "ThreadPoolExecutor" in t.name and t not in before]


def test_a_pipe_beside_a_pool_s_file_is_told_and_not_waited_for(pool):
    (pool / "1.npz").unlink()
    os.mkfifo(pool / "1.npz")
    assert "1.npz: a pipe, a socket or a device, but a pool's files are regular ones" in refused(pool)


def test_an_npz_that_is_not_on_the_web(pool):
    (pool / "1.npz").unlink()
    with serving(serve(pool)) as hub:
        address = f"{hub.url}/cdn/files/on-the-web/pool/"
        assert refused(address) == (
            f"{address}1.parquet: has no column 'l14_img', and {address}1.npz: there is no such file or folder. "
            f"Check the address."
        )


# What does not fit.


def test_every_mismatch_names_its_file(pool):
    good, npz = arrays_of(ROWS, ROWS), pool / "1.npz"
    for arrays, told in [
        ({"b32_img": good["b32_img"]}, "1.npz: unknown array 'l14_img'. Known: b32_img."),
        ({"l14_img": good["l14_img"][:-1]}, f"1.npz: array 'l14_img' has the shape (299, 768), but ({ROWS}, 768) is "
                                            f"needed for the {ROWS} rows of its parquet file. Fetch both files again."),
        ({"l14_img": good["b32_img"]}, "has the shape (300, 512), but (300, 768) is needed"),
        ({"l14_img": good["l14_img"][0]}, "has the shape (768,), but (300, 768) is needed"),
        ({"l14_img": good["l14_img"].astype("f4")}, "is of type float32, but float16 in C order is needed (l14_img:"),
        ({"l14_img": good["l14_img"].astype(">f2")}, "is of type >f2, but float16 in C order"),
        ({"l14_img": np.asfortranarray(good["l14_img"])}, "is of type float16 in Fortran order, but float16"),
        ({"l14_img": good["l14_img"].view([("x", "<f2")])}, "is of type [('x', '<f2')], but float16"),
    ]:  # fmt: skip
        np.savez(npz, **arrays)
        message = refused(pool)
        assert message.startswith(f"{npz}: "), message
        assert told in message
    np.savez(npz, **{"l14_img": np.array([[None]], object)}, allow_pickle=True)
    assert "is of type object, but float16" in refused(pool)
    np.savez(npz, dedup=good["dedup"].astype("f2"))
    assert "is of type float16, but float32 in C order is needed (dedup: " in refused(pool, ["dedup"])
    np.savez_compressed(npz, **good)
    assert refused(pool) == (f"{npz}: array 'l14_img' is compressed, but only a part of it is read at a time. Write it "
                             f"with numpy.savez.")  # fmt: skip
    npz.unlink()
    assert refused(pool) == (f"{pool}/1.parquet: has no column 'l14_img', and {npz}: can't be read (No such file or "
                             f"directory), but the features of the parquet file's rows are there. Fetch it too."
                             )  # fmt: skip


def test_an_npz_cut_off_anywhere(tmp_path):
    write_file(tmp_path / "a.parquet", rows=20)
    npz = tmp_path / "a.npz"
    data = npz.read_bytes()
    for length in {*range(0, len(data), len(data) // 60), *range(len(data) - 20, len(data))}:
        npz.write_bytes(data[:length])
        assert f"{npz}: not a whole npz (" in refused(tmp_path), length


def test_an_npz_with_a_hole(tmp_path):
    """Its directory is whole, but bytes are gone before it, or have come."""
    write_file(tmp_path / "a.parquet", rows=20)
    npz = tmp_path / "a.npz"
    data = npz.read_bytes()
    end = struct.unpack("<I", data[-6:-2])[0]  # where the directory begins
    for start in range(0, end - 1500, end // 30):
        for broken in (data[:start] + data[start + 1500 :], data[:start] + b"x" * 1500 + data[start:]):
            npz.write_bytes(broken)
            try:
                assert values(read(tmp_path, ["l14_img"]), "l14_img").tobytes() == arrays_of(20)["l14_img"].tobytes()
            except CurateError as error:
                assert f"{npz}: " in str(error)  # noqa: PT017


def test_a_changed_bit_is_seen(pool):
    data = bytearray((pool / "0.npz").read_bytes())
    place = data.index(arrays_of(ROWS)["l14_img"].tobytes())
    data[place + 100_001] ^= 4
    (pool / "0.npz").write_bytes(data)
    assert refused(pool) == (f"{pool}/0.npz: array 'l14_img' has another checksum than the zip says, but every row is "
                             f"needed. Fetch it again.")  # fmt: skip
    assert read(pool, ["l14_txt"]).num_rows == 2 * ROWS


@pytest.mark.parametrize("where", ["directory", "header", "anywhere"])
def test_any_damage_is_told_or_changes_nothing(tmp_path, where):
    arrays = write_file(tmp_path / "a.parquet", rows=20)
    npz, rng = tmp_path / "a.npz", random.Random(0)
    data = npz.read_bytes()
    header = data.index(b"\x93NUMPY", data.index(b"l14_img.npy"))
    span = {
        "directory": range(struct.unpack("<I", data[-6:-2])[0], len(data)),
        "header": range(header, header + 128),
        "anywhere": range(len(data)),
    }[where]
    outcomes = set()
    for _ in range(400):
        broken = bytearray(data)
        for place in rng.sample(span, rng.choice([1, 1, 3])):
            broken[place] = rng.choice([broken[place] ^ 1 << rng.randrange(8), *b"()[]{}'\",\0\xff"])
        npz.write_bytes(broken)
        try:
            outcomes.add(values(read(tmp_path, ["l14_img"]), "l14_img").tobytes() == arrays["l14_img"].tobytes())
        except CurateError as error:
            assert str(npz) in str(error)  # noqa: PT017
            outcomes.add("told")
    assert outcomes <= {True, "told"}
    assert "told" in outcomes


def member(contents: bytes) -> bytes:
    """An npz whose one array has these contents."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("l14_img.npy", contents)
    return file.getvalue()


def npy(header: str, version: tuple[int, int] = (1, 0), data: bytes = b"") -> bytes:
    text = header.encode("latin1")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + data


@pytest.mark.parametrize("contents", [
    b"", b"\x93NUMPY", b"\x80\x04\x95pickle", npy(""), npy("(" * 5000), npy("[" * 9000), npy("{'descr': "),
    npy("1+" * 4000), npy("-" * 9999), npy("{'descr': '<f2', 'fortran_order': False, 'shape': (1e3,)}\n"), npy("'''"),
    npy("\\\n"),
    npy("{'descr': '<f2', 'fortran_order': False, 'shape': (-1, 768), }\n"), npy("x" * 60_000), npy("\0"),
    npy("{'descr': '<f2', 'fortran_order': False, 'shape': (3, 768), }\n", (9, 9)),
    npy("{'descr': ('<f2', (3, 768)), 'fortran_order': False, 'shape': (1,)}\n"),
    npy("{'descr': '<f2', 'fortran_order': False, 'shape': (3, 768), }\n", data=b"x"),
    npy("{'descr': '<f2', 'fortran_order': False, 'shape': (3, 768), }\n", (2, 0), data=bytes(3 * 768 * 2 + 1)),
], ids=range(19))  # fmt: skip
def test_hostile_arrays(tmp_path, contents):
    write_file(tmp_path / "a.parquet", rows=3)
    (tmp_path / "a.npz").write_bytes(member(contents))
    assert refused(tmp_path).startswith(f"{tmp_path}/a.npz: array 'l14_img' ")


@pytest.mark.parametrize("shape", ["(3, -3)", "(3, -1)", "(3, 0)", "(3, 99999999999)", f"(3, {10**23})", "(3,)", "()"])
def test_hostile_shapes_of_a_models_own(tmp_path, shape):
    write_file(tmp_path / "a.parquet", rows=3)
    header = npy(f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}}}\n")
    (tmp_path / "a.npz").write_bytes(member(header).replace(b"l14_img", b"dfn_img"))
    assert f"array 'dfn_img' has the shape {shape}, but (3, dims) is needed" in refused(tmp_path, ["dfn_img"])


def test_names_that_a_terminal_would_obey(tmp_path):
    write_file(tmp_path / "a.parquet", rows=3)
    np.savez(tmp_path / "a.npz", **{"\x1b[2J": np.zeros(3)})
    assert "Known: \\x1b[2J." in refused(tmp_path)


# What changes.


def test_a_changed_npz_is_another_pool_and_stops_a_run(pool):
    def found(*columns: str) -> pieces.Inspection:
        return inspect(Pool("x", str(pool)), columns)

    plain, before = found("uid").files, found("uid", "l14_img")
    assert before == found("uid", "l14_img")
    arrays = arrays_of(ROWS)
    arrays["l14_img"][5, 5] = 0.5
    np.savez(pool / "0.npz", **arrays)
    assert found("uid").files == plain
    after = found("uid", "l14_img").files
    assert after[0] != before.files[0]
    assert after[1] == before.files[1]
    with pytest.raises(CurateError, match=rf"^{pool}/0.npz: the file has changed since the run began"):
        list(batches(before.pieces[0], ["l14_img"]))
    assert sum(batch.num_rows for batch in batches(before.pieces[0], ["uid"])) == ROWS
    os.truncate(pool / "0.npz", 1000)
    with pytest.raises(CurateError, match=rf"^{pool}/0.npz: not a whole npz"):
        list(batches(before.pieces[0], ["l14_img"]))


def test_an_npz_that_is_cut_off_while_it_is_read(pool):
    with open_npz(npz_path(str(pool / "0.parquet"))) as npz:
        array = Features(npz, "l14_img", "l14_img", ROWS)
        array.rows(0, 10)
        os.truncate(pool / "0.npz", 1000)
        with pytest.raises(CurateError, match=rf"^{pool}/0.npz: array 'l14_img' can't be read \(it ends"):
            array.rows(10, ROWS)
