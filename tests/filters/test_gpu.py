"""A GPU finds what the CPU finds. torch's own CPU stands in for one: the code is the same, and rounding may differ."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from filters import gpu, nearest, semantic_distinct, vectors
from filters.features import inner
from filters.nearest import Nearest

RNG = np.random.default_rng(0)


def units(rows: int) -> np.ndarray:
    values = RNG.standard_normal((rows, 768))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def nearest_of(values: np.ndarray, folder: pathlib.Path) -> Nearest:
    np.save(folder / "vectors.npy", values)
    return Nearest(vectors.Vectors(str(folder / "vectors.npy"), "l14_img", "test"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> str:
    """What is computed on in a GPU's place; a GPU, where there is one."""
    pytest.importorskip("torch")
    name = gpu.device() or "cpu"
    monkeypatch.setattr(gpu, "device", lambda: name)
    return name


@pytest.mark.slow
@pytest.mark.parametrize("block", [16_384, 100, 1])
@pytest.mark.usefixtures("device")
def test_the_same_vectors_are_found(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    rows, values = units(200), units(333)
    values[200:230] = values[50:80]  # ties, of which the first counts
    rows[:60], rows[100] = values[180:240], 0
    values[300] = rows[150]
    values[310:320] = rows[150]
    values[310:320, 7] += np.linspace(-1e-9, 1e-9, 10, dtype=np.float32)  # what float32 loses
    expected = (rows.astype(float) @ values.astype(float).T).argmax(axis=1)
    monkeypatch.setattr(gpu, "_VECTORS", block)
    found = nearest_of(values, tmp_path)
    assert found.gpu is not None
    searched = []
    search = nearest.Nearest._search
    monkeypatch.setattr(nearest.Nearest, "_search", lambda *args: searched.append(len(args[1])) or search(*args))
    assert found(rows).tolist() == expected.tolist()
    assert 30 < searched[0] < 100  # the open ones alone
    assert found(rows[:0]).tolist() == []
    assert nearest_of(values[:1], tmp_path)(rows).tolist() == [0] * 200


@pytest.mark.slow
@pytest.mark.usefixtures("device")
def test_the_same_rows_are_found_to_repeat_others(monkeypatch: pytest.MonkeyPatch) -> None:
    base = units(20)
    rows = (base[RNG.integers(0, 20, 150)] + RNG.uniform(0, 0.02, (150, 1)) * units(150) * 28).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.triu(rows.astype(float) @ rows.astype(float).T, 1)
    thresholds = [0.9, 0.95, *cosines[0, 1:6].tolist()]
    monkeypatch.setattr(semantic_distinct, "_ROWS", 64)
    for threshold in thresholds:
        found = semantic_distinct.repeats(lambda start, end: rows[start:end], 0, 150, threshold)
        assert found.tolist() == [any(inner(rows[:n], rows[n]) > threshold) for n in range(150)]
        assert 0 < found.sum() < 150


def test_torch_is_not_imported_where_there_is_no_gpu() -> None:
    code = ("import sys, filters.gpu as gpu; gpu._DEVICES = ('/dev/none[0-9]',); "
            "print(repr(gpu.device()), 'torch' in sys.modules)")  # fmt: skip
    root = pathlib.Path(gpu.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "'' False\n"
