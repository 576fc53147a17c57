"""negCLIPLoss equals a plain restatement in float64, in which nothing is cut into blocks."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from filters import negcliploss
from filters.negcliploss import NegClipLossFraction
from filters.recipes import Recipe, check
from metadata.errors import CurateError
from metadata.uids import UID_DTYPE

RNG = np.random.default_rng(0)


def units(rows: int, dims: int = 96, spread: float = 1.0) -> np.ndarray:
    values = RNG.standard_normal((rows, dims)) * spread + 1
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def uids_of(rows: int) -> np.ndarray:
    return RNG.integers(0, 1 << 63, (rows, 2), dtype=np.uint64).view(UID_DTYPE)[:, 0]


def restated(images, texts, uids, *, seed=0, batch=32_768, tau=0.01, draws=10) -> np.ndarray:
    """The definition, draw by draw and batch by batch; a batch that all pairs are too few for has them once each."""
    images, texts = images.astype(np.float64), texts.astype(np.float64)
    both = np.isfinite(images + texts).all(axis=1) & images.any(axis=1) & texts.any(axis=1)
    good = np.flatnonzero(both).tolist()
    found = np.full((draws, len(uids)), np.nan)
    for draw in range(draws):
        salt = hashlib.blake2b(f"{seed}/{draw}".encode(), digest_size=16).digest()

        def key(i: int, salt: bytes = salt) -> int:
            digest = hashlib.blake2b(uids[i].tobytes(), digest_size=8, salt=salt).digest()
            return int.from_bytes(digest, "little")

        order = sorted(good, key=key)
        for start in range(0, len(order), batch):
            own = order[start : start + batch]
            members = own + order[: max(min(batch, len(order)) - len(own), 0)]
            for i in own:
                losses = [np.logaddexp.reduce(images[i] @ texts[members].T / tau),
                          np.logaddexp.reduce(texts[i] @ images[members].T / tau)]  # fmt: skip
                losses = [loss + np.log(batch / len(members)) for loss in losses]
                found[draw, i] = images[i] @ texts[i] - tau / 2 * sum(losses)
    return found.mean(axis=0)


@pytest.mark.parametrize("options", [
    {"batch": 50}, {"batch": 200}, {"batch": 64, "draws": 3, "seed": 7}, {"batch": 1000, "draws": 1},
    {"batch": 30, "tau": 0.07}, {"batch": 199},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_equals_the_definition(monkeypatch, options, spread) -> None:
    monkeypatch.setattr(negcliploss, "_IMAGES", 17)
    monkeypatch.setattr(negcliploss, "_TEXTS", 23)
    images, texts, uids = units(200, spread=spread), units(200, spread=spread), uids_of(200)
    images[10], texts[20], texts[30, 3] = 0, 0, np.nan
    options = {"draws": 2, **options}
    found = negcliploss.scores(images, texts, uids, **options)
    assert found.dtype == np.float32
    assert np.isnan(found).nonzero()[0].tolist() == [10, 20, 30]
    assert np.allclose(found, restated(images, texts, uids, **options), rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("tau", [0.01, 0.003])
def test_opposite_features_lose_nothing(tau) -> None:
    """Half of the pairs are as similar as can be to each other, and the others the opposite of everything."""
    images = np.repeat(units(1), 40, axis=0)
    texts = images * np.float16(-1)
    images[:20], texts[:20] = units(20, spread=0.1), units(20, spread=0.1)
    uids = uids_of(40)
    found = negcliploss.scores(images, texts, uids, batch=40, tau=tau, draws=1)
    assert np.isfinite(found).all()
    assert np.allclose(found, restated(images, texts, uids, batch=40, tau=tau, draws=1), rtol=0, atol=1e-6)
    lone = negcliploss.scores(-images[-2:], images[-2:], uids[:2], batch=2, tau=tau, draws=1)  # every sum is tiny
    assert np.allclose(lone, restated(-images[-2:], images[-2:], uids[:2], batch=2, tau=tau, draws=1), atol=1e-6)


def test_a_file_of_few_pairs_is_scored_like_one_in_which_each_comes_often() -> None:
    images, texts, uids = units(60), units(60), uids_of(240)
    few = negcliploss.scores(images, texts, uids[:60], batch=240, draws=3)
    many = negcliploss.scores(np.tile(images, (4, 1)), np.tile(texts, (4, 1)), uids, batch=240, draws=1)
    assert np.allclose(np.tile(few, 4), many, rtol=0, atol=1e-6)
    reference = negcliploss.scores(images, texts, uids[:60], batch=60, draws=1)
    assert np.allclose(few - reference, -0.01 * np.log(4), rtol=0, atol=1e-6)  # so the order is the reference's


def test_the_order_of_the_rows_does_not_matter() -> None:
    images, texts, uids = units(300), units(300), uids_of(300)
    found = negcliploss.scores(images, texts, uids, batch=64, draws=3)
    order = RNG.permutation(300)
    again = negcliploss.scores(images[order], texts[order], uids[order], batch=64, draws=3)
    assert np.allclose(again, found[order], rtol=0, atol=1e-7)


def test_seeds_and_draws_are_different_batches_and_the_same_again() -> None:
    uids = uids_of(1000)
    orders = [np.argsort(negcliploss._hashes(uids, seed, draw)).tolist() for seed in (0, 1) for draw in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == np.argsort(negcliploss._hashes(uids, 0, 0)).tolist()


def test_a_memory_map_is_read(tmp_path) -> None:
    images, texts, uids = units(100), units(100), uids_of(100)
    np.save(tmp_path / "a.npy", images)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    found = negcliploss.scores(mapped, texts, uids, batch=32, draws=1)
    assert np.array_equal(found, negcliploss.scores(images, texts, uids, batch=32, draws=1))


def test_nothing_to_score() -> None:
    assert negcliploss.scores(units(0), units(0), uids_of(0)).shape == (0,)
    nothing = np.zeros((3, 8), np.float16)
    assert np.isnan(negcliploss.scores(nothing, nothing, uids_of(3))).all()


@pytest.mark.parametrize(("options", "told"), [
    ({"batch": 1}, "negcliploss: batch is 1, but it is at least 2. Give more."),
    ({"tau": 0.0}, "negcliploss: tau is 0.0, but it is at least 0.003. Give more."),
    ({"tau": float("nan")}, "negcliploss: tau is nan, but"),
    ({"tau": float("inf")}, "negcliploss: tau is inf, but"),
    ({"seed": -1}, "negcliploss: seed is -1, but it lies from 0 to 2**64 - 1. Give 0."),
    ({"draws": 0}, "negcliploss: draws is 0, but it is at least 1. Give more."),
])  # fmt: skip
def test_parameters_out_of_range(options, told) -> None:
    with pytest.raises(CurateError) as error:
        negcliploss.scores(units(3), units(3), uids_of(3), **options)
    assert str(error.value).startswith(told)
    with pytest.raises(CurateError) as error:
        NegClipLossFraction(0.3, **options)
    assert str(error.value).startswith(told)


def test_features_that_are_not_of_unit_length() -> None:
    with pytest.raises(CurateError, match=r"^text features: features that are not of unit length \(2 to 2\)"):
        negcliploss.scores(units(3), units(3) * np.float16(2), uids_of(3))


def test_images_and_texts_of_different_models() -> None:
    recipe = Recipe("mine", (NegClipLossFraction(0.3, "dfn"),))
    kinds = {"uid": pa.string(), "dfn_img": pa.list_(pa.float16(), 64), "dfn_txt": pa.list_(pa.float16(), 64)}
    check(recipe, pa.schema(kinds.items()))
    with pytest.raises(CurateError) as error:
        check(recipe, pa.schema((kinds | {"dfn_txt": pa.list_(pa.float16(), 32)}).items()))
    assert str(error.value) == (
        "negcliploss: dfn_img has 64 dimensions, but dfn_txt has 32, and their products are taken, so both must be of "
        "one model. Score the pool with one, or read the right one by --columns dfn_txt=NAME."
    )
