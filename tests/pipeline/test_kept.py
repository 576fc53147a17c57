"""What kept rows are like: numpy's and Python's own answers, in memory that is bounded."""

import collections
import hashlib
import math
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metadata.errors import CurateError
from pipeline import kept, parquet_file

TEXTS = ["a photo", "", None, "  two  words ", "犬 の 写真", "A\tB\nC\u3000D", "x" * 3000 + " end", "“Photo”, (of)!"]


def uid(n: int) -> str:
    return hashlib.md5(str(n).encode()).hexdigest()


@pytest.fixture
def written(tmp_path, monkeypatch):
    """written(columns, files=3) -> paths of a kept/ with those columns and a uid; read in several batches."""
    monkeypatch.setattr(parquet_file, "BATCH_ROWS", 64)

    def write(columns: dict[str, pa.Array], files: int = 3) -> list[str]:
        rows = len(next(iter(columns.values())))
        table = pa.table({"uid": [uid(n) for n in range(rows)], **columns})
        size = -(-rows // files)
        paths = [str(tmp_path / f"{n:06d}.parquet") for n in range(files)]
        for n, path in enumerate(paths):
            pq.write_table(table.slice(n * size, size), path, row_group_size=100)
        return paths

    return write


def look(paths: list[str]) -> kept.Kept:
    return kept.look(paths, lambda rows: None)


@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
def test_quartiles_are_numpys(written, rows):
    rng = np.random.default_rng(rows)
    columns = {
        "score": rng.normal(0, 1, rows).astype(np.float32),
        "wide": rng.normal(0, 1e30, rows),
        "few": rng.integers(-3, 3, rows),
        "side": rng.integers(1, 10_000, rows).astype(np.uint16),
    }
    paths = written({name: pa.array(values) for name, values in columns.items()})  # some without a row
    found = look(paths).spreads
    assert set(found) == set(columns)
    for name, values in columns.items():
        expected = np.quantile(values.astype(np.float32), list(kept.QUARTILES.values()), method="lower")
        assert list(found[name].quartiles.values()) == expected.tolist()
        assert (found[name].values, found[name].without) == (rows, 0)
        assert found[name].counts.sum() == rows


def test_captions_are_measured_as_python_does(written):
    texts = [TEXTS[n % len(TEXTS)] for n in range(500)]
    found = look(written({"text": pa.array(texts)})).spreads
    there = [text for text in texts if text is not None]
    for name, lengths in ("caption characters", map(len, there)), ("caption words", (len(t.split()) for t in there)):
        expected = np.quantile(list(lengths), list(kept.QUARTILES.values()), method="lower").tolist()
        assert list(found[name].quartiles.values()) == expected
        assert (found[name].values, found[name].without) == (len(there), 500 - len(there))


def test_what_is_no_number_is_without_value(written):
    found = look(written({"score": pa.array([0.5, None, math.nan, math.inf, -math.inf, 0.25], pa.float64()),
                          "none": pa.nulls(6, pa.float32())})).spreads  # fmt: skip
    assert (found["score"].values, found["score"].without) == (2, 4)
    assert found["score"].quartiles == dict(zip(kept.QUARTILES, [0.25, 0.25, 0.25, 0.25, 0.5], strict=True))
    assert (found["none"].values, found["none"].without, found["none"].quartiles) == (0, 6, {})


def test_lists_and_other_strings_are_not_measured(written):
    columns = {"entry_matches": pa.array([[1, 2], []]), "url": pa.array(["a", "b"])}
    found = look(written(columns, 1))
    assert (found.spreads, found.words) == ({}, None)


def test_rows_are_told_as_they_are_read(written):
    told = []
    kept.look(written({"side": pa.array(range(500))}), told.append)
    assert sum(told) == 1000
    assert max(told) <= 100
    told.clear()
    kept.look(written({"url": pa.array(["a"] * 30)}), told.append)
    assert sum(told) == 60


def test_a_broken_file_is_named(written):
    paths = written({"text": pa.array(["abc"] * 30)})
    pq.write_table(pa.table({"uid": ["x"] * 3, "text": ["abc"] * 3}), paths[1])
    with pytest.raises(CurateError, match=r"000001\.parquet: a uid is 'x'"):
        look(paths)


class TestWords:
    @pytest.mark.parametrize(("text", "words"), [
        ("A photo, of a “red” dog!", {"a", "photo", "of", "red", "dog"}),
        ("don't stop – $5 | 10% (IMG_2043.JPG)", {"don't", "stop", "5", "10", "img_2043.jpg"}),
        ("हिन्दी में, 犬の写真。 ÉTÉ", {"हिन्दी", "में", "犬の写真", "été"}),
        ("... -- 🎉 \u00a0\n", set()),
        ("", set()),
    ])  # fmt: skip
    def test_words_of(self, text, words):
        assert kept.words_of(text) == words

    def test_each_caption_counts_once(self, written):
        texts = ["dog dog Dog", "a dog.", None, "cat", "", "x" * 2000 + " tail"]
        words = look(written({"text": pa.array(texts)}, 1)).words
        assert words.captions == 5
        assert words.counts == {"dog": 2, "a": 1, "cat": 1, "x" * 50: 1}

    def test_of_many_captions_a_sample_that_depends_on_the_uid_alone(self, written, monkeypatch):
        monkeypatch.setattr(kept, "_CAPTIONS", 1000)
        texts = pa.array([f"w{n}" for n in range(4000)])
        one = look(written({"text": texts}, 3)).words
        other = look(written({"text": texts}, 7)).words
        assert one.counts == other.counts
        assert 850 < one.captions < 1150
        monkeypatch.setattr(kept, "_CAPTIONS", 2000)
        assert set(one.counts) < set(look(written({"text": texts})).words.counts)

    def test_hostile_captions_take_bounded_memory_and_frequent_words_stay(self, written, monkeypatch):
        monkeypatch.setattr(kept, "_WORDS", 1000)
        rng = random.Random(0)
        chaff = (" ".join(f"{rng.getrandbits(60):x}" for _ in range(50)) for _ in range(400))
        texts = [f"{rng.choice(['red', 'dog'])} {words}" for words in chaff]
        words = look(written({"text": pa.array(texts)})).words
        assert len(words.counts) <= 1000
        expected = collections.Counter(text.split()[0] for text in texts)
        assert {word: words.counts[word] for word in ("red", "dog")} == expected


class TestDiffering:
    def words(self, captions: int, **counts: int) -> kept.Words:
        return kept.Words(1.0, captions, collections.Counter(counts))

    def test_the_ratio_is_of_shares_with_a_little_added(self):
        first = self.words(100_000, the=90_000, dog=5000, rare=30, cat=100)
        second = self.words(200_000, the=180_000, dog=200, cat=2000)
        found = kept.differing(first, second, 10)
        assert [word["word"] for word in found] == ["dog", "rare"]
        assert found[0] == {"word": "dog", "share": 0.05, "other_share": 0.001,
                            "log2_ratio": pytest.approx(math.log2(0.051 / 0.002))}  # fmt: skip
        assert found[1]["log2_ratio"] == pytest.approx(math.log2(0.0013 / 0.001))
        assert [word["word"] for word in kept.differing(second, first, 10)] == ["cat"]
        assert [word["word"] for word in kept.differing(first, second, 1)] == ["dog"]

    def test_few_captions_say_little(self):
        few, many = self.words(50, once=1), self.words(100_000, often=1000)
        (once,) = kept.differing(few, many, 10)
        assert once["log2_ratio"] == pytest.approx(math.log2((0.02 + 0.1) / 0.1))

    def test_nothing_differs(self):
        same = self.words(10, a=3, b=1)
        assert kept.differing(same, same, 10) == []
        assert kept.differing(same, self.words(0), 10) == []
