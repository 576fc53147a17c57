"""negCLIPLoss as a step: of each file the rows that reach it, equal to the definition on one worker and on two."""

import dataclasses
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from choosing import choose_in_a_loop, choose_on_beam, files, plan

from filters import negcliploss
from filters.captions import CaptionLength
from filters.negcliploss import NegClipLossFraction
from filters.recipes import Recipe, open_recipe
from metadata import uids
from metadata.uids import UID_DTYPE
from pipeline import select

BEST = Recipe("best", (CaptionLength(), NegClipLossFraction(0.3, "b32", batch=50, draws=2)))


def restated(images: np.ndarray, texts: np.ndarray, ids: np.ndarray, batch: int, draws: int) -> np.ndarray:
    """In float64, pair by pair."""
    images, texts, found = images.astype(float), texts.astype(float), np.zeros((draws, len(ids)))
    for draw in range(draws):
        order = np.argsort(negcliploss._hashes(ids, 0, draw))
        for start in range(0, len(order), batch):
            own = order[start : start + batch]
            members = np.concatenate([own, order[: max(min(batch, len(order)) - len(own), 0)]])
            for i in own:
                losses = [np.logaddexp.reduce(images[i] @ texts[members].T / 0.01),
                          np.logaddexp.reduce(texts[i] @ images[members].T / 0.01)]  # fmt: skip
                found[draw, i] = images[i] @ texts[i] - 0.005 * (sum(losses) + 2 * np.log(batch / len(members)))
    return found.mean(axis=0)


def units(rng: np.random.Generator, rows: int, dims: int) -> np.ndarray:
    values = rng.standard_normal((rows, dims)) + 1
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def add_features(pool: pathlib.Path, model: str, dims: int) -> dict[str, dict[str, np.ndarray]]:
    """An npz beside each file, by the file's name: some rows have no image's or text's features."""
    rng, made = np.random.default_rng(0), {}
    for file in sorted(pool.iterdir()):
        rows = pq.read_metadata(file).num_rows
        arrays = {f"{model}_{kind}": units(rng, rows, dims) for kind in ("img", "txt")}
        arrays[f"{model}_img"][::40], arrays[f"{model}_txt"][5::40, 3] = 0, np.nan
        np.savez(file.with_suffix(".npz"), **arrays)
        made[file.name] = arrays
    return made


def ids_of(rows: list[dict], numbers: list[int]) -> np.ndarray:
    return np.array([(int(rows[n]["uid"][:16], 16), int(rows[n]["uid"][16:], 16)) for n in numbers], UID_DTYPE)


def test_the_best_by_the_definition(write_pool, toy_rows, tmp_path):
    pool, scored, reached = write_pool(tmp_path / "pool", toy_rows), {}, 0
    for name, arrays in add_features(pool, "b32", 512).items():
        rows = pq.read_table(pool / name).to_pylist()
        alive = [n for n, r in enumerate(rows) if r["text"] and len(r["text"].split()) >= 3 and len(r["text"]) > 5]
        reached += len(alive)
        good = [n for n in alive if n % 40 not in (0, 5)]
        ids = ids_of(rows, good)
        values = restated(arrays["b32_img"][good], arrays["b32_txt"][good], ids, 50, 2)
        scored |= dict(zip(uids.text_of(ids), values, strict=True))
    for name, choose in {"loop": choose_in_a_loop, "one": lambda *a: choose_on_beam(*a, workers=1),
                         "two": lambda *a: choose_on_beam(*a, workers=2)}.items():  # fmt: skip
        pieces, choice = plan(BEST, pool, tmp_path / name, kept_columns=("text",))
        choose(BEST, pieces, choice)
        kept = [pq.read_table(tmp_path / name / f"kept/{p.name}.parquet") for p in pieces]
        found = {u: s for t in kept for u, s in zip(t["uid"].to_pylist(), t["negcliploss"].to_pylist(), strict=True)}
        best = sorted(scored, key=scored.get, reverse=True)[: int(reached * 0.3)]
        assert found.keys() == set(best)
        assert np.allclose([found[u] for u in best], [scored[u] for u in best], rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_negcliploss_normsim_by_name(write_pool, toy_rows, tmp_path, norm):
    """30 percent, then 20 percent of the pool. The files are smaller than a batch, and of different sizes."""
    pool, pairs = write_pool(tmp_path / "pool", toy_rows), {}
    targets = units(np.random.default_rng(1), 50, 768)
    np.save(tmp_path / "targets.npy", targets)
    for name, arrays in add_features(pool, "l14", 768).items():
        rows = pq.read_table(pool / name).to_pylist()
        good = [n for n in range(len(rows)) if n % 40 not in (0, 5)]
        ids = ids_of(rows, good)
        losses = restated(arrays["l14_img"][good], arrays["l14_txt"][good], ids, 32_768, 1)
        products = arrays["l14_img"][good].astype(float) @ targets.astype(float).T
        norms = np.sqrt((products**2).sum(axis=1)) if norm == "l2" else products.max(axis=1)
        pairs |= dict(zip(uids.text_of(ids), zip(losses, norms, strict=True), strict=True))
    fitting = sorted(pairs, key=lambda uid: -pairs[uid][0])[: int(len(toy_rows) * 0.3)]
    alike = sorted(fitting, key=lambda uid: -pairs[uid][1])[: int(len(toy_rows) * 0.2)]

    recipe = open_recipe("negcliploss_normsim", {}, {"targets": str(tmp_path / "targets.npy")})
    first, second = recipe.steps
    recipe = dataclasses.replace(recipe, steps=(first, dataclasses.replace(second, norm=norm)))
    pieces, choice = plan(recipe, pool, tmp_path / "run", kept_columns=())
    choose_in_a_loop(recipe, pieces, choice)
    kept = [uid for path in (tmp_path / "run/kept").iterdir() for uid in pq.read_table(path)["uid"].to_pylist()]
    assert sorted(kept) == sorted(alike)


def test_a_killed_run_does_not_score_a_piece_again(toy_pool, tmp_path):
    add_features(toy_pool, "b32", 512)
    pieces, choice = plan(BEST, toy_pool, tmp_path / "run", kept_columns=("text",))
    select.fit_piece(pieces[0], BEST.steps[:1], BEST.steps[1], choice)
    scored = tmp_path / f"run/work/scores/negcliploss/{pieces[0].name}.arrow"
    written = scored.stat()
    choose_in_a_loop(BEST, pieces, choice)
    assert (scored.stat().st_ino, scored.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    undisturbed, its_choice = plan(BEST, toy_pool, tmp_path / "other", kept_columns=("text",))
    choose_in_a_loop(BEST, undisturbed, its_choice)
    assert files(tmp_path / "run") == files(tmp_path / "other")


def test_a_piece_of_which_no_row_reaches_the_scorer(toy_rows, write_pool, tmp_path):
    rows = [r | {"text": "short"} if n < 400 else r for n, r in enumerate(toy_rows)]  # all of one file, and more
    pool = write_pool(tmp_path / "pool", rows)
    add_features(pool, "b32", 512)
    for name, choose in {"loop": choose_in_a_loop, "beam": lambda *a: choose_on_beam(*a, workers=2)}.items():
        pieces, choice = plan(BEST, pool, tmp_path / name, kept_columns=("text",))
        choose(BEST, pieces, choice)
    kept = [pq.read_metadata(tmp_path / f"loop/kept/{piece.name}.parquet").num_rows for piece in pieces]
    assert [count == 0 for count in kept].count(True) == 1
    assert files(tmp_path / "loop") == files(tmp_path / "beam")
