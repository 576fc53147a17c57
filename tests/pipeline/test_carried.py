"""Features on their way: every row is what it was, in any order, and memory is a block's."""

import pathlib
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from metadata.errors import CurateError
from metadata.schema import FEATURES
from pipeline import carried
from pipeline.carried import Carried, Ordered

RNG = np.random.default_rng(0)


def column_of(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), from_pandas=False), values.shape[1])


def made(rows: int, feature: str = "l14_img") -> np.ndarray:
    kind = carried.row_dtype(feature, FEATURES[feature].type.list_size)
    return RNG.standard_normal((rows, *kind.shape)).astype(kind.base)


@pytest.mark.parametrize("feature", FEATURES)
def test_rows_come_back_in_any_order(tmp_path: pathlib.Path, feature: str) -> None:
    values = made(300, feature)
    with Carried(feature, FEATURES[feature].type.list_size, str(tmp_path)) as held:
        held.add(column_of(values[:100]), np.arange(0, 100, 2))
        held.add(column_of(values[100:]), np.arange(200))
        expected = np.concatenate([values[:100:2], values[100:]])
        order = RNG.permutation(250)
        assert held.take(order).tobytes() == expected[order].tobytes()
        assert held.take(order).dtype == expected.dtype
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("block", [1, 7, 1024])
@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_parts_of_what_is_written_are_read_alone(tmp_path: pathlib.Path, monkeypatch, scheme: str, block: int) -> None:
    monkeypatch.setattr(carried, "_ROWS", block)
    values, order, path = made(40), RNG.permutation(40), f"{scheme}{tmp_path}/a.features"
    with Carried("l14_img", 768, f"{scheme}{tmp_path}/none") as held:
        held.add(column_of(values), np.arange(40))
        held.write(path, order[:30])
    with Carried("l14_img", 768, str(tmp_path)) as held:
        for first, end in ((20, 30), (5, 5), (0, 12)):
            held.add_part(path, first, end)
        assert held.take(np.arange(22)).tobytes() == values[order[[*range(20, 30), *range(12)]]].tobytes()
        with pytest.raises(CurateError, match=r"a\.features: it ends before byte 47616, but it was whole"):
            held.add_part(path, 29, 31)


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_rows_are_read_ahead(tmp_path: pathlib.Path, monkeypatch, block: int) -> None:
    monkeypatch.setattr(carried, "_AHEAD", block)
    values, order = made(60), RNG.permutation(60)
    with Carried("l14_img", 768, str(tmp_path)) as held:
        held.add(column_of(values), np.arange(60))
        read = Ordered(held, order)
        for start, end in [(0, 3), (3, 3), (3, 20), (50, 60), (0, 60), (59, 60), (10, 11), (9, 30)]:
            assert read(start, end).tobytes() == values[order[start:end]].tobytes()


def test_no_rows(tmp_path: pathlib.Path) -> None:
    with Carried("l14_img", 768, str(tmp_path)) as held:
        held.add(column_of(made(5)), np.arange(0))
        held.write(f"{tmp_path}/a", np.arange(0))
        held.add_part(f"{tmp_path}/a", 0, 0)
        Ordered(held, np.arange(0))
    assert (tmp_path / "a").read_bytes() == b""


def test_memory_is_a_blocks(tmp_path: pathlib.Path, monkeypatch) -> None:
    monkeypatch.setattr(carried, "_ROWS", 1024)
    values = column_of(made(1000))
    tracemalloc.start()
    with Carried("l14_img", 768, str(tmp_path)) as held:
        for _ in range(20):
            held.add(values, np.arange(1000))
        order = RNG.permutation(20_000)
        held.write(f"{tmp_path}/a", order)
        held.add_part(f"{tmp_path}/a", 0, 20_000)
        read = Ordered(held, order)
        for start in range(0, 20_000, 1000):
            read(start, start + 1000)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20  # of 31 MB
    tracemalloc.stop()
