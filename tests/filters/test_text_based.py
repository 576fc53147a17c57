"""ImagenetWord keeps the captions that DataComp's loop over nltk's synsets keeps, and says clearly what it lacks."""

import os
import pathlib
import random
import sys

import numpy as np
import pyarrow as pa
import pytest
import restated_nltk as plain
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sources import SYNSETS, write_wordnet

from filters import text_based
from filters.recipes import RECIPES, check, open_recipe, recipe_columns
from filters.text_based import ImagenetSynsets, ImagenetWord
from metadata.errors import CurateError
from metadata.wordnet import WordNet

CAPTIONS = [
    "a dog on the beach", "A DOG!", "dog,", "Dogs", "dogs' dogs", "domestic_dog", "domestic dog", "two geese",
    "my glasses", "a glass", "animal", "he runs fast", "ran", "running", "runn ing", "chased", "bigger", "", " ", "\n",
    "\tdog\n", None, "animal goose dog", "the\x1cdog\x1druns", "the\xa0dog", "the\u200bdog", "the\u3000dogs",
    "\u212aog dog\u0301", "犬 dog", "собака", "dogmen", "dogses", "dogsss", "ses es s", "s" * 300, "es" * 200 + " dog",
    "İ ı ſ ß DOG", "d\0og dog",
]  # fmt: skip
WANTED = {int(line[1:]) for line in SYNSETS}


@pytest.fixture(autouse=True)
def _sources(small_wordnet: pathlib.Path):
    text_based._read.cache_clear()
    yield
    text_based._read.cache_clear()


def scored(texts: list[str | None], scorer: ImagenetSynsets | None = None) -> list[int | None]:
    scorer = scorer or ImagenetSynsets()
    found = scorer.load(scorer.build())(pa.record_batch({"text": pa.array(texts, pa.string())}))
    assert found.type == pa.int32()
    return found.to_pylist()


def test_the_first_word_that_is_in_the_list_gives_the_synset(small_wordnet: pathlib.Path) -> None:
    expected = [plain.names_one(text, plain.read(small_wordnet), WANTED) for text in CAPTIONS]
    assert scored(CAPTIONS) == expected
    assert scored(CAPTIONS)[:3] == [10, None, None]  # punctuation belongs to the word
    assert scored(["animal goose dog", "he runs"]) == [50, 120]  # a verb whose number is a noun's in the list


@settings(max_examples=200)
@given(st.lists(st.none() | st.text(st.sampled_from("dogesinrum -_\u212aİ\u3000\n"), max_size=12), max_size=8))
def test_equals_the_restatement_on_drawn_texts(texts: list[str | None]) -> None:
    folder = pathlib.Path(os.environ["NLTK_DATA"], "corpora", "wordnet")
    assert scored(texts) == [plain.names_one(text, plain.read(folder), WANTED) for text in texts]


def test_a_slice_and_no_rows() -> None:
    score = ImagenetSynsets().load(ImagenetSynsets().build())
    batch = pa.record_batch({"text": ["dog", "goose", None, "x dog"]})
    assert score(batch.slice(1, 3)).to_pylist() == [50, None, 10]
    assert score(batch.slice(2, 1)).to_pylist() == [None]
    assert score(batch.slice(0, 0)).to_pylist() == []


def test_keeps_what_has_a_synset() -> None:
    batch = pa.record_batch({"imagenet_synset": pa.array([10, None, 50], pa.int32())})
    assert ImagenetWord().keep(batch).to_pylist() == [True, False, True]


def test_the_recipe_opens_without_running_timm() -> None:
    recipe = open_recipe("text_based")
    assert recipe == RECIPES["text_based"]
    assert recipe_columns(recipe) == ("text",)
    check(recipe, pa.schema([("text", pa.string())]))
    assert "timm" not in sys.modules
    with pytest.raises(CurateError, match="imagenet_word: unknown column 'text'"):
        check(recipe, pa.schema([("uid", pa.string())]))


def test_describes_what_decides_and_not_its_place(small_wordnet: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.txt").write_text("\r\n".join(reversed(SYNSETS)))
    described = ImagenetWord().describe()
    assert described["synsets"] == 4
    copied = write_wordnet(tmp_path / "copy")
    assert ImagenetWord(str(copied), str(tmp_path / "mine.txt")).describe() == described
    with (copied / "noun.exc").open("a") as file:
        file.write("doggen dog\n")
    text_based._read.cache_clear()
    assert ImagenetWord(str(copied)).describe()["sha256"] != described["sha256"]


def test_without_wordnet_it_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    for name in ("HOME", "NLTK_DATA"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    if any((pathlib.Path(p) / "nltk_data/corpora").exists() for p in ("/usr/share", "/usr/local/share", "/usr/lib",
                                                                      "/usr/local/lib", sys.prefix)):  # fmt: skip
        pytest.skip("this machine has a WordNet where nltk looks")
    with pytest.raises(CurateError, match=r"^wordnet: it is in none of .*empty, .* Run: .* nltk\.downloader wordnet\."):
        open_recipe("text_based")
    with pytest.raises(CurateError, match=r"nowhere: there is no data\.noun in it, but WordNet's files are needed"):
        ImagenetWord("nowhere").describe()


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not (pathlib.Path(place) / "timm").exists()])
    with pytest.raises(CurateError, match=r"package timm is not installed, .* pip install 'clip-curate\[text_based\]'"):
        open_recipe("text_based")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty, but it is a list of synsets"),
        (b"dog\n", r"has 'dog', but it is a list of synsets\. Write one a line, such as n02084071"),
        (b"n123\n", "has 'n123'"),
        (b"\xff", "can't be read"),
        (None, "can't be read"),
        (b"n00000010\nn99999999\nn99999998\n", r"1 of the list's 3 synsets are .* Give WordNet 3\.0"),
    ],
)
def test_a_list_that_is_none(content: bytes | None, words: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CurateError, match=f"^imagenet_word: .*{words}"):
        ImagenetWord(synsets=str(path)).describe()


@pytest.mark.slow
def test_equals_the_restatement_on_the_real_wordnet(tmp_path: pathlib.Path) -> None:
    places = ["/usr/share/wordnet", "/usr/share/nltk_data/corpora/wordnet"]
    folder = next((place for place in places if (pathlib.Path(place) / "data.noun").is_file()), None)
    if folder is None:
        pytest.skip("no WordNet on this machine: apt-get install wordnet-base")
    whole, draw = plain.read(folder), random.Random(0)
    nouns = draw.sample(sorted(whole["noun"][0]), 5000)
    wanted = {whole["noun"][0][noun][0] for noun in nouns[::2]}
    (tmp_path / "list.txt").write_text("\n".join(f"n{offset:08d}" for offset in sorted(wanted)))
    endings = ["", "s", "es", "ed", "ing", "er", "est", "ses", "men", "ies", ",", "S", "\u212a"]
    listed = [form for part in whole.values() for known in part for form in known]
    words = [draw.choice(listed)[: draw.randrange(1, 30)] + draw.choice(endings) for _ in range(30_000)] + nouns
    texts = [" ".join(draw.choices(words, k=draw.randrange(6))) for _ in range(20_000)]
    found = scored(texts, ImagenetSynsets(folder, str(tmp_path / "list.txt")))
    assert found == [plain.names_one(text, whole, wanted) for text in texts]
    assert 1000 < np.count_nonzero([offset is not None for offset in found]) < 19_000
    unpacked = WordNet.unpack(WordNet(folder).pack())
    assert unpacked.first_synsets(pa.array(words)).to_pylist() == [plain.first_synset(word, whole) for word in words]
