"""WordNet 3.0 read from its own files: the words of its synsets, and the first synset of a word."""

import functools
import itertools
import json
import os
import pathlib
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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

_ENDS = {part: tuple(old for old, _ in endings) for part, endings in _ENDINGS.items()}
_ANY_END = tuple({old for ends in _ENDS.values() for old in ends})

#: Words whose synsets are remembered: some 25 MB.
_MAX_KNOWN = 1 << 17

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
        self._index = {part: _index(root, f"index.{part}") for part in PARTS}
        self._irregular = {part: dict(_records(root, f"{part}.exc", _bases)) for part in PARTS}

    @property
    def offsets(self) -> pa.Array:
        """Offsets of all synsets that are the first of a word: int64, some more than once."""
        return pa.concat_arrays([offsets for _, offsets in self._index.values()])

    def pack(self) -> bytes:
        """All that it knows: the same bytes from the same WordNet, wherever it lies.

        A line of JSON: how many words each part has, and the irregular forms; a line of all words with spaces between,
        as none has one; and their offsets, int64.
        """
        words, offsets = (pa.concat_arrays(columns) for columns in zip(*self._index.values(), strict=True))
        head = json.dumps([[len(column) for column, _ in self._index.values()], self._irregular])
        line = pc.binary_join(pa.ListArray.from_arrays([0, len(words)], words), " ")[0].as_py()
        return f"{head}\n{line}\n".encode() + offsets.to_numpy().astype("<i8").tobytes()

    @classmethod
    def unpack(cls, packed: bytes) -> "WordNet":
        """The one that `pack` made these bytes of."""
        head, line, numbers = packed.split(b"\n", 2)
        counts, irregular = json.loads(head)
        words = pc.split_pattern(pa.array([line.decode()]), " ").flatten()
        offsets = pa.array(np.frombuffer(numbers, "<i8"))
        starts = itertools.accumulate(counts, initial=0)
        made = cls.__new__(cls)
        made._index = {part: (words.slice(start, count), offsets.slice(start, count))
                       for part, start, count in zip(PARTS, starts, counts, strict=False)}  # fmt: skip
        made._irregular = irregular
        return made

    def first_synsets(self, words: pa.Array) -> pa.Array:
        """Offsets of the words' first synsets: int64, shape (len(words),), null for a word that has none.

        Of nouns, verbs, adjectives and adverbs the first that has the word decides. A word is looked up in lower case,
        as it is and by its base form; many words of one phrase are joined by underscores.

        Args:
            words: string, distinct if it is to be quick; without null.

        Source: nltk 3.8.1, which DataComp's text_based uses.
        Differs: a word of more than 256 characters has no synset.
        """
        first, known = self._at_once, self._known
        lower = [*map(str.lower, words.to_pylist())]
        # Most are no words, such as names and numbers: they are not looked up by base form, nor remembered.
        return pa.array([offset or (known(word) if offset == 0 or word.endswith(_ANY_END) else None)
                         for word, offset in zip(lower, map(first, lower), strict=True)], pa.int64())  # fmt: skip

    @functools.cached_property
    def _first(self) -> dict[str, dict[str, int]]:
        return {part: dict(zip(words.to_pylist(), offsets.to_numpy().tolist(), strict=True))
                for part, (words, offsets) in self._index.items()}  # fmt: skip

    @functools.cached_property
    def _at_once(self) -> Callable[[str], int | None]:
        """The first synset of a noun; 0 for words of the other parts of speech, and for irregular forms."""
        others = itertools.chain(*(self._first[part] for part in PARTS[1:]), *self._irregular.values())
        return (dict.fromkeys(others, 0) | self._first["noun"]).get

    @functools.cached_property
    def _known(self) -> Callable[[str], int | None]:
        return functools.lru_cache(_MAX_KNOWN)(self._find)  # many of a batch's were in those before

    def _find(self, word: str) -> int | None:
        """That of the first form that is a word: itself, a listed base form, or with ever more endings taken."""
        if len(word) > _MAX_CHARS:
            return None
        for part in PARTS:
            known, irregular, endings, ends = self._first[part], self._irregular[part], _ENDINGS[part], _ENDS[part]
            forms: Iterable[str] = [word, *irregular.get(word, ())]
            while forms:
                for form in forms:
                    if form in known:
                        return known[form]
                if word in irregular:
                    break
                # Each once: "eseses…" would otherwise double them every time. Most end in none of the endings.
                forms = dict.fromkeys(form[: -len(old)] + new for form in forms if form.endswith(ends)
                                      for old, new in endings if form.endswith(old))  # fmt: skip
        return None


def _index(root: _Root, name: str) -> tuple[pa.Array, pa.Array]:
    """The words of index.noun and its like, string, and the first synset of each, int64.

    A line is word, part of speech, number of synsets, number p of pointers, p pointers, two more numbers, the synsets.
    """
    lines = pc.split_pattern(pa.array([_text(root, name)]), "\n").flatten()
    lines = lines.filter(pc.invert(pc.or_(pc.equal(lines, ""), pc.starts_with(lines, " "))))
    fields = pc.ascii_split_whitespace(pc.ascii_rtrim_whitespace(lines))
    values, starts, lengths = fields.flatten(), fields.offsets[:-1], pc.list_value_length(fields)
    try:
        synsets, pointers = (values.take(pc.add(starts, n)).cast(pa.int32()) for n in (2, 3))
        first = pc.add(pc.add(starts, pointers), 6)
        is_whole = pc.equal(lengths, pc.add(pc.add(synsets, pointers), 6))
        if not pc.all(pc.and_(is_whole, pc.greater(synsets, 0))).as_py():
            raise ValueError
        return values.take(starts), values.take(first).cast(pa.int64())
    except (IndexError, ValueError) as error:  # as pyarrow's own are
        raise _error(f"{root / name}: a line of it is no word with its synsets") from error


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


def installed() -> str:
    """The first folder with a WordNet among those where nltk.download leaves it and nltk looks for it.

    Raises:
        CurateError: none has one.
    """
    given = [place for place in os.environ.get("NLTK_DATA", "").split(os.pathsep) if place]
    own = [os.path.expanduser("~"), sys.prefix, *(os.path.join(sys.prefix, part) for part in ("share", "lib"))]
    shared = ["/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib"]
    places = [*given, *(os.path.join(place, "nltk_data") for place in (*own, *shared))]
    for place in places:
        try:
            _root(place)
        except CurateError:
            continue
        return place
    raise CurateError(f"wordnet: it is in none of {', '.join(places)}, but WordNet 3.0 is needed. Run: pip install "
                      f"nltk && python -m nltk.downloader wordnet. Or give the folder that has data.noun, by "
                      f"NLTK_DATA=FOLDER or as the step's `wordnet`.")


def _error(what: str) -> CurateError:
    return CurateError(f"{what}, but WordNet's files are needed. Give the folder of WordNet 3.0 that has data.noun, or "
                       f"the nltk_data that nltk.download('wordnet') fills.")


def _text(root: _Root, name: str) -> str:
    """What a file has, whose last line has its end."""
    file = root / name
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise _error(f"{file}: it can't be read ({reason(error)})") from error
    if len(data) > _MAX_BYTES or (text and not text.endswith("\n")):
        raise _error(f"{file}: it is {'too large' if len(data) > _MAX_BYTES else 'cut off in its last line'}")
    return text


def _records(root: _Root, name: str, parse: Callable[[list[str]], T]) -> Iterator[T]:
    """What `parse` makes of the words of each line; lines of the licence, which begin with spaces, are left out."""
    for number, line in enumerate(_text(root, name).split("\n"), 1):
        if line and not line.startswith(" "):
            try:
                yield parse(line.split())
            except (IndexError, ValueError) as error:
                raise _error(f"{root / name}: line {number} is {printable(line)!r}") from error
