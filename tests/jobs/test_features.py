"""Recipes that read embeddings, as users run them: files by name, and an npz beside each parquet file."""

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

RNG = np.random.default_rng(0)


def units(rows: int) -> np.ndarray:
    """float16, shape (rows, 768), of unit length."""
    values = RNG.standard_normal((rows, 768))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def pool(toy_pool: pathlib.Path) -> pathlib.Path:
    """The toy pool with features."""
    for path in toy_pool.glob("*.parquet"):
        rows = pq.read_metadata(path).num_rows
        images = units(rows)
        images[rows // 2 :] = images[: rows - rows // 2]
        np.savez(path.with_suffix(".npz"), l14_img=images, l14_txt=units(rows))
    return toy_pool


@pytest.fixture
def files(tmp_path: pathlib.Path) -> list[str]:
    """The options that name centroids and targets."""
    for name in ("centroids", "targets"):
        np.save(tmp_path / f"{name}.npy", units(30))
    return [word for name in ("centroids", "targets") for word in ("--file", f"{name}={tmp_path}/{name}.npy")]


#: negcliploss_normsim with batches small enough for a test.
SMALL = """
name: small
steps:
  - negcliploss: {fraction: 0.3, batch: 64, draws: 2}
  - normsim: {targets: targets, fraction: 0.2, of: pool}
"""


@pytest.mark.parametrize("recipe", ["image_based", "semdedup", "small.yaml"])
def test_recipes_that_read_embeddings(curate, pool, files, tmp_path, recipe):
    (tmp_path / "small.yaml").write_text(SMALL)
    options = {"image_based": files, "semdedup": files[:2], "small.yaml": files[2:]}[recipe]
    done = curate("--pool", pool, "--recipe", recipe, *options, "--select-only", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("3,000 of 3,000 rows in 3 passes (100%)" in done.stderr) == (recipe == "semdedup")
    rows = json.loads((tmp_path / "run/manifest.json").read_text())["rows"]
    assert 0 < rows["kept"] < rows["in"] == 1000
    assert rows["kept"] + sum(step["dropped"] for step in rows["dropped"]) == 1000
    assert not {"l14_img", "l14_txt"} & set(pq.read_schema(next((tmp_path / "run/kept").iterdir())).names)


def test_a_file_that_was_not_given_is_asked_for(curate, pool, tmp_path):
    done = curate("--pool", pool, "--recipe", "image_based", "--select-only", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "Give --file centroids=PATH --file targets=PATH" in done.stderr
