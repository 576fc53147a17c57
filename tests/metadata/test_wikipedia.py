"""Entries from dumps: the counts and the published limits, restated in plain Python over dumps written here."""

import collections
import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
from small_sources import dump, pack, page

from metadata import entries, matching, wikipedia
from metadata.errors import CurateError
from metadata.wikipedia import METACLIP, METACLIP_2, Limits

WORDS = ["the", "The", "of", "dog", "Hund", "été", "雨", "x-ray", "New", "York", *(f"w{n}" for n in range(60))]


def articles(seed: int = 0, n: int = 150) -> list[str]:
    """Lines of plain words, some of which hang together."""
    rng = random.Random(seed)

    def word() -> str:
        return rng.choice(["New York", "of the"]) if rng.random() < 0.2 else WORDS[min(int(rng.expovariate(0.1)), 69)]

    return ["\n".join(" ".join(word() for _ in range(rng.randint(1, 30))) for _ in range(4)) for _ in range(n)]


def restated(texts: list[str], limits: Limits, space: str = " ") -> list[tuple[str, str, float]]:
    """Unigrams and bigrams by dictionaries of strings."""
    lines = [line.split() if space else list(line) for text in texts for line in text.split("\n")]
    words = collections.Counter(word for line in lines for word in line)
    pairs = collections.Counter(pair for line in lines for pair in itertools.pairwise(line))

    def best(figures: dict[str, float], least: float, share: float, cap: float, whole: int | None = None):
        chosen = [(w, f) for w, f in figures.items() if f >= least and len(w) <= limits.max_chars]
        chosen.sort(key=lambda pair: (-pair[1], pair[0]))
        most = min(share * (len(chosen) if whole is None else whole), cap)
        return chosen[: len(chosen) if most == math.inf else math.floor(round(most, 6))]

    unigrams = best(dict(words), limits.min_count, *limits.unigrams)
    kept = dict(unigrams)
    total = sum(words.values())
    information = {a + space + b: math.log2(total * n**3 / (words[a] * words[b]))
                   for (a, b), n in pairs.items() if a in kept and b in kept}  # fmt: skip
    bigrams = best(information, limits.min_mutual_information, *limits.bigrams, whole=len(unigrams))
    return [*((w, "unigram", f) for w, f in unigrams), *((w, "bigram", f) for w, f in bigrams)]


def rows(table) -> list[tuple[str, str, float]]:
    return [(row["entry"], row["source"], row["figure"]) for row in table.to_pylist()]


def same(found: list[tuple[str, str, float]], expected: list[tuple[str, str, float]]) -> None:
    """Figures are compared with a tolerance, and so is the order of those that are as good as equal."""
    assert [row[1] for row in found] == [row[1] for row in expected]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected])
    groups = [collections.defaultdict(set), collections.defaultdict(set)]
    for group, part in zip(groups, (found, expected), strict=True):
        for entry, source, figure in part:
            group[source, round(figure, 6)].add(entry)
    for _, source, figure in expected[-1:]:  # which of these are in was decided by the last bit
        assert all(group.pop((source, round(figure, 6))) for group in groups)
    assert groups[0] == groups[1]


LIMITS = [
    METACLIP,
    dataclasses.replace(METACLIP, min_count=5, min_mutual_information=12),
    dataclasses.replace(METACLIP, min_count=1, min_mutual_information=-np.inf),
    METACLIP_2,
    dataclasses.replace(METACLIP_2, unigrams=(0.3, 12), bigrams=(0.5, 4), max_chars=6),
    dataclasses.replace(METACLIP_2, unigrams=(0.5, 1000)),
]


@pytest.mark.parametrize("limits", LIMITS)
def test_unigrams_and_bigrams_are_the_restated_ones(tmp_path, limits):
    texts = articles()
    paths = [str(pack(tmp_path / f"{n}.xml.bz2", dump([page(t) for t in texts[n::2]]))) for n in (0, 1)]
    found = wikipedia.from_articles(paths, limits)
    assert found.schema.equals(entries.SCHEMA)
    same(rows(found), restated(texts, limits))
    assert wikipedia.from_articles(paths[::-1], limits).equals(found)


def test_ties_are_broken_by_the_entry(tmp_path):
    path = str(pack(tmp_path / "d.xml", dump([page("d c b a\na b c d\né e")])))
    limits = dataclasses.replace(METACLIP_2, unigrams=(0.5, 1000), bigrams=(1, 1000))
    assert [row[0] for row in rows(wikipedia.from_articles([path], limits))] == ["a", "b", "c", "a b", "b a", "b c"]


@pytest.mark.parametrize("language", ["zh", "ja", "th"])
def test_languages_without_spaces_have_characters_and_joined_bigrams(tmp_path, language):
    texts = ["東京は雨。東京は晴", "東京 雨"]
    path = str(pack(tmp_path / "d.xml", dump([page(text) for text in texts])))
    limits = dataclasses.replace(METACLIP_2, unigrams=(1, 1000), bigrams=(1, 1000))
    found = wikipedia.from_articles([path], limits, language)
    same(rows(found), restated(["東京は雨\n東京は晴\n東京\n雨"], limits, space=""))
    assert "東京" in found["entry"].to_pylist()
    assert set(found["language"].to_pylist()) == {language}


def test_markup_and_punctuation_are_no_words(tmp_path):
    text = "'''Dog'''s – [[dog food|food]]: {{cite|dog}} (dog) \"dog food\" - !"
    path = str(pack(tmp_path / "d.xml", dump([page(text)])))
    found = wikipedia.from_articles([path], dataclasses.replace(METACLIP, min_count=1, min_mutual_information=0))
    assert {(entry, source) for entry, source, _ in rows(found)} == {
        ("Dogs", "unigram"), ("dog", "unigram"), ("food", "unigram"), ("dog food", "bigram"),
    }  # fmt: skip


def test_pruning_keeps_the_pairs_that_are_frequent(tmp_path):
    texts = articles(seed=3)
    path = str(pack(tmp_path / "d.xml", dump([page(text) for text in texts])))
    limits = dataclasses.replace(METACLIP, min_count=50, min_mutual_information=10)
    found = wikipedia.from_articles([path], limits, prune=20)
    whole = restated(texts, limits)
    bigrams = {row[0]: row[2] for row in rows(found) if row[1] == "bigram"}
    assert bigrams.keys() < {row[0] for row in whole if row[1] == "bigram"}
    assert {"New York", "of the"} <= bigrams.keys()
    assert [row for row in rows(found) if row[1] == "unigram"] == [row for row in whole if row[1] == "unigram"]


def test_a_dump_without_words_is_refused(tmp_path):
    path = str(pack(tmp_path / "d.xml", dump([page("talk", ns=1), page("{{x}} - ")])))
    with pytest.raises(CurateError, match=r"d\.xml: no article with a word in it is there, but words are counted"):
        wikipedia.from_articles([path], METACLIP)


def test_titles_are_those_viewed_often_enough(tmp_path):
    (tmp_path / "v").write_text("en A 69 0\nen B 70 0\nen C_c 71 0\nen D 71 0\nen St._Louis 500 0\n")
    assert rows(wikipedia.from_views([str(tmp_path / "v")], "en", METACLIP)) == [
        ("St. Louis", "title", 500), ("C c", "title", 71), ("D", "title", 71), ("B", "title", 70),
    ]  # fmt: skip


def test_titles_of_one_language_are_the_published_share_and_short(tmp_path):
    (tmp_path / "v").write_text("".join(f"de T{n} {n % 40 + 1} 0\n" for n in range(100)) + f"de {'x' * 257} 999 0\n")
    found = wikipedia.from_views([str(tmp_path / "v")], "de", METACLIP_2, "de")
    expected = sorted(((f"T{n}", float(n % 40 + 1)) for n in range(100)), key=lambda pair: (-pair[1], pair[0]))
    assert [(entry, figure) for entry, _, figure in rows(found)] == expected[:76]
    assert set(found["language"].to_pylist()) == {"de"}


def test_the_published_numbers():
    assert (METACLIP.min_count, METACLIP.min_mutual_information, METACLIP.min_views) == (100, 30, 70)
    assert (METACLIP_2.unigrams, METACLIP_2.bigrams) == ((0.1, 251_465), (0.4, 100_646))
    assert (METACLIP_2.titles, METACLIP_2.max_chars) == ((0.76, 61_235), 256)
    assert sorted(matching.UNSPACED) == ["bo", "dz", "ja", "km", "lo", "my", "ryu", "th", "zh"]
