"""ImageBased keeps the rows whose nearest centroid is the nearest of a target, as a plain restatement says."""

import hashlib
import pathlib
import pickle

import numpy as np
import pyarrow as pa
import pytest

from filters.image_based import ImageBased
from metadata.errors import CurateError

RNG = np.random.default_rng(0)


def units(rows: int, dims: int = 768) -> np.ndarray:
    values = RNG.standard_normal((rows, dims))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def batch_of(values: np.ndarray, name: str = "l14_img") -> pa.RecordBatch:
    return pa.record_batch({name: pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])})


def step(folder: pathlib.Path, centroids: np.ndarray, targets: np.ndarray, **options: str) -> ImageBased:
    """The step over files of its own: what it reads is kept for the life of the process."""
    name = hashlib.md5(centroids.tobytes() + targets.tobytes()).hexdigest()
    np.save(folder / f"{name}.centroids.npy", centroids)
    np.save(folder / f"{name}.targets.npy", targets)
    return ImageBased(f"{folder}/{name}.centroids.npy", f"{folder}/{name}.targets.npy", **options)


def restated(rows: np.ndarray, centroids: np.ndarray, targets: np.ndarray) -> list[bool]:
    """Row by row, in float64."""

    def nearest(row: np.ndarray) -> int:
        products = [float(row.astype(np.float64) @ centroid.astype(np.float64)) for centroid in centroids]
        return products.index(max(products))

    wanted = {nearest(target) for target in targets}
    return [bool(np.isfinite(row).all() and row.any()) and nearest(row) in wanted for row in rows]


def test_keeps_what_the_restatement_keeps(tmp_path: pathlib.Path) -> None:
    rows, centroids, targets = units(300), units(120), units(60)
    centroids[60:80] = centroids[10:30]  # ties, of which the first counts
    rows[:50] = centroids[50:100]
    rows[100], rows[200, 3] = 0, np.nan
    expected = restated(rows, centroids, targets)
    keep = step(tmp_path, centroids, targets).keep(batch_of(rows))
    assert keep.to_pylist() == expected
    assert keep.null_count == 0
    assert 50 < sum(expected) < 200
    assert not expected[100]
    assert not expected[200]


def test_rows_and_targets_that_are_tied_between_centroids_meet_at_the_first(tmp_path: pathlib.Path) -> None:
    centroids = np.zeros((4, 768), np.float32)
    centroids[:, 0] = [0.5, 1, 1, 0.5]  # rows along the first axis are tied between 1 and 2
    centroids[3, 1] = 2
    along = np.zeros((1, 768), np.float16)
    along[0, 0] = 1
    away = np.roll(along, 1, axis=1)
    made = step(tmp_path, centroids, along)
    assert made.wanted.tolist() == [False, True, False, False]
    assert made.keep(batch_of(np.concatenate([along, away]))).to_pylist() == [True, False]
    assert step(tmp_path, centroids, away).wanted.tolist() == [False, False, False, True]


def test_a_null_row_is_dropped_and_no_rows_are_no_rows(tmp_path: pathlib.Path) -> None:
    centroids = units(3)
    made = step(tmp_path, centroids, centroids)
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(units(3).reshape(-1)), 768, mask=pa.array([False, True, False])
    )
    assert made.keep(pa.record_batch({"l14_img": column})).to_pylist() == [True, False, True]
    assert made.keep(batch_of(units(0))).to_pylist() == []


def test_any_split_gives_the_same(tmp_path: pathlib.Path) -> None:
    made, rows = step(tmp_path, units(50), units(20)), batch_of(units(200))
    whole = made.keep(rows).to_pylist()
    assert [k for i in range(0, 200, 33) for k in made.keep(rows.slice(i, 33)).to_pylist()] == whole


def test_other_embeddings(tmp_path: pathlib.Path) -> None:
    rows, centroids, targets = units(50, 512), units(20, 512), units(5, 512)
    made = step(tmp_path, centroids, targets, embedding="b32_img")
    assert made.columns == ("b32_img",)
    assert made.keep(batch_of(rows, "b32_img")).to_pylist() == restated(rows, centroids, targets)
    with pytest.raises(CurateError, match=r"image_based: unknown embedding 'l14'\. Did you mean 'l14_"):
        ImageBased("a", "b", "l14")


def test_features_that_are_not_of_unit_length(tmp_path: pathlib.Path) -> None:
    made = step(tmp_path, units(3), units(3))
    with pytest.raises(CurateError, match=r"^l14_img: features that are not of unit length \(2 to 2\)"):
        made.keep(batch_of(units(3) * np.float16(2)))


def test_the_files_are_known_by_their_hash(tmp_path: pathlib.Path) -> None:
    made = step(tmp_path, units(3), units(4))
    hashes = [hashlib.sha256(pathlib.Path(p).read_bytes()).hexdigest() for p in (made.centroids, made.targets)]
    assert made.describe() == {
        "centroids_sha256": [hashes[0]], "targets_sha256": [hashes[1]], "embedding": "l14_img",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["centroids", "targets"])
def test_files_that_do_not_fit_are_named(tmp_path: pathlib.Path, kind: str) -> None:
    good, bad = tmp_path / "good.npy", tmp_path / f"{kind}.npy"
    np.save(good, units(3))
    np.save(bad, units(3, 512))
    made = ImageBased(**{"centroids": str(good), "targets": str(good), kind: str(bad)})
    told = rf"^image_based: {kind} {bad}: has vectors of 512 numbers, but l14_img has 768: it is of another model"
    with pytest.raises(CurateError, match=told):
        made.keep(batch_of(units(2)))
    missing = ImageBased(**{"centroids": str(good), "targets": str(good), kind: "none.npy"})
    with pytest.raises(CurateError, match=rf"^image_based: {kind} none.npy: there is no such file"):
        missing.describe()


def test_workers_get_what_was_found_for_the_targets(tmp_path: pathlib.Path) -> None:
    rows, centroids, targets = units(40), units(20), units(5)
    made = step(tmp_path, centroids, targets)
    sent = pickle.dumps(made)
    pathlib.Path(made.targets).unlink()
    there = pickle.loads(sent)
    assert there == made
    assert there.keep(batch_of(rows)).to_pylist() == restated(rows, centroids, targets)
