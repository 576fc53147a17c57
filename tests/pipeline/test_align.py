"""The recipe `align` keeps the rows of ALIGN's rules, restated here row by row."""

import collections
import dataclasses
import hashlib
import itertools
import pathlib
import random

import pyarrow.parquet as pq
import pytest
from choosing import choose_in_a_loop, choose_on_beam, plan

from filters.frequent_tokens import FrequentTokens
from filters.recipes import RECIPES, Recipe

ALIGN = RECIPES["align"]
SIDES = [(300, 899), (201, 602), (500, 300)] * 5 + [
    (200, 300), (201, 603), (300, 900), (1000, 199), (0, 0), (0, 500), (None, 500), (500, None),
]  # fmt: skip
#: Words that come often, and some that hardly do.
WORDS = ["a", "dog", "on", "the", "beach", "Hund", "犬", "\x85", "e\u0301te\u0301", "🎉", "two\u200bwords"]
RARE = [f"rare{n}" for n in range(60)]


def rows_of(number: int) -> list[dict]:
    """Rows at every edge: captions that 10 and 11 rows share, images that 1,000 and 1,001 rows have, nulls."""
    draw = random.Random(3)
    texts = [draw.choice([None, "", " ", "\t\n", "two words", "a b c", " a b\xa0c\u3000"]) for _ in range(60)]
    for words in (3, 4, 19, 20, 21, 40):
        texts += [" ".join(draw.choices(WORDS, k=words)) for _ in range(number // 8)]
    texts += [" ".join([*draw.choices(WORDS, k=5), draw.choice(RARE)]) for _ in range(number // 8)]
    texts += [f"shared by ten {n % 3}" for n in range(30)] + [f"shared by eleven {n % 3}" for n in range(33)]
    texts += [f"same {case} dog" for case in ("the", "The")] * 10
    images = [None] * 99 + ["x" * 64] * 1000 + ["Y" * 64] * 500 + ["y" * 64] * 501
    images += [f"{n // 2:064x}" for n in range(len(texts) - 63 - len(images))]
    draw.shuffle(images)
    rows = []
    for n, text in enumerate(texts):
        if text and text.startswith("shared by"):  # so that the other rules leave all of them
            image, width, height = None, 300, 300
        else:
            image, (width, height) = images.pop(), draw.choice(SIDES)
        uid = hashlib.md5(str(n).encode()).hexdigest()
        rows.append({"uid": uid, "url": f"http://x.test/{n}", "text": text, "original_width": width,
                     "original_height": height, "sha256": image})  # fmt: skip
    draw.shuffle(rows)
    return rows


def align(rows: list[dict], most: int) -> set[str]:
    """The uids that the rules keep, `most` unigrams and bigrams being frequent, and those that tie with the last."""

    def tokens(row: dict) -> list:
        words = (row["text"] or "").split()
        return [*words, *itertools.pairwise(words)]

    images = collections.Counter((row["sha256"] or "").lower() for row in rows)
    rows = [row for row in rows if row["sha256"] is None or images[row["sha256"].lower()] <= 1000]
    counts = collections.Counter(token for row in rows for token in tokens(row))
    least = sorted(counts.values(), reverse=True)[:most][-1]
    rows = [row for row in rows if row["text"] is not None and all(counts[token] >= least for token in tokens(row))]
    rows = [row for row in rows if None not in (sides := [row["original_width"], row["original_height"]])
            and min(sides) > 200 and max(sides) / min(sides) < 3]  # fmt: skip
    shared = collections.Counter(row["text"] for row in rows)
    return {row["uid"] for row in rows if shared[row["text"]] <= 10 and 3 <= len(row["text"].split()) <= 20}


def with_most(most: int) -> Recipe:
    """ALIGN's recipe with fewer tokens: a pool that is small has no 250,000."""
    steps = [FrequentTokens(most) if isinstance(step, FrequentTokens) else step for step in ALIGN.steps]
    return dataclasses.replace(ALIGN, steps=tuple(steps))


@pytest.mark.parametrize(("most", "workers"), [(250_000, 0), (400, 0), (60, 0), pytest.param(400, 2, marks=[
    pytest.mark.slow])])  # fmt: skip
def test_keeps_the_rows_of_the_rules(write_pool, tmp_path: pathlib.Path, most: int, workers: int) -> None:
    rows = rows_of(8000)
    recipe = with_most(most) if most < 250_000 else ALIGN
    pieces, choice = plan(recipe, write_pool(tmp_path / "pool", rows), tmp_path / "run", kept_columns=("text",))
    if workers:
        choose_on_beam(recipe, pieces, choice, workers)
    else:
        choose_in_a_loop(recipe, pieces, choice)
    kept = [uid for path in (tmp_path / "run/kept").iterdir() for uid in pq.read_table(path)["uid"].to_pylist()]
    expected = align(rows, most)
    assert set(kept) == expected
    assert len(kept) == len(expected)
    gone = {text for row in rows if row["uid"] not in expected and (text := row["text"])}
    assert 100 < len(expected) < 0.6 * len(rows)
    assert most == 250_000 or any("rare" in text for text in gone)


def test_every_rule_decides_some_rows() -> None:
    """So that the other test can fail on each."""
    rows = rows_of(8000)
    whole = align(rows, 400)
    captions = {row["text"] for row in rows if row["uid"] in whole}
    assert "shared by ten 0" in captions
    assert not {"shared by eleven 0", "two words"} & captions
    lengths = {len(text.split()) for text in captions}
    assert (min(lengths), max(lengths)) == (3, 20)
    sides = [sorted((row["original_width"], row["original_height"])) for row in rows if row["uid"] in whole]
    assert [201, 602] in sides
    assert [201, 603] not in sides
    assert min(side for side, _ in sides) == 201
    images = {row["sha256"] for row in rows if row["uid"] in whole}
    assert {None, "x" * 64} <= images
    assert not {"Y" * 64, "y" * 64} & images
