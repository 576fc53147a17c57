"""NormSim is the norm of the inner products with the targets; the best fraction is of the step or of the pool."""

import hashlib
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from filters.base import Filter, Fit
from filters.normsim import NormSim, NormSimFraction, NormSimScores
from metadata.errors import CurateError

RNG = np.random.default_rng(0)


def units(rows: int) -> np.ndarray:
    values = RNG.standard_normal((rows, 768))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def column_of(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 768)


def normsim(column: pa.FixedSizeListArray, targets: str, norm: str = "l2") -> pa.FloatArray:
    scorer = NormSimScores(targets, norm, "l14_img")
    return scorer.load(scorer.build())(pa.record_batch({"l14_img": column}))


def batch_of(values: np.ndarray, targets: str, norm: str = "l2") -> pa.RecordBatch:
    """What reaches the step: the rows with the scorer's column."""
    return pa.record_batch({f"normsim_{norm}": normsim(column_of(values), targets, norm)})


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("normsim") / "targets.npy"
    np.save(path, units(70))
    return str(path)


def restated(rows: np.ndarray, targets: str, norm: str) -> np.ndarray:
    products = rows.astype(np.float64) @ np.load(targets).astype(np.float64).T
    scores = np.sqrt((products**2).sum(axis=1)) if norm == "l2" else products.max(axis=1)
    scores[~(np.isfinite(rows).all(axis=1) & rows.any(axis=1))] = np.nan
    return scores


def fitted(fit: Fit, batches: list[pa.RecordBatch], dropped: int = 0) -> Filter:
    for _ in range(type(fit).passes):
        state = fit.skip(fit.empty(), dropped)
        for batch in batches:
            state = fit.add(state, batch)
        fit = fit.finish(state)
    return fit


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_scores_are_the_norms(targets: str, norm: str) -> None:
    rows = units(200)
    rows[3], rows[5, 9] = 0, np.nan
    scores = normsim(column_of(rows), targets, norm)
    assert scores.type == pa.float32()
    expected = restated(rows, targets, norm)
    assert np.allclose(scores.to_numpy(), expected, rtol=1e-7, atol=0, equal_nan=True)
    keep = NormSim(targets, float(np.nanmedian(expected)), norm).keep(batch_of(rows, targets, norm))
    assert keep.null_count == 0
    assert keep.to_pylist() == (expected >= np.nanmedian(expected)).tolist()
    assert len(normsim(column_of(rows[:0]), targets, norm)) == 0


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_score_is_the_same_in_any_batch(targets: str, norm: str) -> None:
    column = column_of(units(3000))
    whole = normsim(column, targets, norm)
    for start, length in [(0, 1), (1, 13), (100, 1500), (2999, 1)]:
        assert normsim(column.slice(start, length), targets, norm).equals(whole.slice(start, length))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_fraction_of_the_step_and_of_the_pool(targets: str, norm: str) -> None:
    rows = units(200)
    rows[:20] = 0
    batches = [batch_of(part, targets, norm) for part in np.array_split(rows, 3)]
    descending = -np.sort(-normsim(column_of(rows), targets, norm).to_numpy()[20:])

    def kept(fraction: float, of: str, dropped: int) -> int:
        found = fitted(NormSimFraction(targets, fraction, of, norm), batches, dropped)
        assert isinstance(found, NormSim)
        assert found.threshold in descending
        assert found.describe()["rows_without_score"] == 20
        return sum(sum(found.keep(batch).to_pylist()) for batch in batches)

    assert kept(0.2, "step", 0) == kept(0.2, "step", 600) == kept(0.2, "pool", 0) == 40  # rows without features count
    assert kept(0.2, "pool", 300) == 100
    assert kept(0.2, "pool", 3000) == 180
    assert kept(0.001, "step", 0) == 1


def test_what_has_nothing_in_common_with_the_targets_scores_nothing(tmp_path: pathlib.Path) -> None:
    axes = np.eye(768, dtype=np.float16)
    np.save(tmp_path / "axes.npy", axes[:700])
    scores = normsim(column_of(axes[650:]), str(tmp_path / "axes.npy")).to_numpy()
    assert scores.tolist() == [1.0] * 50 + [0.0] * 68
    one = RNG.standard_normal(768)
    rows = RNG.standard_normal((3000, 768))
    rows -= np.outer(rows @ one, one) / (one @ one)  # at right angles to the one target, but for rounding
    np.save(tmp_path / "one.npy", (one / np.linalg.norm(one))[None].astype(np.float32))
    column = pa.FixedSizeListArray.from_arrays(
        pa.array((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32).reshape(-1)), 768
    )
    scores = normsim(column, str(tmp_path / "one.npy")).to_numpy()
    assert (scores >= 0).all()
    assert (scores < 1e-6).all()


def test_ties_stay(targets: str) -> None:
    rows = np.repeat(units(5), 20, axis=0)
    batch = batch_of(rows, targets)
    found = fitted(NormSimFraction(targets, 0.3), [batch])
    assert sum(found.keep(batch).to_pylist()) == 40


def test_parameters_that_do_not_fit(targets: str, tmp_path: pathlib.Path) -> None:
    for make in (NormSim, NormSimFraction):
        with pytest.raises(CurateError, match=r"normsim: unknown norm 'l1'\. Known: l2, linf\."):
            make(targets, 0.2, norm="l1")
        with pytest.raises(CurateError, match=r"normsim: unknown embedding 'text'"):
            make(targets, 0.2, embedding="text")
    with pytest.raises(CurateError, match=r"normsim: fraction is 20, but it lies above 0 and below 1\."):
        NormSimFraction(targets, 20)
    with pytest.raises(CurateError, match=r"normsim: of is 'all', but it is step or pool\."):
        NormSimFraction(targets, 0.2, "all")
    with pytest.raises(CurateError, match=r"normsim: threshold is NaN"):
        NormSim(targets, float("nan"))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_targets_that_are_not_of_unit_length(tmp_path: pathlib.Path, norm: str) -> None:
    long = tmp_path / "long.npy"
    np.save(long, units(3) * np.float16(3))
    told = rf"^normsim: targets {long}: features that are not of unit length \(3 to"
    with pytest.raises(CurateError, match=told):
        normsim(column_of(units(1)), str(long), norm)
    with pytest.raises(CurateError, match=told):  # when the recipe is opened, before anything runs
        NormSimFraction(str(long), 0.2, norm=norm).describe()


def test_what_is_recorded_names_the_targets_by_their_hash(targets: str) -> None:
    sha256 = [hashlib.sha256(pathlib.Path(targets).read_bytes()).hexdigest()]
    assert NormSimFraction(targets, 0.2, "pool").name == NormSim(targets, 1.0).name == "normsim"
    assert NormSim(targets, 1.0, "linf").describe() == {
        "targets_sha256": sha256, "threshold": 1.0, "norm": "linf", "embedding": "l14_img"}  # fmt: skip
    assert NormSimFraction(targets, 0.2, "pool").describe() == {
        "targets_sha256": sha256, "fraction": 0.2, "of": "pool", "norm": "l2", "embedding": "l14_img"}  # fmt: skip
