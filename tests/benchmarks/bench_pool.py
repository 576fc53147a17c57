"""Pools shaped like CommonPool's for benchmarks: its columns, its row counts per file, real-looking captions."""

import hashlib
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_FILE = 500_000

#: Words by language, roughly the mix of a crawl; a caption draws 1 to 14 of one language's.
WORDS = {
    "en": (
        "the a of with and in photo red blue old new house dog woman man beach wedding dress kitchen table city "
        "night vintage black white leather boots mountain lake sunset portrait of car engine garden flower cake "
        "recipe how to make best summer 2019 free shipping wooden chair modern design living room stock image "
        "vector illustration"
    ),
    "de": "der die das und mit für haus garten schwarz weiß neu alt frau mann küche tisch stadt nacht kleid blume",
    "fr": "le la les et avec pour maison jardin noir blanc nouveau femme homme cuisine table ville nuit robe fleur",
    "es": "el la los y con para casa jardín negro blanco nuevo mujer hombre cocina mesa ciudad noche vestido flor",
    "ru": "и в с для дом сад черный белый новый женщина мужчина кухня стол город ночь платье цветок фото",
    "zh": "房子 花园 黑色 白色 新 女人 男人 厨房 桌子 城市 夜晚 裙子 花 照片",
}
SHARES = [0.55, 0.1, 0.1, 0.1, 0.08, 0.07]


def table(seed: int, rows: int) -> pa.Table:
    """One file's rows: deterministic, uids unique over all seeds."""
    rng = np.random.default_rng(seed)
    raw = rng.bytes(16 * rows).hex()
    uids = [raw[i : i + 32] for i in range(0, len(raw), 32)]
    language = rng.choice(len(WORDS), rows, p=SHARES)
    lengths = rng.integers(0, 15, rows)
    draws = rng.random((rows, 14))
    vocabularies = [words.split() for words in WORDS.values()]
    texts = [
        " ".join([vocabularies[w][int(d * len(vocabularies[w]))] for d in row[:n]])
        for w, n, row in zip(language.tolist(), lengths.tolist(), draws.tolist(), strict=True)
    ]
    urls = [f"https://images.example{n}.com/photos/{u}/picture-{n}.jpg" for u, n in zip(uids, lengths, strict=True)]
    width, height = (rng.lognormal(6.2, 0.6, rows).astype(np.int64) + 16 for _ in range(2))
    return pa.table({
        "uid": uids,
        "url": urls,
        "text": texts,
        "original_width": width,
        "original_height": height,
        "clip_b32_similarity_score": rng.normal(0.24, 0.05, rows).astype(np.float32),
        "clip_l14_similarity_score": rng.normal(0.18, 0.05, rows).astype(np.float32),
        "face_bboxes": pa.array([[]] * rows, pa.list_(pa.list_(pa.float64()))),
        "sha256": [hashlib.sha256(u.encode()).hexdigest() for u in uids],
    })


def make_pool(folder: pathlib.Path, rows: int, each: int = ROWS_PER_FILE) -> pathlib.Path:
    """A pool of that many rows under `folder`, `each` in a file, made once."""
    out = folder / (f"pool-{rows}" if each == ROWS_PER_FILE else f"pool-{rows}-by-{each}")
    if not out.exists():
        part = out.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        for n, start in enumerate(range(0, rows, each)):
            name = hashlib.md5(str(n).encode()).hexdigest()
            pq.write_table(table(n, min(each, rows - start)), part / f"{name}.parquet")
        part.rename(out)
    return out
