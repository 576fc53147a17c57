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


WITHOUT = """
name: without
steps:
  - outside_evaluation_sets: {targets: targets, threshold: 0.9, embedding: l14_img}
  - clip_score: {model: b32, threshold: 0.2}
  - clip_score: {model: l14, fraction: 0.9}
  - image_based: {centroids: centroids, targets: targets, embedding: l14_txt}
  - normsim: {targets: targets, threshold: 0.1, embedding: l14_txt}
"""


def test_rows_without_a_score_or_features_are_counted_by_the_step_that_drops_them(curate, pool, files, tmp_path):
    """Those of the steps before a fit, too, whose fates are read again after it."""
    (tmp_path / "r.yaml").write_text(WITHOUT)
    expected, reach = [0, 0, 0, 0, 0], []
    for path in sorted(pool.glob("*.parquet")):
        arrays = dict(np.load(path.with_suffix(".npz")))
        arrays["l14_img"][::10], arrays["l14_img"][5::20, 3] = 0, np.nan
        arrays["l14_txt"][1::10] = 0
        np.savez(path.with_suffix(".npz"), **arrays)
        rows = pq.read_table(path).to_pylist()
        for n, row in enumerate(rows):
            b32, l14 = (np.float32(row[f"clip_{name}_similarity_score"]) for name in ("b32", "l14"))  # of None: NaN
            if not arrays["l14_img"][n].any() or np.isnan(arrays["l14_img"][n]).any():
                expected[0] += 1
            elif np.isnan(b32):
                expected[1] += 1
            elif b32 >= np.float32(0.2):
                reach.append((l14, arrays["l14_txt"][n].any()))
    scores = np.array([score for score, _ in reach])
    expected[2] = int(np.isnan(scores).sum())
    threshold = -np.sort(-scores)[int(len(scores) * 0.9)]
    expected[3] = sum(not there for score, (_, there) in zip(scores, reach, strict=True) if score >= threshold)
    options = ["--pool", pool, "--recipe", tmp_path / "r.yaml", *files, "--select-only", "--keep-dropped"]
    done = curate(*options, "--workers", "2", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/manifest.json").read_text())
    fitted = [next(iter(step.values())) for step in record["fitted"]]
    assert [step["rows_without_score"] for step in fitted] == expected
    assert min(expected[:2] + expected[3:4]) > 0
    assert f"embedding l14_txt, rows_without_score {expected[3]}" in done.stdout
    dropped = [row for path in (tmp_path / "run/dropped").iterdir() for row in pq.read_table(path)["step"].to_pylist()]
    steps = record["rows"]["dropped"]
    assert {step: dropped.count(step) for step in set(dropped)} == {
        name: sum(step["dropped"] for step in steps if step["step"] == name) for name in set(dropped)
    }


def test_a_file_that_was_not_given_is_asked_for(curate, pool, tmp_path):
    done = curate("--pool", pool, "--recipe", "image_based", "--select-only", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "Give --file centroids=PATH --file targets=PATH" in done.stderr
