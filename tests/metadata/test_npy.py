"""An .npy is read or refused by one kind of error, whatever is in it."""

import io
import pathlib
import random
import struct

import numpy as np
import pytest

from metadata import npy


def made(header: str, version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin1")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + bytes(64)


def shaped(shape: object, descr: str = "'<f4'") -> bytes:
    return made(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n")


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


WHOLE = saved(np.arange(12.0).reshape(3, 4))

DAMAGED = [
    b"", b"text", b"PK", b"PK\3\4" + bytes(100), WHOLE[:9], WHOLE[:40], WHOLE[:-1], saved(np.array([{}], object)),
    made("{'descr': ((("), made("'''"), made("-----1"), made("-" * 9999 + "1"), made("(" * 5000), made("x" * 60_000),
    made("{[]:1}"), made("1"), made("\0"), made("\xff{", (3, 0)), made("{}"), made("{}", (9, 9)), made("{}", (255, 0)),
    shaped((10**31,)), shaped("(10**31,)"), shaped((10**23, 4)), shaped((1 << 62, 4)), shaped((99_999_999_999, 9)),
    shaped((-5,)), shaped("(1e3,)"), shaped(("a", 3)), shaped((2,), "()"), shaped((2,), "[()]"), shaped((2,), "[1]"),
    shaped((2,), "{'names': 1}"), shaped((2,), "{1: 2}"), shaped((2,), "[('a', '<f4', (-1,))]"),
    shaped((2,), "'<x9'"), shaped((2,), "'|O'"), shaped((2,), "'M8[xx]'"),
]  # fmt: skip


def test_a_path_is_mapped_and_bytes_are_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.npy").write_bytes(WHOLE)
    mapped, read = npy.load(str(tmp_path / "a.npy")), npy.load(WHOLE)
    assert isinstance(mapped, np.memmap)
    assert mapped.tolist() == read.tolist() == np.arange(12.0).reshape(3, 4).tolist()


@pytest.mark.parametrize("contents", DAMAGED, ids=range(len(DAMAGED)))
def test_what_is_none(tmp_path: pathlib.Path, contents: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(contents)
    for file in (contents, str(tmp_path / "a.npy")):
        with pytest.raises(ValueError, match=r"^.+$") as error:
            npy.load(file)
        assert type(error.value) is ValueError
        assert str(error.value).isprintable()


def test_an_npz_is_none(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(1))
    for file in (str(path), path.read_bytes()):
        with pytest.raises(ValueError, match=r"^an npz, an archive of several arrays$"):
            npy.load(file)


@pytest.mark.parametrize("contents", [b"", b'{"a": 1}', b"\x80\4x", WHOLE[1:]])
def test_of_what_is_something_else_numpy_is_not_asked(tmp_path: pathlib.Path, contents: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(contents)  # it would take it for a pickle, and tell how to load that unsafely
    for file in (contents, str(tmp_path / "a.npy")):
        with pytest.raises(ValueError, match=r"^no \.npy, by its first bytes$"):
            npy.load(file)


def test_what_is_not_there_is_an_error_of_the_system(tmp_path: pathlib.Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(OSError, match=str(path)):
            npy.load(str(path))


@pytest.mark.filterwarnings("ignore")  # Python's, of the headers that numpy has it parse
def test_any_damage_to_a_header_is_told_or_leaves_an_array(tmp_path: pathlib.Path) -> None:
    rng, told = random.Random(0), 0
    for _ in range(1000):
        damaged = bytearray(WHOLE)
        for place in rng.sample(range(128), rng.choice([1, 1, 3])):
            damaged[place] = rng.choice([damaged[place] ^ 1 << rng.randrange(8), *b"()[]{}'\",-0PK\0\xff"])
        (tmp_path / "a.npy").write_bytes(damaged)
        for file in (bytes(damaged), str(tmp_path / "a.npy")):
            try:
                assert isinstance(npy.load(file), np.ndarray)
            except ValueError:
                told += 1
    assert told > 1000
