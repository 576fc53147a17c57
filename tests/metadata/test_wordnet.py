"""WordNet read from its files, wherever they lie, and words looked up as nltk does."""

import os
import pathlib
import shutil
import zipfile

import pyarrow as pa
import pytest
from small_sources import WORDS, write_wordnet

from metadata import entries, wordnet
from metadata.errors import CurateError


def test_words_are_the_first_of_each_synset_in_lower_case_up_to_a_full_stop(tmp_path):
    assert wordnet.words(str(write_wordnet(tmp_path))) == WORDS


@pytest.mark.parametrize(("place", "given"), [
    ("dict", ""), ("dict", "dict"), ("corpora/wordnet", ""), ("corpora/wordnet", "corpora"), ("wordnet", "wordnet"),
])  # fmt: skip
def test_the_files_are_found_where_archives_put_them(tmp_path, place, given):
    write_wordnet(tmp_path / place)
    assert wordnet.words(str(tmp_path / given)) == WORDS


@pytest.mark.parametrize("given", ["nltk", "nltk/corpora", "nltk/corpora/wordnet", "nltk/corpora/wordnet.zip"])
def test_the_zip_that_nltk_leaves_is_read_in_place(tmp_path, given):
    folder = tmp_path / "nltk" / "corpora"
    write_wordnet(folder / "wordnet")
    shutil.make_archive(str(folder / "wordnet"), "zip", folder, "wordnet")
    shutil.rmtree(folder / "wordnet")
    assert wordnet.words(str(tmp_path / given)) == WORDS
    assert wordnet.WordNet(str(tmp_path / given)).first_synsets(pa.array(["dogs"])).to_pylist() == [10]


@pytest.mark.parametrize(("word", "offset"), [
    ("dog", 10), ("Dog", 10), ("dogs", 10), ("domestic_dog", 10), ("domestic dog", None),
    ("geese", 50), ("glasses", 70),  # itself, before the ending is taken
    ("dogging", None),  # dogg is no verb, and its doubled letter is no ending
    ("chased", 110), ("chasing", 110), ("ran", 120), ("runs", 120), ("runss", 120), ("bigger", 220), ("bigest", 220),
    (".22-caliber", 310), ("dug", None), ("", None), ("cat", None), ("İ", None), ("s" * 300, None),
])  # fmt: skip
def test_the_first_synset_of_a_word(tmp_path, word, offset):
    found = wordnet.WordNet(str(write_wordnet(tmp_path))).first_synsets(pa.array([word, "dog"], pa.string()))
    assert found.type == pa.int64()
    assert found.to_pylist() == [offset, 10]


def test_words_that_are_made_to_be_costly_are_not(tmp_path):
    # Each round of endings doubles the forms of such a word where repeats are kept: 2^100 of them.
    found = wordnet.WordNet(str(write_wordnet(tmp_path))).first_synsets(pa.array(["es" * 120, "eseds" * 50, "dog"]))
    assert found.to_pylist() == [None, None, 10]


def test_nothing_gives_nothing(tmp_path):
    assert wordnet.WordNet(str(write_wordnet(tmp_path))).first_synsets(pa.array([], pa.string())).to_pylist() == []


def test_a_folder_without_it_is_named(tmp_path):
    with pytest.raises(CurateError, match=r"there is no data\.noun in it, but WordNet's files are needed\. Give the "):
        wordnet.words(str(tmp_path))
    (tmp_path / "wordnet.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CurateError, match=r"wordnet\.zip: it can't be opened"):
        wordnet.words(str(tmp_path))
    with zipfile.ZipFile(tmp_path / "wordnet.zip", "w") as archive:
        archive.writestr("wordnet/data.noun", "")
    with pytest.raises(CurateError, match=r"data\.verb: it can't be read"):
        wordnet.words(str(tmp_path))


@pytest.mark.parametrize(("name", "content", "words"), [
    ("data.noun", b"00000010 03 n 0z dog 0 000 | x\n", "line 1 is '00000010 03 n 0z"),
    ("data.verb", b"00000010 29 v 02 dog 0\n", "line 1 is '00000010 29 v 02 dog 0'"),
    ("data.adj", b"00000010 00 a 01 big 0 000 | cut o", "cut off in its last line"),
    ("data.adv", b"\xff\n", "can't be read"),
    ("data.adv", None, "can't be read"),
])  # fmt: skip
def test_damaged_data_is_an_error_that_names_file_and_line(tmp_path, name, content, words):
    write_wordnet(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(CurateError, match=f"{name}: ") as error:
        wordnet.words(str(tmp_path))
    assert words in str(error.value)


@pytest.mark.parametrize(("name", "content"), [
    ("index.noun", b"dog n 2 1 @ 2 1 00000010\n"),  # one synset of two is missing
    ("index.noun", b"dog n 0 0 0 0\n"),
    ("index.verb", b"dog v 1 x 1 0 00000110\n"),
    ("index.verb", b"dog v\n"),
    ("noun.exc", b"geese go"),
    ("adv.exc", None),
])  # fmt: skip
def test_a_damaged_index_is_an_error_that_names_the_file(tmp_path, name, content):
    write_wordnet(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(CurateError, match=f"{name}: .*, but WordNet's files are needed"):
        wordnet.WordNet(str(tmp_path))


@pytest.mark.slow
def test_the_list_that_comes_along_is_wordnet_3_0_s():
    places = [p for p in ("/usr/share/wordnet", *os.environ.get("NLTK_DATA", "").split(":")) if p]
    found = next((p for p in places if (pathlib.Path(p) / "data.noun").is_file()), None)
    if found is None:
        pytest.skip("no WordNet on this machine: apt-get install wordnet-base")
    made = entries.combine([entries.table(wordnet.words(found), "wordnet"), entries.numbers()])
    assert made.equals(entries.read("wordnet"))
    looked_up = wordnet.WordNet(found).first_synsets(pa.array(["dog", "Dogs", "geese", "hot_dog", "qwxz"]))
    assert looked_up.to_pylist() == [2084071, 2084071, 1855672, 10187710, None]
