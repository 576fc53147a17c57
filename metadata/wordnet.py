"""WordNet 3.0 read from its own files: the words of its synsets, and the first synset of a word."""

import pathlib
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pyarrow as pa

from metadata.errors import CurateError, printable, reason

T = TypeVar("T")
_Root = pathlib.Path | zipfile.Path

#: Parts of speech in the order in which a word's synsets are numbered.
PARTS = ("noun", "verb", "adj", "adv")

#: Endings of inflected words and what stands there in the base form, tried in this order.
_ENDINGS = {
    "noun": [("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
             ("men", "man"), ("ies", "y")],
    "verb": [("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")],
    "adj": [("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
    "adv": [],
}  # fmt: skip

#: WordNet's longest word has 71 characters; a caption may hold a "word" of a million, made to be costly.
_MAX_CHARS = 256
_MAX_BYTES = 1 << 26  # of one file; the largest has 15 MB


def words(folder: str) -> list[str]:
    """The entries that WordNet gives: its synsets by name, each once, in order of code points.

    A synset's name is its first word in lower case, up to the first full stop if it has one, without a marker such as
    (p), with spaces for underscores. That is 86,554 from WordNet 3.0.

    Source: MetaCLIP (arXiv:2309.16671) has 86,654 "WordNet synsets", of which it says no more. These 86,554, and the
        numbers 0 to 99 beside them, are exactly as many; no other plain reading is (all words in lower case: 147,306;
        first words as they are: 87,379, in lower case 86,571).
    """

    def first_word(fields: list[str]) -> str:
        _, _, _, count, word, *rest = fields
        if len(rest) < 2 * int(count, 16) - 1:
            raise ValueError
        return re.sub(r"\((?:a|p|ip)\)$", "", word).lower().split(".")[0].replace("_", " ")

    root = _root(folder)
    found = {word for part in PARTS for word in _records(root, f"data.{part}", first_word)} - {""}
    return sorted(found)


class WordNet:
    """The first synset of words, as nltk's `wordnet.synsets(word)[0]` has it.

    Args:
        folder: as `_root` takes it.

    Raises:
        CurateError: no WordNet is there, or a file of it is damaged.
    """

    def __init__(self, folder: str) -> None:
        root = _root(folder)
        self._first = {part: dict(_records(root, f"index.{part}", _first_offset)) for part in PARTS}
        self._irregular = {part: dict(_records(root, f"{part}.exc", _bases)) for part in PARTS}

    def first_synsets(self, words: pa.Array) -> pa.Array:
        """Offsets of the words' first synsets: int64, shape (len(words),), null for a word that has none, and for null.

        Of nouns, verbs, adjectives and adverbs the first that has the word decides. A word is looked up in lower case,
        as it is and by its base form; many words of one phrase are joined by underscores.

        Source: nltk 3.8.1, which DataComp's text_based uses.
        Differs: a word of more than 256 characters has no synset.
        """
        distinct = words.cast(pa.string()).dictionary_encode()
        offsets = pa.array(map(self._find, distinct.dictionary.to_pylist()), pa.int64())
        return offsets.take(distinct.indices)

    def _find(self, word: str | None) -> int | None:
        if word is None or len(word) > _MAX_CHARS:
            return None
        word = word.lower()
        return next((self._first[part][base] for part in PARTS if (base := self._base(word, part)) is not None), None)

    def _base(self, word: str, part: str) -> str | None:
        """The first form of the word that the part of speech has: listed, itself, or with ever more endings taken."""
        known = self._first[part]

        def first(forms: Iterable[str]) -> str | None:
            return next((form for form in forms if form in known), None)

        if word in self._irregular[part]:
            return first([word, *self._irregular[part][word]])
        forms = _shorter([word], part)
        found = first([word, *forms])
        while found is None and forms:
            forms = _shorter(forms, part)
            found = first(forms)
        return found


def _shorter(forms: list[str], part: str) -> list[str]:
    """The forms with each ending that fits replaced. Each once: "eseses…" would otherwise double them every time."""
    return list(dict.fromkeys(form[: -len(old)] + new for form in forms for old, new in _ENDINGS[part]
                              if form.endswith(old)))  # fmt: skip


def _first_offset(fields: list[str]) -> tuple[str, int]:
    """A word and its first synset, of a line of index.noun and its like."""
    synsets, pointers = int(fields[2]), int(fields[3])
    offsets = fields[6 + pointers :]
    if not synsets or len(offsets) != synsets:
        raise ValueError
    return fields[0], int(offsets[0])


def _bases(fields: list[str]) -> tuple[str, list[str]]:
    """An irregular form and its base forms, of a line of noun.exc and its like."""
    return fields[0], fields[1:]


def _root(folder: str) -> _Root:
    """Where the files are: `folder` itself, or below it as Princeton's archive and nltk's downloads have it.

    Args:
        folder: Princeton's `dict`, what it lies in, nltk's `corpora/wordnet` or the zip beside it, or an nltk_data.
    """
    base = pathlib.Path(folder)
    for place in (base, base / "dict", base / "wordnet", base / "corpora" / "wordnet"):
        if (place / "data.noun").is_file():
            return place
        archive = place if place.suffix == ".zip" else place.with_name(f"{place.name}.zip")
        if archive.is_file():
            try:
                return zipfile.Path(archive, "wordnet/")
            except (OSError, zipfile.BadZipFile) as error:
                raise _error(f"{archive}: it can't be opened ({reason(error)})") from error
    raise _error(f"{folder}: there is no data.noun in it")


def _error(what: str) -> CurateError:
    return CurateError(f"{what}, but WordNet's files are needed. Give the folder of WordNet 3.0 that has data.noun, or "
                       f"the nltk_data that nltk.download('wordnet') fills.")


def _records(root: _Root, name: str, parse: Callable[[list[str]], T]) -> Iterator[T]:
    """What `parse` makes of the words of each line; lines of the licence, which begin with spaces, are left out."""
    file = root / name
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
        lines = data.decode("utf-8").split("\n")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise _error(f"{file}: it can't be read ({reason(error)})") from error
    if len(data) > _MAX_BYTES or (data and lines[-1]):
        raise _error(f"{file}: it is {'too large' if len(data) > _MAX_BYTES else 'cut off in its last line'}")
    for number, line in enumerate(lines, 1):
        if line and not line.startswith(" "):
            try:
                yield parse(line.split())
            except (IndexError, ValueError) as error:
                raise _error(f"{file}: line {number} is {printable(line)!r}") from error
