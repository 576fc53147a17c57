"""The nearest vector is that of exact arithmetic, whatever the blocks; ties go to the first."""

import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import nearest, vectors
from filters.nearest import Nearest

RNG = np.random.default_rng(0)


def units(rows: int) -> np.ndarray:
    values = RNG.standard_normal((rows, 768))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def made(values: np.ndarray) -> Nearest:
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/vectors.npy", values)
        return Nearest(vectors.Vectors(f"{folder}/vectors.npy", "l14_img", "test"))


def restated(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    return (rows.astype(np.float64) @ values.astype(np.float64).T).argmax(axis=1)


@pytest.mark.parametrize("blocks", [(1024, 8192), (64, 100), (7, 13), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_equals_a_product_in_float64(monkeypatch, blocks, dtype) -> None:
    monkeypatch.setattr(nearest, "_ROWS", blocks[0])
    monkeypatch.setattr(nearest, "_VECTORS", blocks[1])
    rows, values = units(150), units(333).astype(dtype)
    assert np.array_equal(made(values)(rows), restated(rows, values))


@pytest.mark.parametrize("columns", [8192, 10, 1])
def test_of_equal_ones_the_first(monkeypatch, columns) -> None:
    monkeypatch.setattr(nearest, "_VECTORS", columns)
    base = units(40)
    values = base[RNG.integers(0, 40, 500)]
    index = made(values)(base)
    assert index.tolist() == [
        int(np.flatnonzero((values == row).all(axis=1))[0]) if (values == row).all(axis=1).any() else i
        for row, i in zip(base, index.tolist(), strict=True)
    ]
    assert (made(values[:1].repeat(3000, axis=0))(base) == 0).all()
    assert (made(values)(np.zeros((5, 768), np.float32)) == 0).all()


def test_rows_without_features_are_not_compared_with_every_vector(monkeypatch) -> None:
    compared, inner = [], nearest.inner
    monkeypatch.setattr(nearest, "inner", lambda a, b: compared.append(len(a)) or inner(a, b))
    find, rows = made(units(2000)), units(10)
    rows[::2] = 0
    compared.clear()
    assert (find(rows)[::2] == 0).all()
    assert sum(compared) < 100


@pytest.mark.parametrize("columns", [8192, 20, 1])
def test_differences_that_float32_loses_decide(monkeypatch, columns) -> None:
    monkeypatch.setattr(nearest, "_VECTORS", columns)
    row = units(1)
    values = np.repeat(row, 50, axis=0)
    place = int(np.abs(row[0]).argmin())
    values[:, place] = 0  # the 50 products are equal but for what this place gives
    for better in (37, 11, 48):
        values[better, place] = row[0, place] * (1 + better) * 1e-5
        products = row.astype(np.float64) @ values.astype(np.float64).T
        assert 0 < products[0, 37] - products[0, 0] < 1e-9
        assert made(values)(row).tolist() == [int(products.argmax())]


def test_a_row_has_the_same_answer_in_any_batch() -> None:
    rows, find = units(300), made(units(1000))
    index = find(rows)
    for start, end in [(0, 1), (3, 20), (17, 299), (150, 300)]:
        assert np.array_equal(find(rows[start:end]), index[start:end])
    assert find(rows[:0]).shape == (0,)


def test_lengths_do_not_matter_to_the_exactness() -> None:
    rows = units(50) * RNG.uniform(0.1, 300, (50, 1)).astype(np.float32)
    values = units(90) * RNG.uniform(0.1, 300, (90, 1)).astype(np.float32)
    assert np.array_equal(made(values)(rows), restated(rows, values))


@settings(max_examples=30)
@given(data=st.data())
def test_small_whole_numbers_tie_often(data) -> None:
    number = st.integers(-2, 2)
    draw = data.draw(st.lists(st.tuples(number, number, number), min_size=2, max_size=12))
    grid = np.zeros((len(draw), 768), np.float32)
    grid[:, [0, 400, 767]] = np.array(draw)
    grid[:, 5] = 1  # none is all zeros
    products = (grid[:, None] * grid[None]).sum(axis=2)
    assert made(grid)(grid).tolist() == products.argmax(axis=1).tolist()
