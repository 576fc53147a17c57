"""Entries from Wikipedia: words, pairs of words that belong together, and titles that many look up."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from metadata import dumps, entries, wikitext
from metadata.errors import CurateError
from metadata.matching import UNSPACED
from metadata.ngrams import Counts

#: Called now and then with a file and the number of its bytes that are read.
Tick = Callable[[str, int], object]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Which words, pairs and titles become entries.

    Those whose figure reaches the least; of these the best, a fraction and at most so many. Ties at the end are broken
    by the entry's code points.

    Attributes:
        min_mutual_information: in bits, as `Counts.mutual_information` has it.
        unigrams, titles: the fraction of those that reach the least figure, and at most how many.
        bigrams: the fraction of the unigrams' number, and at most how many.
        max_chars: in an entry; longer ones are left out before the fractions are taken.
    """

    min_count: float
    min_mutual_information: float
    min_views: float
    unigrams: tuple[float, float] = (1, np.inf)
    bigrams: tuple[float, float] = (np.inf, np.inf)
    titles: tuple[float, float] = (1, np.inf)
    max_chars: float = np.inf


#: For a list that is for every caption. Source: MetaCLIP (arXiv:2309.16671), table 1.
METACLIP = Limits(100, 30, 70)

#: For a list of one language. Source: MetaCLIP 2 (arXiv:2507.22062); its caps are what MetaCLIP has in English.
METACLIP_2 = Limits(0, -np.inf, 0, (0.1, 251_465), (0.4, 100_646), (0.76, 61_235), 256)


def from_articles(
    paths: Sequence[str], limits: Limits, language: str | None = None, prune: int | None = None,
    tick: Tick = lambda *_: None,
) -> pa.Table:  # fmt: skip
    """Unigrams, then bigrams, of the articles in the dumps: entries.SCHEMA, each from the greatest figure down.

    A unigram's figure is its count, a bigram's its mutual information. A bigram is of two words that are unigrams here.
    Words are those of `wikitext.tokens`, so counted where a caption with the same words would match.

    Args:
        paths: the parts of one wiki's pages-articles dump, or the whole.
        language: of the entries. In matching.UNSPACED ones a "word" is a character, and a bigram has no space in it.
        prune: as in Counts.

    Raises:
        CurateError: a dump can't be read to its end, or there is no word in any.

    Differs: MetaCLIP 2 cuts unspaced languages into words with a tool for each; here they are cut into characters.
    """
    counts = Counts(language not in UNSPACED, prune)
    for path in paths:
        for text in dumps.articles(path, lambda done, path=path: tick(path, done)):  # type: ignore[misc]
            counts.add(wikitext.plain(text))
    counts.flush()
    if len(counts.numbers) == 1:
        raise CurateError(f"{', '.join(paths)}: no article with a word in it is there, but words are counted. Give a "
                          f"dump of pages-articles.")
    names = np.array(list(counts.numbers), object)
    short = np.array([len(name) <= limits.max_chars for name in counts.numbers])
    numbers = np.flatnonzero(short & (counts.words >= max(1, limits.min_count)))
    words = _best(names[numbers].__getitem__, counts.words[numbers], limits.unigrams, len(numbers), "unigram", language)
    return pa.concat_tables([words, _bigrams(counts, names, words, limits, language)])


def _bigrams(counts: Counts, names: np.ndarray, words: pa.Table, limits: Limits, language: str | None) -> pa.Table:
    space = " " if counts.spaced else ""
    chosen = np.zeros(len(names), np.bool_)
    chosen[[counts.numbers[word] for word in words["entry"].to_pylist()]] = True
    lengths = np.array([len(name) for name in names])
    first, second = counts.pairs >> 32, counts.pairs & (2**32 - 1)
    figures = counts.mutual_information()
    kept = np.flatnonzero(chosen[first] & chosen[second] & (figures >= limits.min_mutual_information)
                          & (lengths[first] + lengths[second] + len(space) <= limits.max_chars))  # fmt: skip
    first, second = names[first[kept]], names[second[kept]]
    return _best(lambda rows: first[rows] + space + second[rows], figures[kept], limits.bigrams, words.num_rows,
                 "bigram", language)  # fmt: skip


def from_views(
    paths: Sequence[str], wiki: str, limits: Limits, language: str | None = None, tick: Tick = lambda *_: None
) -> pa.Table:
    """Titles by how often they were viewed, summed over the files, the most viewed first: entries.SCHEMA.

    Args:
        paths, wiki: as `dumps.views` takes them.

    Raises:
        CurateError: as `dumps.views`.
    """
    views = dumps.views(paths, wiki, tick)
    titles = {title: n for title, n in views.items() if n >= limits.min_views and len(title) <= limits.max_chars}
    names = np.array(list(titles), object)
    return _best(names.__getitem__, np.array(list(titles.values())), limits.titles, len(names), "title", language)


def _best(
    entries_of: Callable[[np.ndarray], np.ndarray], figures: np.ndarray, limit: tuple[float, float], whole: int,
    source: str, language: str | None,
) -> pa.Table:  # fmt: skip
    """The entries with the greatest figures, `limit` of `whole`; names are made of few more than these."""
    fraction, cap = limit
    share = fraction * whole + 1e-9 if whole else 0  # 0.1 * 30 shall be 3
    most = int(min(share, cap, len(figures)))
    place = len(figures) - most
    rows = np.flatnonzero(figures >= np.partition(figures, place)[place]) if most else np.empty(0, np.int64)
    table = entries.table(entries_of(rows), source, figures[rows], language)
    return table.sort_by([("figure", "descending"), ("entry", "ascending")]).slice(0, most)
