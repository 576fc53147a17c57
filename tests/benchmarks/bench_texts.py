"""text_based: whole commands against DataComp's way, on captions of a vocabulary as wide as the web's.

The peer is DataComp's code restated with nltk itself, which isn't among our dependencies: without it (`pip install
nltk==3.8.1`, with its WordNet where NLTK_DATA says) there is no peer and only our own time is measured. Both read the
same WordNet, and their subsets are compared.
"""

import functools
import hashlib
import importlib.util
import pathlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_choose import check_equal, command, script
from bench_pool import SHARES, WORDS, table
from measure import Pairs, Row, pairs

FILES = 4


def make_pool(folder: pathlib.Path, rows: int) -> pathlib.Path:
    """A pool of that many rows in FILES files, made once: as bench_pool has it, but for its English captions."""
    from metadata import wordnet

    out = folder / f"texts-{rows}"
    if not out.exists():
        part = folder / f"texts-{rows}.part"
        part.mkdir(parents=True, exist_ok=True)
        known = [word for word in wordnet.words(wordnet.installed()) if word.isalpha()]
        for n in range(FILES):
            made = table(100 + n, rows // FILES)
            text = pa.array(captions(np.random.default_rng(n), known, made["text"].to_pylist()))
            made = made.set_column(made.schema.names.index("text"), "text", text)
            pq.write_table(made, part / f"{hashlib.md5(str(n).encode()).hexdigest()}.parquet")
        part.rename(out)
    return out


def captions(rng: np.random.Generator, known: list[str], texts: list[str]) -> list[str]:
    """The texts; the English share of them of words that bind, WordNet's words by Zipf's law, and names and numbers.

    About half of these name something of ImageNet-21k, as of the web's.
    """
    known = [known[i] for i in np.random.default_rng(0).permutation(len(known))]
    shares = np.cumsum(1 / (np.arange(len(known)) + 30))
    binding = ["the", "a", "of", "with", "and", "in", "for", "to", "on", "by", "at", "new", "best", "this", "how"]
    endings = ["", "", "", "", "s", ",", ".", "ing", "!", "s,"]

    def caption() -> str:
        words = []
        for kind, draw in rng.random((int(rng.integers(1, 15)), 2)).tolist():
            if kind < 0.5:
                words.append(binding[int(draw * len(binding))])
            elif kind < 0.68:
                word = known[int(np.searchsorted(shares, draw * shares[-1]))]
                words.append((word.title() if kind < 0.6 else word) + endings[int(kind * 1e4) % len(endings)])
            else:
                words.append(f"{'KXQZWVYJ'[int(draw * 8)]}{int(draw * (1e4 if kind < 0.8 else 1e6)):x}")
        return " ".join(words)

    english = rng.random(len(texts)) < SHARES[list(WORDS).index("en")]
    return [caption() if drawn else text for drawn, text in zip(english.tolist(), texts, strict=True)]


def rows(scratch: pathlib.Path, number: int, size: int = 200_000, workers: int = 2) -> Iterator[Row]:
    """The table's line.

    Args:
        scratch: a folder for the pool, which stays, and outputs.
        number: of our runs, in turns with the peer's.
        size: rows of the pool.
    """
    pool = make_pool(scratch, size)
    ours = functools.partial(command, pool, scratch / "ours", "text_based", workers)
    what = f"choose text_based, {size:,} rows"
    if importlib.util.find_spec("nltk") is None:
        costs = [ours() for _ in range(number)]
        yield Row(what, f"{Pairs(costs, costs).wall_s()[0]:.1f} s", "no peer: nltk isn't installed", "", "", None)
        return
    peer = functools.partial(script, "peer_datacomp.py", "text_based", pool, scratch / "peer.npy", workers)
    measured = pairs(ours, peer, number)
    check_equal(scratch / "ours" / "subset.npy", scratch / "peer.npy")
    kept = len(np.load(scratch / "peer.npy"))
    (own, other), ratio = measured.wall_s(), measured.ratio()
    yield Row(f"{what}, {kept / size:.0%} kept", f"{own:.1f} s", f"{other:.1f} s DataComp", f"{ratio:.1f}",
              ">= 30 times", ratio >= 30, measured.memory())  # fmt: skip
