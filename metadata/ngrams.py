"""Words of a large text, and pairs of neighbouring words, counted in little memory."""

import itertools

import numpy as np

from metadata import wikitext

#: Tokens that are counted at once, and runs whose words are remembered.
_BATCH_TOKENS, _MAX_KNOWN = 1 << 20, 1 << 18

_Run = tuple[np.ndarray, np.ndarray]


class _Known(dict[str, list[int]]):
    """Numbers of the words in each run met so far, for a text has few different ones; `numbers` gets the new words."""

    def __init__(self, numbers: dict[str, int]) -> None:
        self.numbers = numbers

    def __missing__(self, run: str) -> list[int]:
        if len(self) >= _MAX_KNOWN:
            self.clear()
        self[run] = found = [self.numbers.setdefault(word, len(self.numbers)) for word in wikitext.words(run)]
        return found


class Counts:
    """How often each word occurs, and each pair of neighbours, as `wikitext.tokens` has both.

    A pair takes 16 bytes, some 70 while they are merged; a word some 150.

    Args:
        spaced: as `wikitext.tokens` takes it.
        prune: how many pairs are held between batches of 2^20 tokens; None for all. When there are more, those seen
            least are dropped until at most half of that is left. So a pair that is rare, or was rare at first, is
            counted short, by at most `dropped`: the sum, over all prunings, of the largest count that was dropped.
            The counts of words are whole.

    Attributes:
        numbers: words by number, from 1; 0 is the break between words that are no neighbours.
        words: int64, shape (len(numbers),): the words' counts by number, 0 for the break.
        pairs: int64, shape (n,): pairs as first << 32 | second, by number, ascending.
        pair_counts: int64, shape (n,).
    """

    def __init__(self, spaced: bool = True, prune: int | None = None) -> None:
        self.spaced, self.prune, self.dropped = spaced, prune, 0
        self.numbers = {wikitext.BREAK: 0}
        self._known = _Known(self.numbers)
        self.words = np.zeros(1, np.int64)
        self._tokens: list[int] = []
        self._runs: list[_Run] = []  # pairs, ascending, and their counts; each run is at least twice the next

    @property
    def pairs(self) -> np.ndarray:
        return self._whole()[0]

    @property
    def pair_counts(self) -> np.ndarray:
        return self._whole()[1]

    def add(self, text: str) -> None:
        """Counts a text; its last word and the first of the next are no neighbours."""
        runs = wikitext.runs(text, self.spaced)
        self._tokens.extend(itertools.chain.from_iterable(map(self._known.__getitem__, runs)))
        self._tokens.append(0)
        if len(self._tokens) >= _BATCH_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Brings the attributes up to date with what was added."""
        tokens = np.array(self._tokens, np.int64)
        self._tokens = []
        words = np.bincount(tokens, minlength=len(self.numbers))
        words[: len(self.words)] += self.words
        words[0] = 0
        self.words = words
        first, second = tokens[:-1], tokens[1:]
        self._runs.append(np.unique((first << 32 | second)[(first > 0) & (second > 0)], return_counts=True))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            self._runs[-2:] = [_merged(self._runs[-2:])]
        if self.prune is not None and sum(len(pairs) for pairs, _ in self._runs) > self.prune:
            self._drop(self.prune)

    def _whole(self) -> _Run:
        if len(self._runs) != 1:
            self._runs = [_merged(self._runs)]
        return self._runs[0]

    def _drop(self, most: int) -> None:
        pairs, counts = self._whole()
        if len(pairs) > most:
            place = len(counts) - most // 2 - 1
            least = np.partition(counts, place)[place]
            kept = counts > least
            self._runs = [(pairs[kept], counts[kept])]
            self.dropped += int(least)

    def mutual_information(self) -> np.ndarray:
        """Of each pair: log2(N c(xy)^3 / (c(x) c(y))) in bits, float64, shape (n,); N is the number of words.

        Source: Daille 1994, the cubed mutual information (MI3), which corpus tools have beside the plain one.
        Differs: MetaCLIP (arXiv:2309.16671) asks for pointwise mutual information of at least 30 and does not say how
            it is taken. Without the cube it is at most log2(N), 31 to 32 for the English Wikipedia, so that 30 would
            be reached only by pairs of words that occur some three times in all. Cubed, 30 is a threshold of use:
            there, words that occur 1,000 times each must be neighbours 70 times, of 100,000 times each 1,500 times.
            Its price: pairs of the most frequent words, such as "of the", reach it too.
        """
        pairs, counts = self._whole()
        first, second = (np.log2(self.words[numbers]) for numbers in (pairs >> 32, pairs & (2**32 - 1)))
        return np.log2(max(1, self.words.sum())) + 3 * np.log2(counts) - first - second


def _merged(runs: list[_Run]) -> _Run:
    if not runs:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    pairs, counts = (np.concatenate(arrays) for arrays in zip(*runs, strict=True))
    order = np.argsort(pairs, kind="stable")
    pairs, counts = pairs[order], counts[order]
    starts = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)])
    return pairs[starts], np.add.reduceat(counts, starts) if len(starts) else counts
