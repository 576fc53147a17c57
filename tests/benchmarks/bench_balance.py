"""Balancing: counting and sampling against the published np.unique way; a whole metaclip run against a plain loop."""

import functools
import itertools
import pathlib
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_choose import script
from bench_matching import make_input
from bench_pool import WORDS, make_pool
from measure import Cost, Row, pairs, run

#: Rows of which an array is worked through at once, as in the pipeline.
_BATCH = 1 << 17
_T = 20_000


def rows(scratch: pathlib.Path, number: int, size: int = 2_000_000, entries: int = 500_000) -> Iterator[Row]:
    """The table's lines.

    Args:
        scratch: for the pool and the entries, which stay, and outputs.
        number: of alternating runs.
        size: texts, and rows of the pool.
        entries: in the list, about.
    """
    yield count_and_sample(size, entries, number)
    pool, listed = make_pool(scratch, size), make_entries(scratch / f"entries-{entries}", entries)
    ours = functools.partial(command, pool, listed, scratch / "ours-metaclip")
    peer = functools.partial(script, "peer_metaclip.py", pool, listed, _T, scratch / "peer-metaclip")
    measured = pairs(ours, peer, number)
    check_equal(scratch / "ours-metaclip", scratch / "peer-metaclip")
    (own, other), ratio = measured.wall_s(), measured.ratio()
    yield Row(f"metaclip, {size:,} rows, {entries:,} entries", f"{own:.1f} s", f"{other:.1f} s loop, pyahocorasick",
              f"{ratio:.1f}", ">= 3 times", ratio >= 3, measured.memory())  # fmt: skip


def make_entries(folder: pathlib.Path, number: int) -> pathlib.Path:
    """The made-up entries of bench_matching with the English words of the pool, and pairs of these; made once."""
    path = folder / "all.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_input(folder, number, 1)
        words = dict.fromkeys(WORDS["en"].split())
        more = [*words, *map(" ".join, itertools.islice(itertools.permutations(words, 2), number // 100))]
        made = pq.read_table(folder / "entries.parquet")["entry"].to_pylist()
        pq.write_table(pa.table({"entry": list(dict.fromkeys([*made, *more]))}), path)
    return path


def command(pool: pathlib.Path, entries: pathlib.Path, out: pathlib.Path) -> Cost:
    """The whole command with two workers, choosing only, into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    options = {"--pool": f"{pool}/", "--recipe": "metaclip", "--entries": entries, "--workers": 2, "--out": out}
    return run([sys.executable, "-m", "jobs.cli", "--select-only", *(str(w) for pair in options.items() for w in pair)])


def check_equal(ours: pathlib.Path, peer: pathlib.Path) -> None:
    """Raises unless every entry has the same count, and as many rows are kept but for chance."""
    counts = pq.read_table(ours / "entry_counts.parquet")["count"].to_numpy()
    kept, others = (len(np.load(path)) for path in (ours / "subset.npy", f"{peer}.npy"))
    if not np.array_equal(counts, np.load(f"{peer}.counts.npy")) or abs(kept - others) > 6 * others**0.5:
        raise RuntimeError(f"{ours} and {peer} differ: what is compared does not do the same ({kept}, {others} rows).")


def count_and_sample(texts: int, entries: int, number: int) -> Row:
    """From matches to kept texts, in one process, both on one core."""
    rng = np.random.default_rng(0)
    lengths = rng.poisson(3.55, texts)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    found = (entries * rng.random(offsets[-1]) ** 4).astype(np.uint32)  # some are very frequent
    words = np.frombuffer(rng.bytes(16 * texts), "<u8,<u8")
    ours = functools.partial(_ours, words, pa.ListArray.from_arrays(offsets, found), entries)
    peer = functools.partial(_peer, lengths, found, entries)
    taken = [(_seconds(ours), _seconds(peer)) for _ in range(number)]
    own, other = (statistics.median(times) for times in zip(*taken, strict=True))
    ratio = statistics.median(b / a for a, b in taken)
    return Row(f"count and sample, {len(found):,} matches", f"{own * 1e3:.0f} ms", f"{other * 1e3:.0f} ms np.unique",
               f"{ratio:.1f}", ">= 8 times", ratio >= 8)  # fmt: skip


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _ours(words: np.ndarray, matches: pa.ListArray, entries: int) -> int:
    from metadata import balancing

    parts = [(words[n : n + _BATCH], matches.slice(n, _BATCH)) for n in range(0, len(matches), _BATCH)]
    counts = sum(balancing.count(part, entries) for _, part in parts)
    costs = (balancing.costs(balancing.row_hashes(own, 0), part, counts / _T) for own, part in parts)
    return sum(int((cost < 1).sum()) for cost in costs)


def _peer(lengths: np.ndarray, found: np.ndarray, entries: int) -> int:
    """Counts by np.unique, a draw for each match, and the texts with a success by np.unique."""
    probability = np.zeros(entries)
    listed, counts = np.unique(found, return_counts=True)
    probability[listed] = np.minimum(1, _T / counts)
    texts = np.repeat(np.arange(len(lengths)), lengths)
    return len(np.unique(texts[np.random.random(len(found)) < probability[found]]))
