"""Files of which a part can be read alone."""

import pathlib

import numpy as np
import pytest

from metadata.errors import CurateError
from metadata.uids import UID_DTYPE
from pipeline import parts

KIND = np.dtype("<u4")


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_parts_are_read_without_the_others(scheme: str, tmp_path: pathlib.Path):
    path = f"{scheme}{tmp_path}/parts.bin"
    arrays = [np.arange(n, dtype=KIND) for n in (3, 0, 5)]
    parts.write(path, arrays)
    for first in range(3):
        for end in range(first + 1, 4):
            found = parts.read(path, first, end, 3, KIND)
            assert [part.tolist() for part in found] == [part.tolist() for part in arrays[first:end]]


def test_one_array_may_hold_all_parts(tmp_path: pathlib.Path):
    words = np.array([(n, n) for n in range(6)], UID_DTYPE)
    parts.write(f"{tmp_path}/parts.bin", [words], [4, 0, 2])
    found = parts.read(f"{tmp_path}/parts.bin", 0, 3, 3, UID_DTYPE)
    assert [part["f1"].tolist() for part in found] == [[0, 1, 2, 3], [], [4, 5]]


@pytest.mark.parametrize("scheme", ["", "memory://"])
@pytest.mark.parametrize("block", [1, 40, 1 << 20])
@pytest.mark.parametrize("further", [0, 1])
def test_a_shuffle_gives_what_every_file_has_of_a_part(scheme, block, further, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_BLOCK", block)
    draw = np.random.default_rng(0)
    has = [[draw.integers(1000, size=draw.integers(0, 4)).astype(KIND) for _ in range(6)] for _ in range(7)]
    has[3] = [np.empty(0, KIND)] * 6
    paths = [f"{scheme}{tmp_path}/{n}.bin" for n in range(7)]
    for path, arrays in zip(paths, has, strict=True):
        parts.write(path, arrays)
    for at_once, bindings in ((1, 7), (3, 3), (6, 2), (7, 0)):
        folder = f"{scheme}{tmp_path}/bound-{at_once}"
        shuffle = parts.Shuffle(paths, 6 - further, KIND, folder, at_once, further)
        assert len(shuffle.bindings) == bindings
        for number in [*shuffle.bindings, *shuffle.bindings]:
            shuffle.bind(number)
        for first, end in ((0, 1), (2, 5), (0, 6 - further)):
            found = [[array.tolist() for array in part] for part in shuffle.read(first, end)]
            assert found == [[arrays[n].tolist() for arrays in has] for n in range(first, end)]


def test_a_part_that_is_cut_off_is_an_error(tmp_path: pathlib.Path):
    path = tmp_path / "parts.bin"
    parts.write(str(path), [np.arange(5, dtype=KIND)])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CurateError, match=r"parts\.bin: it ends before byte 36, but it was whole"):
        parts.read(str(path), 0, 1, 1, KIND)
