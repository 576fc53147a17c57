"""Matching: 500,000 made-up entries and captions like those of the web, against pyahocorasick, for each core.

The entries are distributed as MetaCLIP's are: single words, pairs, titles and WordNet's. Words are drawn by Zipf's law,
for the entries and for the captions alike; much of a caption is in title case, in capitals, or of words that are no
entry, so that 3.5 entries match a text, as published. The peer does the whole rule for each text in Python: marks and
spaces, the automaton over the padded text, and the set of what was found. Ours and the peer have everything in memory
when the time starts, and what they find is compared. Times are the processor's: each works on one core, and what else
runs there isn't counted.

    python bench_matching.py ours FOLDER RUNS     seconds of each run, and MB, as JSON; so it is started here
    python bench_matching.py peer FOLDER RUNS
"""

import concurrent.futures
import itertools
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

import measure
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

#: After single words, which are half of the entries: pairs, titles and WordNet's, by the number of words, and shares.
_SHARES = ((2, 2, 0.2), (2, 5, 0.12), (1, 3, 0.18))

#: A syllable is one of each of the first three, many with nothing; a word ends on one of the last, most on nothing.
_ONSETS = [*"bcdfghjklmnprstvw", "st", "tr", "pr", "ch", "sh", "th", "br", "cl", "gr", "pl", "sp", "qu", *[""] * 4]
_VOWELS = [*"aeiouaeioey", "ea", "ou", "ai", "ee", "io"]
_CODAS = [*"nrstlmdx", "ck", "ng", "nd", "st", "rt", *[""] * 9]
_SUFFIXES = ["s", "ed", "ing", "er", "ly", "ness", "tion", "al", "able", "ist", "ville", "ton", "berg", *[""] * 13]


def make_input(folder: pathlib.Path, entries: int, texts: int) -> None:
    """Writes entries.parquet and texts.parquet, always the same."""
    rng = np.random.default_rng(0)
    words = _words(rng, entries)
    known, unknown = words[::2], words[1::2]
    pq.write_table(pa.table({"entry": _entries(rng, known, entries)}), folder / "entries.parquet")
    pq.write_table(pa.table({"text": _captions(rng, known, unknown, texts)}), folder / "texts.parquet")


def _words(rng: np.random.Generator, number: int) -> list[str]:
    """Distinct words, the frequent first, which are short; one in seven with a capital."""
    words: dict[str, None] = {}
    while len(words) < number:
        syllables = rng.integers(1, 5, number)
        parts = [rng.choice(part, syllables.sum()).tolist() for part in (_ONSETS, _VOWELS, _CODAS)]
        pieces = map("".join, zip(*parts, strict=True))
        endings = rng.choice(_SUFFIXES, number).tolist()
        made = ["".join(itertools.islice(pieces, n)) + end for n, end in zip(syllables.tolist(), endings, strict=True)]
        names = (rng.random(number) < 1 / 7).tolist()
        words |= dict.fromkeys(w.capitalize() if name else w for w, name in zip(made, names, strict=True) if len(w) > 1)
    drawn = list(words)
    order = np.argsort([len(w) for w in drawn] * rng.uniform(0.6, 1.4, len(drawn)), kind="stable")[:number]
    return [drawn[i] for i in order]


def _draw(rng: np.random.Generator, words: list[str], number: int) -> Iterator[str]:
    """Words by Zipf's law."""
    shares = np.cumsum(1 / (np.arange(len(words)) + 2.7))
    return (words[i] for i in np.searchsorted(shares, rng.random(number) * shares[-1]))


def _entries(rng: np.random.Generator, words: list[str], number: int) -> list[str]:
    entries = dict.fromkeys(words)
    for low, high, share in _SHARES:
        wanted = len(entries) + int(number * share)
        while len(entries) < wanted:
            lengths = rng.integers(low, high + 1, wanted - len(entries)).tolist()
            drawn = _draw(rng, words, sum(lengths))
            entries |= dict.fromkeys(" ".join(itertools.islice(drawn, length)) for length in lengths)
    return list(entries)[:number]


def _captions(rng: np.random.Generator, known: list[str], unknown: list[str], number: int) -> list[str]:
    lengths = rng.integers(8, 13, number).tolist()
    entries, others = (_draw(rng, words, sum(lengths)) for words in (known, unknown))
    marks = iter(rng.choice(list(",,,..:;?!`") + [""] * 70, sum(lengths)).tolist())
    captions = []
    for length, kind in zip(lengths, rng.random(number).tolist(), strict=True):
        words = list(itertools.islice(others if kind < 0.45 else entries, length))
        caption = " ".join(map("".join, zip(words, itertools.islice(marks, length), strict=True)))
        captions.append(caption.title() if 0.2 < kind < 0.72 else caption.upper() if kind > 0.9 else caption)
    return captions


def ours(folder: pathlib.Path, runs: int) -> tuple[list[float], float]:
    """One batch of all texts, by a mapped matcher: seconds of each run, and by how many MB the process's peak grew.

    Writes what was found.
    """
    from metadata.matching import Matcher

    pa.set_cpu_count(1)  # as in a worker
    texts = pq.read_table(folder / "texts.parquet")["text"].combine_chunks()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = _kilobytes("VmRSS")
    matcher = Matcher(pa.memory_map(str(folder / "matcher")).read_buffer())
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        found = matcher.match(texts)
        seconds.append(time.process_time() - start)
    memory = (_kilobytes("VmHWM") - before) / 1024
    _save(found, folder / "ours.parquet")
    return seconds, memory


def peer(folder: pathlib.Path, runs: int) -> tuple[list[float], float]:
    """The same, one text after the other."""
    import ahocorasick

    before = _kilobytes("VmRSS")
    automaton = ahocorasick.Automaton()
    for number, entry in enumerate(pq.read_table(folder / "entries.parquet")["entry"].to_pylist()):
        automaton.add_word(f" {entry} ", number)
    automaton.make_automaton()
    texts = pq.read_table(folder / "texts.parquet")["text"].to_pylist()
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        found = [{number for _, number in automaton.iter(_normalised(text))} for text in texts]
        seconds.append(time.process_time() - start)
    memory = (_kilobytes("VmHWM") - before) / 1024
    _save(pa.array(map(sorted, found), pa.list_(pa.uint32())), folder / "peer.parquet")
    return seconds, memory


def _normalised(text: str) -> str:
    # Of four ways that were timed this is the fastest: most texts hold few of them.
    for space in "\t\n\r":
        if space in text:
            text = text.replace(space, " ")
    for mark in ",.;:?!`":
        if mark in text:
            text = text.replace(mark, f" {mark} ")
    return f" {text} "


def _kilobytes(field: str) -> int:
    return int(pathlib.Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def _save(found: pa.ListArray, path: pathlib.Path) -> None:
    pq.write_table(pa.table({"found": found}), path)


def rows(scratch: pathlib.Path, number: int, size: int = 500_000, texts: int = 131_072) -> Iterator[measure.Row]:
    """The table's lines.

    Args:
        scratch: where the input and the outputs lie meanwhile.
        number: of alternating runs.
        size: number of entries.
        texts: number of captions, one batch.
    """
    from metadata.matching import compile_matcher

    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = pathlib.Path(name)
        make_input(folder, size, texts)
        entries = pq.read_table(folder / "entries.parquet")["entry"].combine_chunks()
        compile_s = []
        for _ in range(number):
            start = time.process_time()
            (folder / "matcher").write_bytes(compile_matcher(entries))
            compile_s.append(time.process_time() - start)
        measured = measure.pairs(lambda: _run("ours", folder), lambda: _run("peer", folder), number)
        if not pq.read_table(folder / "ours.parquet").equals(pq.read_table(folder / "peer.parquet")):
            raise RuntimeError("the two found different entries.")
        found = pc.list_value_length(pq.read_table(folder / "ours.parquet")["found"])
        two = [_two_and_one(folder) for _ in range(number)]
    (ours_s, peer_s), ratio = measured.wall_s(), measured.ratio()
    memory, other = (max(cost.one_mb for cost in costs) for costs in measured)
    yield measure.Row(f"match {texts:,} texts, {size:,} entries, {pc.mean(found).as_py():.1f} a text",
                      f"{texts / ours_s:,.0f} texts/s", f"{texts / peer_s:,.0f} pyahocorasick", f"{ratio:.1f}",
                      ">= 4 times, < 100 MB", ratio >= 4 and memory < 100,
                      f"{memory:.0f} MB for matching, other {other:.0f} MB")  # fmt: skip
    share = statistics.median(two)
    yield measure.Row("  2 workers against 1", "", "", f"{share:.2f}", ">= 1.8 times", share >= 1.8)
    middle = statistics.median(compile_s)
    yield measure.Row("  compiling", f"{middle:.2f} s", "", "", "< 2 s", middle < 2)


def _run(which: str, folder: pathlib.Path, runs: int = 3) -> measure.Cost:
    """A process of its own, but its wall time is the median run's, and its memory what matching added."""
    cost = measure.run([sys.executable, __file__, which, str(folder), str(runs)])
    seconds, memory = json.loads(cost.output)
    return cost._replace(wall_s=statistics.median(seconds), one_mb=memory)


def _two_and_one(folder: pathlib.Path) -> float:
    """How many times the texts of one worker two match in the same time."""
    one = _run("ours", folder, 9).wall_s
    with concurrent.futures.ThreadPoolExecutor(2) as both:
        walls = [cost.wall_s for cost in both.map(lambda _: _run("ours", folder, 9), range(2))]
    return one / walls[0] + one / walls[1]


if __name__ == "__main__":
    sys.path.insert(0, str(measure.REPOSITORY))
    print(json.dumps({"ours": ours, "peer": peer}[sys.argv[1]](pathlib.Path(sys.argv[2]), int(sys.argv[3]))))
