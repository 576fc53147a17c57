"""MetaCLIP's algorithm restated as plainly as it can be, for texts and entries that fit on a page."""

from collections.abc import Callable, Mapping, Sequence

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
UNSPACED = {"bo", "dz", "ja", "km", "lo", "my", "ryu", "th", "zh"}


def spaced(text: str) -> str:
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    for white in "\t\n\r":
        text = text.replace(white, " ")
    return f" {text} "


def matched(text: str | None, entries: Sequence[str], language: str | None = None) -> list[int]:
    """Numbers of the entries that the text matches."""
    if text is None:
        return []
    within = spaced(text)
    pad = "" if language in UNSPACED else " "
    return [n for n, entry in enumerate(entries) if pad + entry + pad in within]


def mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def row_hash(uid: str, seed: int) -> int:
    high, low = int(uid[:16], 16), int(uid[16:], 16)
    return mix((low + mix((high + mix((seed + GOLDEN) & MASK)) & MASK)) & MASK)


def draw(uid: str, seed: int, entry: int) -> float:
    return (mix((row_hash(uid, seed) + (entry + 1) * GOLDEN) & MASK) >> 11) / (1 << 53)


def count(matches: Sequence[Sequence[int]], entries: int) -> list[int]:
    return [sum(entry in found for found in matches) for entry in range(entries)]


def kept(
    uids: Sequence[str],
    matches: Sequence[Sequence[int]],
    counts: Sequence[int],
    t: Callable[[int], float],
    seed: int = 0,
) -> list[int]:
    """Numbers of the rows of which some entry's draw is below t / count; `t` gives each entry's."""
    return [
        row
        for row, (uid, found) in enumerate(zip(uids, matches, strict=True))
        if any(draw(uid, seed, entry) < t(entry) / counts[entry] for entry in found)
    ]


def tail_share(counts: Sequence[int], t: float) -> float:
    return sum(c for c in counts if c < t) / sum(counts)


def t_of(counts: Sequence[int], share: float) -> int:
    """The count at which the ascending cumulative share is nearest to `share`, at least 1."""
    best, t, total = float("inf"), 1, 0
    for c in sorted(counts):
        total += c
        if abs(total / sum(counts) - share) < best:
            best, t = abs(total / sum(counts) - share), c
    return max(1, t)


def by_language(lists: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """The lists one after the other: entries, and the language of each."""
    return [e for own in lists.values() for e in own], [name for name, own in lists.items() for _ in own]
