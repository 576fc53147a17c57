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


def test_a_part_that_is_cut_off_is_an_error(tmp_path: pathlib.Path):
    path = tmp_path / "parts.bin"
    parts.write(str(path), [np.arange(5, dtype=KIND)])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CurateError, match=r"parts\.bin: it ends before byte 36, but it was whole"):
        parts.read(str(path), 0, 1, 1, KIND)
