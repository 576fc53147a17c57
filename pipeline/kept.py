"""What a run's kept rows are like: the quartiles of their columns, and the words of their captions."""

import collections
import dataclasses
import heapq
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import quantile
from metadata import uids
from metadata.balancing import row_hashes
from metadata.schema import conform
from pipeline import parquet_file
from pipeline.parquet_file import open_parquet

#: Captions whose words are counted, about; the seed that chooses them; how much of each is looked at, in characters.
_CAPTIONS, _SEED, _CHARACTERS = 1 << 18, 0x636F6D70617265, 1000

#: Different words that are remembered, and how much of each.
_WORDS, _WORD_CHARACTERS = 1 << 18, 50

#: The quartiles' names and places among the values in ascending order.
QUARTILES = {"least": 0.0, "quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "most": 1.0}

#: What is measured of a caption.
OF_CAPTIONS = ("caption characters", "caption words")


@dataclasses.dataclass(frozen=True)
class Spread:
    """How the values of one measure lie.

    Attributes:
        without: rows that have no value: null, NaN or infinite.
        quartiles: by the names of QUARTILES: of n values in ascending order the one at int(share * (n - 1)), from 0.
            They are float32, so whole numbers above 2**24 are rounded. Empty where there is no value.
        counts: values by the high half of their key, see filters.quantile.
    """

    values: int
    without: int
    quartiles: dict[str, float]
    counts: np.ndarray


@dataclasses.dataclass
class Words:
    """In how many captions each word is.

    Words are what white space parts, in lower case, without punctuation and symbols at both ends. Of large runs a
    sample of the captions is looked at, always the same for it is chosen by a hash of the uid; and when more than
    _WORDS different words are met, those seen least are forgotten.
    """

    share: float
    captions: int = 0
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add(self, uid: np.ndarray, texts: pa.Array) -> None:
        """Counts the captions, of which there is one for each uid; null is none."""
        chosen = row_hashes(uid, _SEED) <= np.uint64(min(int(self.share * 2**64), 2**64 - 1))
        looked_at = pc.utf8_slice_codeunits(texts.filter(pa.array(chosen)).drop_null(), 0, _CHARACTERS)
        self.captions += len(looked_at)
        for text in looked_at.to_pylist():
            self.counts.update(words_of(text))
            if len(self.counts) > _WORDS:
                self._forget()

    def _forget(self) -> None:
        """Keeps the words that were seen more often than half of them."""
        middle = sorted(self.counts.values())[len(self.counts) // 2]
        self.counts = collections.Counter({word: times for word, times in self.counts.items() if times > middle})


@dataclasses.dataclass(frozen=True)
class Kept:
    """Of one run: spreads by measure, and its captions' words if it has captions."""

    spreads: dict[str, Spread]
    words: Words | None


def words_of(text: str) -> set[str]:
    """The different words of a caption."""
    return {word[:_WORD_CHARACTERS] for word in map(_bare, text.lower().split()) if word}


def _bare(word: str) -> str:
    start, end = 0, len(word)
    while start < end and unicodedata.category(word[start])[0] in "PS":
        start += 1
    while start < end and unicodedata.category(word[end - 1])[0] in "PS":
        end -= 1
    return word[start:end]


def look(files: Sequence[str], on_rows: Callable[[int], None]) -> Kept:
    """Reads a run's kept/ twice, a batch at a time, so that memory doesn't grow with it.

    Args:
        files: its parquet files, of one schema.
        on_rows: called with the number of rows of every batch that was read; twice those of the files in all.

    Raises:
        CurateError: a file is broken.
    """
    with open_parquet(files[0]) as first:
        measures = _measures(first.schema)
    if not measures:
        on_rows(2 * rows(files))
        return Kept({}, None)
    columns = list(dict.fromkeys(column for column, _ in measures.values()))
    words = Words(min(1.0, _CAPTIONS / max(1, rows(files)))) if "text" in columns else None
    seen, counts = 0, {name: np.zeros(quantile.HALVES, np.int64) for name in measures}
    for path, batch in _batches(files, ["uid", *columns]):
        for name, (column, measure) in measures.items():
            counts[name] += quantile.count(quantile.keys(measure(batch[column])) >> 16)
        if words is not None:
            words.add(uids.parse(batch["uid"], path), batch["text"])
        seen += batch.num_rows
        on_rows(batch.num_rows)
    places = {name: _places(count) for name, count in counts.items()}
    lows = {name: {high: np.zeros(quantile.HALVES, np.int64) for high, _ in place.values()}
            for name, place in places.items()}  # fmt: skip
    for _, batch in _batches(files, columns):
        for name, (column, measure) in measures.items():
            keys = quantile.keys(measure(batch[column]))
            for high, low in lows[name].items():
                low += quantile.count(keys[keys >> 16 == high] & (quantile.HALVES - 1))
        on_rows(batch.num_rows)
    return Kept({name: _spread(seen, counts[name], places[name], lows[name]) for name in measures}, words)


Measure = Callable[[pa.Array], pa.FloatArray]


def _measures(schema: pa.Schema) -> dict[str, tuple[str, Measure]]:
    """What is measured of the rows: for each its column, and how it is made of that."""
    found: dict[str, tuple[str, Measure]] = {}
    for field in schema:
        if field.name == "text" and pa.types.is_string(field.type):
            found |= dict(zip(OF_CAPTIONS, (("text", _characters), ("text", _words)), strict=True))
        elif pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            found[field.name] = (field.name, _number)
    return found


def _number(values: pa.Array) -> pa.FloatArray:
    numbers = pc.cast(values, pa.float32(), safe=False)
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float32()))


def _characters(texts: pa.Array) -> pa.FloatArray:
    """Code points, as in len(str)."""
    return _number(pc.utf8_length(texts))


def _words(texts: pa.Array) -> pa.FloatArray:
    """Runs of characters that are no white space, as in str.split()."""
    trimmed = pc.utf8_trim_whitespace(texts)
    parts = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return _number(pc.if_else(pc.equal(pc.binary_length(trimmed), 0), 0, parts))  # an empty string has one, empty, part


def rows(files: Sequence[str]) -> int:
    """How many rows parquet files have."""
    total = 0
    for path in files:
        with open_parquet(path) as parquet:
            total += sum(parquet.group_rows)
    return total


def _batches(files: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    for path in files:
        with open_parquet(path) as parquet:
            for batch in parquet.batches(range(len(parquet.group_rows)), columns, parquet_file.BATCH_ROWS):
                checked = [conform(batch[column], column, path) for column in columns]
                yield path, pa.RecordBatch.from_arrays(checked, names=list(columns))


def _places(counts: np.ndarray) -> dict[str, tuple[int, int]]:
    """For each quartile the half of a key in which it lies, and its place there, from the largest."""
    last = int(counts.sum()) - 1
    return {name: quantile.locate(counts, last - int(share * last)) for name, share in QUARTILES.items() if last >= 0}


def _spread(
    rows: int, counts: np.ndarray, places: dict[str, tuple[int, int]], lows: dict[int, np.ndarray]
) -> Spread:
    values = int(counts.sum())
    found = {name: high << 16 | quantile.locate(lows[high], n)[0] for name, (high, n) in places.items()}
    return Spread(values, rows - values, {name: quantile.score(key) for name, key in found.items()}, counts)


def differing(first: Words, second: Words, most: int) -> list[dict[str, float | str]]:
    """The words that the first run's captions have most often in comparison with the second's.

    They are ranked by the ratio of the shares of captions that have the word, to each of which is added a thousandth,
    or five captions of the run with fewer where that is more: so what is rare in both says little.

    Returns:
        At most `most` of {"word", "share", "other_share", "log2_ratio"}, the largest ratio first, all above 0.
    """
    if not first.captions or not second.captions:
        return []
    added = max(0.001, 5 / min(first.captions, second.captions))

    def ratio(word: str) -> float:
        return math.log2(
            (first.counts[word] / first.captions + added) / (second.counts[word] / second.captions + added)
        )

    ranked = heapq.nsmallest(most, ((-ratio(word), word) for word in first.counts))
    return [
        {"word": word, "share": first.counts[word] / first.captions,
         "other_share": second.counts[word] / second.captions, "log2_ratio": -negative}
        for negative, word in ranked if negative < 0
    ]  # fmt: skip
