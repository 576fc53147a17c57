"""The filter on what a caption names: whether some word of it is a thing that ImageNet-21k has pictures of."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.base import Filter, Scorer
from metadata import wordnet
from metadata.errors import CurateError, printable, reason
from metadata.wordnet import WordNet

#: Of a list of synsets; ImageNet-21k's has 218,430.
_MAX_BYTES = 1 << 24
_SYNSET = re.compile(r"[nvar]\d{8}")


@dataclasses.dataclass(frozen=True)
class ImagenetSynsets(Scorer):
    """Adds `imagenet_synset`: int32, the offset of the first word's synset that is in the list; null where none is.

    Words are runs of non-space characters, as in `str.split()`, punctuation and all; a word stands for its first synset
    alone, that of the first part of speech that has it. A null caption has none.

    Args:
        wordnet: WordNet 3.0's folder; by default where nltk has it.
        synsets: a file with a synset a line, such as n02084071; by default ImageNet-21k's, which timm carries.
    """

    wordnet: str | None = None
    synsets: str | None = None
    column = "imagenet_synset"
    columns = ("text",)

    def describe(self) -> dict[str, Any]:
        """How many synsets the list has, and the sha256 of all that decides: WordNet's words and the list."""
        built, synsets = _read(self)
        return {"synsets": synsets, "sha256": hashlib.sha256(built).hexdigest()}

    def build(self) -> pa.Buffer:
        built, _ = _read(self)
        return built

    def load(self, built: pa.Buffer) -> Callable[[pa.RecordBatch], pa.Array]:
        synsets, _, words = built.to_pybytes().partition(b"\n")
        known, wanted = WordNet.unpack(words), pa.array(json.loads(synsets), pa.int64())
        return lambda batch: _first_of(batch.column("text"), known, wanted)


@functools.lru_cache(maxsize=1)
def _read(scorer: ImagenetSynsets) -> tuple[pa.Buffer, int]:
    """The offsets in the list, ascending, and WordNet, packed; how many the offsets are. Only the driver reads them.

    Raises:
        CurateError: one of the two is not there or is something else, or they are not of the same WordNet.
    """
    synsets = _synsets(scorer.synsets or _bundled())
    words = WordNet(scorer.wordnet or wordnet.installed())
    found = pc.sum(pc.is_in(pa.array(synsets), words.offsets)).as_py()
    if 2 * found < len(synsets):
        raise CurateError(f"imagenet_word: {found:,} of the list's {len(synsets):,} synsets are the first of a word, "
                          f"but of ImageNet's nine in ten are: their numbers are places in the files of WordNet 3.0, "
                          f"and of no other version. Give WordNet 3.0.")
    return pa.py_buffer(json.dumps(synsets).encode() + b"\n" + words.pack()), len(synsets)


def _synsets(path: str) -> list[int]:
    try:
        with open(path, "rb") as file:
            lines = file.read(_MAX_BYTES).decode().split()
    except (OSError, UnicodeDecodeError) as error:
        raise CurateError(f"imagenet_word: {path} can't be read ({reason(error)}), but it is the list of synsets. "
                          f"Give a text file with one a line, such as n02084071.") from error
    wrong = next((line for line in lines if not _SYNSET.fullmatch(line)), None)
    if wrong or not lines:
        given = f"has {printable(wrong)!r}" if wrong else "is empty"
        raise CurateError(f"imagenet_word: {path} {given}, but it is a list of synsets. Write one a line, such as "
                          f"n02084071.")
    return sorted({int(line[1:]) for line in lines})


def _bundled() -> str:
    """Path of the list that timm carries; its code is not run."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise CurateError("imagenet_word: the package timm is not installed, but it carries ImageNet-21k's list of "
                          "synsets. Run: pip install 'clip-curate[text_based]'. Or give the list as `synsets`.")
    return os.path.join(spec.submodule_search_locations[0], "data", "_info", "imagenet21k_goog_synsets.txt")


def _first_of(texts: pa.Array, known: WordNet, wanted: pa.Array) -> pa.Array:
    """For each text the first synset of its first word whose first synset is wanted: int32."""
    words = pc.utf8_split_whitespace(texts)
    each = words.flatten().dictionary_encode()  # most words come many times
    synsets = known.first_synsets(each.dictionary)
    is_wanted = pc.is_in(synsets, wanted).to_numpy(zero_copy_only=False)
    places = np.flatnonzero(is_wanted[each.indices.to_numpy()])
    starts = words.offsets.to_numpy() - words.offsets[0].as_py()
    rows, firsts = np.unique(np.searchsorted(starts, places, side="right") - 1, return_index=True)
    found = synsets.take(each.indices.take(pa.array(places[firsts])))
    values, empty = np.zeros(len(texts), np.int32), np.ones(len(texts), bool)
    values[rows], empty[rows] = found.to_numpy(), False
    return pa.array(values, mask=empty)


@dataclasses.dataclass(frozen=True)
class ImagenetWord(Filter):
    """Keeps captions with a word whose first synset is among ImageNet-21k's; see ImagenetSynsets.

    Source: DataComp (arXiv:2304.14108), text-based filtering: beside it, captions are English by fastText.
    Differs: DataComp's code stops at a null caption. A word of more than 256 characters has no synset. Offsets are
        compared without the part of speech, as DataComp does: in WordNet 3.0 as Princeton has it that lets in some
        60 verbs and adjectives; Debian's verbs and adjectives lie a few bytes off, so there it is others.
    """

    wordnet: str | None = None
    synsets: str | None = None
    columns = (ImagenetSynsets.column,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scorers", (ImagenetSynsets(self.wordnet, self.synsets),))

    def describe(self) -> dict[str, Any]:
        """What ImagenetSynsets says: where the files lie does not matter. Only the driver needs to have them."""
        return ImagenetSynsets(self.wordnet, self.synsets).describe()

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        return batch.column(ImagenetSynsets.column).is_valid()
