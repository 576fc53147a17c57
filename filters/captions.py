"""Filters on the form of a caption."""

import dataclasses

import pyarrow as pa
import pyarrow.compute as pc

from filters.base import Filter
from metadata.errors import CurateError


@dataclasses.dataclass(frozen=True)
class CaptionLength(Filter):
    """Keeps captions of at least `min_words` words and `min_chars` characters.

    Words are runs of non-space characters, as in `str.split()`; characters are code points, as in `len(str)`, spaces at
    the ends included. A null caption is dropped.

    Source: DataComp (arXiv:2304.14108), basic filtering: more than 2 words, more than 5 characters.
    Differs: DataComp's code stops at a null caption; its pools hold none.
    """

    min_words: int = 3
    min_chars: int = 6
    columns = ("text",)

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 0:
                raise CurateError(f"{self.name}: {name} is {value}, but it can't be negative. Give the fewest.")

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        text = batch.column("text")
        trimmed = pc.utf8_trim_whitespace(text)
        # One split more than is asked for is enough to know, and keeps long captions cheap.
        words = pc.list_value_length(pc.utf8_split_whitespace(trimmed, max_splits=self.min_words))
        enough = pc.and_(
            pc.greater_equal(words, self.min_words),
            # An empty string splits into one empty word; n words have at least n bytes.
            pc.greater_equal(pc.binary_length(trimmed), self.min_words),
        )
        return pc.and_(enough, pc.greater_equal(pc.utf8_length(text), self.min_chars)).fill_null(False)
