"""OutsideEvaluationSets drops what is above the threshold with any evaluation image, as a plain restatement says."""

import hashlib
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from filters.evaluation_sets import OutsideEvaluationSets
from filters.recipe_file import read
from filters.recipes import open_recipe
from metadata.errors import CurateError

RNG = np.random.default_rng(0)


def units(rows: int, dims: int = 256, dtype: type = np.float32) -> np.ndarray:
    values = RNG.standard_normal((rows, dims))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(dtype)


def batch_of(values: np.ndarray, name: str = "dedup") -> pa.RecordBatch:
    return pa.record_batch({name: pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])})


def step(folder: pathlib.Path, targets: np.ndarray, **options) -> OutsideEvaluationSets:
    path = folder / f"{hashlib.md5(targets.tobytes()).hexdigest()}.npy"
    np.save(path, targets)
    return OutsideEvaluationSets(str(path), **options)


def restated(rows: np.ndarray, targets: np.ndarray, threshold: float) -> list[bool]:
    """Row by row, in float64."""
    wide = targets.astype(np.float64)
    return [bool(np.isfinite(row).all() and row.any()) and bool((wide @ row.astype(np.float64)).max() <= threshold)
            for row in rows]  # fmt: skip


def test_keeps_what_the_restatement_keeps(tmp_path):
    targets, rows = units(70), units(300)
    for number in range(200):  # from no likeness at all to the same image
        share = number / 200
        mixed = share * targets[number % 70] + (1 - share) * rows[number]
        rows[number] = mixed / np.linalg.norm(mixed)
    rows[250], rows[251, 3] = 0, np.nan
    for threshold in (None, 0.9):
        made = step(tmp_path, targets, threshold=threshold)
        keep = made.keep(batch_of(rows))
        assert keep.null_count == 0
        assert keep.to_pylist() == restated(rows, targets, threshold or 0.604169)
        assert 120 < sum(keep.to_pylist()) < 298
        assert keep.to_pylist()[250:252] == [False, False]
        assert [k for i in range(0, 300, 37) for k in made.keep(batch_of(rows).slice(i, 37)).to_pylist()] == (
            keep.to_pylist()
        )


def test_a_cosine_of_just_the_threshold_is_not_above_it(tmp_path):
    targets, rows = np.zeros((2, 256), np.float32), np.zeros((3, 256), np.float32)
    targets[0, 0] = targets[1, 1] = 1
    rows[:, 2] = [np.sqrt(0.75)] * 3
    rows[:, 1] = [np.nextafter(np.float32(0.5), np.float32(0)), 0.5, np.nextafter(np.float32(0.5), np.float32(1))]
    assert step(tmp_path, targets, threshold=0.5).keep(batch_of(rows)).to_pylist() == [True, True, False]


def test_a_null_row_is_dropped_and_no_rows_are_no_rows(tmp_path):
    made, values = step(tmp_path, units(3), threshold=0.99), units(3)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 256, mask=pa.array([False, True, False]))
    assert made.keep(pa.record_batch({"dedup": column})).to_pylist() == [True, False, True]
    assert made.keep(batch_of(units(0))).to_pylist() == []


def test_other_embeddings_need_a_threshold(tmp_path):
    targets, rows = units(5, 768, np.float16), units(50, 768, np.float16)
    rows[7] = targets[2]
    made = step(tmp_path, targets, threshold=0.95, embedding="l14_img")
    assert made.columns == ("l14_img",)
    assert made.keep(batch_of(rows, "l14_img")).to_pylist() == [row != 7 for row in range(50)]
    told = "^outside_evaluation_sets: threshold is missing, but only that of dedup is known. Add it."
    with pytest.raises(CurateError, match=told):
        OutsideEvaluationSets("x", embedding="l14_img")
    with pytest.raises(CurateError, match=r"unknown embedding 'l14_im'\. Did you mean 'l14_img'"):
        OutsideEvaluationSets("x", 0.5, "l14_im")
    with pytest.raises(CurateError, match="threshold is NaN"):
        OutsideEvaluationSets("x", float("nan"))


def test_vectors_that_are_not_of_unit_length(tmp_path):
    with pytest.raises(CurateError, match=r"^dedup: features that are not of unit length"):
        step(tmp_path, units(3)).keep(batch_of(units(3) * 2))
    made = step(tmp_path, units(4) * 2)
    with pytest.raises(CurateError, match=rf"^outside_evaluation_sets: targets {made.targets}: features that are not"):
        made.keep(batch_of(units(3)))
    with pytest.raises(CurateError, match=rf"^outside_evaluation_sets: targets {made.targets}: features that are not"):
        made.describe()  # when the recipe is opened, before anything runs


def test_the_targets_are_known_by_their_hash_and_a_recipe_names_them(tmp_path):
    made = step(tmp_path, units(3))
    digest = hashlib.sha256(pathlib.Path(made.targets).read_bytes()).hexdigest()
    assert made.describe() == {"targets_sha256": [digest], "threshold": 0.604169, "embedding": "dedup"}
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"""
name: clean
steps:
  - outside_evaluation_sets: {made.targets}
  - outside_evaluation_sets: {{targets: {made.targets}, threshold: 0.9, embedding: b32_img}}
""")
    assert read(str(recipe)).steps == (made, OutsideEvaluationSets(made.targets, 0.9, "b32_img"))
    recipe.write_text("{name: clean, steps: [outside_evaluation_sets: evalset]}")
    assert open_recipe(str(recipe), {}, {"evalset": made.targets}).steps == (made,)
    with pytest.raises(CurateError, match=r"needs a file of evalset, but none was given\. Give --file evalset=PATH"):
        open_recipe(str(recipe))
