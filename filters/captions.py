"""Filters on the form of a caption."""

import dataclasses

import pyarrow as pa
import pyarrow.compute as pc

from filters.base import Filter
from metadata.errors import CurateError


@dataclasses.dataclass(frozen=True)
class CaptionLength(Filter):
    """Keeps captions of at least `min_words` words, at most `max_words` if that is given, and `min_chars` characters.

    Words are runs of non-space characters, as in `str.split()`; characters are code points, as in `len(str)`, spaces at
    the ends included. A null caption is dropped.

    Source: DataComp (arXiv:2304.14108), basic filtering: more than 2 words, more than 5 characters. ALIGN
        (arXiv:2102.05918) keeps 3 to 20 words.
    Differs: DataComp's code stops at a null caption; its pools hold none.
    """

    min_words: int = 3
    min_chars: int = 6
    max_words: int | None = None
    columns = ("text",)

    def __post_init__(self) -> None:
        for name in ("min_words", "min_chars"):
            if getattr(self, name) < 0:
                raise CurateError(f"{self.name}: {name} is {getattr(self, name)}, but it can't be negative. "
                                  f"Give the fewest.")
        if self.max_words is not None and self.max_words < max(1, self.min_words):
            raise CurateError(f"{self.name}: max_words is {self.max_words}, but it is at least 1 and no less than "
                              f"min_words, {self.min_words}. Give the most.")

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        text = batch.column("text")
        trimmed = pc.utf8_trim_whitespace(text)
        # One split more than is asked for is enough to know, and keeps long captions cheap.
        splits = max(self.min_words, self.max_words or 0)
        words = pc.list_value_length(pc.utf8_split_whitespace(trimmed, max_splits=splits))
        enough = pc.and_(
            pc.greater_equal(words, self.min_words),
            # An empty string splits into one empty word; n words have at least n bytes.
            pc.greater_equal(pc.binary_length(trimmed), self.min_words),
        )
        if self.max_words is not None:
            enough = pc.and_(enough, pc.less_equal(words, self.max_words))
        return pc.and_(enough, pc.greater_equal(pc.utf8_length(text), self.min_chars)).fill_null(False)


@dataclasses.dataclass(frozen=True)
class CaptionTokens(Filter):
    """Keeps captions of at least `min_tokens` tokens as fastText counts them.

    A token is a run of anything but space, tab, newline, vertical tab, form feed, carriage return and NUL; a newline is
    one, too. So spaces of other scripts, which `str.split()` knows, part no tokens. A null caption is dropped.

    Source: DataComp (arXiv:2304.14108), image_based: more than 1 word by `fasttext.tokenize`.
    """

    min_tokens: int = 2
    columns = ("text",)

    def __post_init__(self) -> None:
        if self.min_tokens < 0:
            raise CurateError(f"{self.name}: min_tokens is {self.min_tokens}, but it can't be negative. "
                              f"Give the fewest.")

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        tokens = pc.count_substring_regex(batch.column("text"), r"[^ \n\r\t\v\f\x00]+|\n")
        return pc.greater_equal(tokens, self.min_tokens).fill_null(False)
