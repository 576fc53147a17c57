"""negCLIPLoss as a step: of each file the rows that reach it, equal to the definition on one worker and on two."""

import numpy as np
import pyarrow.parquet as pq
from choosing import choose_in_a_loop, choose_on_beam, plan

from filters import negcliploss
from filters.captions import CaptionLength
from filters.negcliploss import NegClipLossFraction
from filters.recipes import Recipe
from metadata import uids
from metadata.uids import UID_DTYPE


def restated(images: np.ndarray, texts: np.ndarray, ids: np.ndarray, batch: int, draws: int) -> np.ndarray:
    """In float64, pair by pair."""
    images, texts, found = images.astype(float), texts.astype(float), np.zeros((draws, len(ids)))
    for draw in range(draws):
        order = np.argsort(negcliploss._hashes(ids, 0, draw))
        for start in range(0, len(order), batch):
            own = order[start : start + batch]
            members = np.concatenate([own, np.resize(order, batch - len(own))])
            for i in own:
                losses = [np.logaddexp.reduce(images[i] @ texts[members].T / 0.01),
                          np.logaddexp.reduce(texts[i] @ images[members].T / 0.01)]  # fmt: skip
                found[draw, i] = images[i] @ texts[i] - 0.005 * sum(losses)
    return found.mean(axis=0)


def test_the_best_by_the_definition(write_pool, toy_rows, tmp_path):
    rng, pool, scored, reached = np.random.default_rng(0), write_pool(tmp_path / "pool", toy_rows), {}, 0
    for file in sorted(pool.iterdir()):
        rows = pq.read_table(file).to_pylist()
        arrays = {}
        for name in ("b32_img", "b32_txt"):
            values = rng.standard_normal((len(rows), 512)) + 1
            arrays[name] = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)
        arrays["b32_img"][::40], arrays["b32_txt"][5::40, 3] = 0, np.nan
        np.savez(file.with_suffix(".npz"), **arrays)
        alive = [n for n, r in enumerate(rows) if r["text"] and len(r["text"].split()) >= 3 and len(r["text"]) > 5]
        reached += len(alive)
        good = [n for n in alive if n % 40 not in (0, 5)]
        ids = np.array([(int(rows[n]["uid"][:16], 16), int(rows[n]["uid"][16:], 16)) for n in good], UID_DTYPE)
        values = restated(arrays["b32_img"][good], arrays["b32_txt"][good], ids, 50, 2)
        scored |= dict(zip(uids.text_of(ids), values, strict=True))
    recipe = Recipe("best", (CaptionLength(), NegClipLossFraction(0.3, "b32", batch=50, draws=2)))
    for name, choose in {"loop": choose_in_a_loop, "one": lambda *a: choose_on_beam(*a, workers=1),
                         "two": lambda *a: choose_on_beam(*a, workers=2)}.items():  # fmt: skip
        pieces, choice = plan(recipe, pool, tmp_path / name, kept_columns=("text",))
        choose(recipe, pieces, choice)
        kept = [pq.read_table(tmp_path / name / f"kept/{p.name}.parquet") for p in pieces]
        found = {u: s for t in kept for u, s in zip(t["uid"].to_pylist(), t["negcliploss"].to_pylist(), strict=True)}
        best = sorted(scored, key=scored.get, reverse=True)[: int(reached * 0.3)]
        assert found.keys() == set(best)
        assert np.allclose([found[u] for u in best], [scored[u] for u in best], rtol=0, atol=1e-6)
