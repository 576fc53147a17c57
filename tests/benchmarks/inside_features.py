"""Work on features against the least that it is made of, in turns, in one process.

    python inside_features.py nearest RUNS ROWS VECTORS       the nearest of many vectors; one product of that size
    python inside_features.py negcliploss RUNS ROWS           a batch of so many; the product of that size
    python inside_features.py semdedup RUNS ROWS CLUSTERS     judging clusters from a file; a loop over them in memory
    python inside_features.py normsim RUNS ROWS FILE.parquet  NormSim of rows as they are read; reading them
    python inside_features.py stored RUNS ROWS ADDRESS        the same of a file in a store; seconds of the wall
    python inside_features.py read RUNS ROWS FILE.parquet     reading l14_img by batches; the file's bytes of it

Prints [[ours, other], …] in seconds as JSON, after a run of each that isn't counted. They are of CPU time, in which
other work on the cores hardly counts; on one thread they are else the wall's. Memory is kept as in a worker.
"""

import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from pipeline.workers import keep_memory

DIMS = 768
Pair = tuple[Callable[[], object], Callable[[], object]]


def units(rows: int, seed: int) -> np.ndarray:
    """float16, as a pool has features."""
    values = np.random.default_rng(seed).standard_normal((rows, DIMS), np.float32)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def product(rows: int, vectors: int) -> Callable[[], object]:
    """One product of float32 that many rows by that many vectors, into memory that is there already."""
    a, b = units(rows, 0).astype(np.float32), units(vectors, 1).astype(np.float32)
    out = np.ones((rows, vectors), np.float32)
    return lambda: np.matmul(a, b.T, out=out)


def nearest(rows: int, vectors: int) -> Pair:
    from filters.features import unit_blocks
    from filters.nearest import Nearest
    from filters.vectors import Vectors

    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/vectors.npy", units(vectors, 1))
        find = Nearest(Vectors(f"{folder}/vectors.npy", "l14_img", "benchmark"))
    features = units(rows, 0)
    return lambda: [find(block) for _, block, _ in unit_blocks(features, "benchmark")], product(rows, vectors)


def negcliploss(rows: int) -> Pair:
    from filters.negcliploss import scores
    from metadata.uids import UID_DTYPE

    images, texts = units(rows, 0), units(rows, 1)
    uids = np.random.default_rng(2).integers(0, 1 << 63, 2 * rows, np.uint64).view(UID_DTYPE)
    part = product(rows // 16, rows)  # in as many parts: the whole one of the paper's batch would take 4 GB
    return lambda: scores(images, texts, uids, batch=rows), lambda: [part() for _ in range(16)]


def normsim(rows: int, file: str) -> Pair:
    from filters.normsim import NormSimScores

    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/targets.npy", units(1000, 3))
        scorer = NormSimScores(f"{folder}/targets.npy", "l2", "l14_img")
        score, alone = scorer.load(scorer.build()), reader(rows, file)
    return lambda: [score(batch) for batch in alone()], lambda: [None for _ in alone()]


def semdedup(rows: int, clusters: int) -> Pair:
    """A tenth of the rows comes twice. In the file they are as from ten pieces of a pool, each ordered by cluster."""
    from filters.semantic_distinct import SemanticDistinct
    from pipeline.carried import Carried, Ordered
    from pipeline.groups import _begins, _sizes_and_places

    rng, values = np.random.default_rng(2), units(rows, 0)
    keys = np.zeros(rows, [("high", "<u8"), ("low", "<u8")])
    keys["high"] = rng.integers(0, clusters, rows)
    values[-rows // 10 :], keys[-rows // 10 :] = values[: rows // 10], keys[: rows // 10]
    in_file = np.lexsort((keys["high"], rng.integers(0, 10, rows)))
    values, keys = values[in_file], keys[in_file]
    order = np.argsort(keys["high"], kind="stable")
    sizes, places = _sizes_and_places(_begins(keys, order))
    carried = Carried("l14_img", 768, tempfile.gettempdir())
    carried.add(pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), DIMS), np.arange(rows))

    def ours() -> np.ndarray:
        return SemanticDistinct("none", 0.05).judge(sizes, places, Ordered(carried, order))

    def plain() -> np.ndarray:
        stay = np.empty(rows, bool)
        for start in np.flatnonzero(places == 0):
            own = values[order[start : start + sizes[start]]].astype(np.float32)
            cosines = np.triu(own @ own.T, 1)
            stay[start : start + len(own)] = cosines.max(axis=0) <= 1 - 0.05
        return stay

    assert np.array_equal(ours(), plain())
    assert ours().sum() == rows - rows // 10
    return ours, plain


def reader(rows: int, file: str) -> Callable[[], object]:
    from pipeline.pieces import batches, inspect
    from pipeline.pools import open_pool

    found = inspect(open_pool(file, None, {}), ["uid", "l14_img"])
    assert found.rows == rows
    return lambda: (batch for piece in found.pieces for batch in batches(piece, ["uid", "l14_img"]))


def read(rows: int, file: str) -> Pair:
    alone = reader(rows, file)
    path = pathlib.Path(file).with_suffix(".npz")

    def raw() -> None:
        with path.open("rb") as opened:
            for start in range(0, 2 * DIMS * rows, 1 << 25):
                opened.read(min(1 << 25, 2 * DIMS * rows - start))

    return lambda: [None for _ in alone()], raw


def main(kind: str, runs: str, *args: str) -> None:
    made = {"nearest": nearest, "negcliploss": negcliploss, "semdedup": semdedup, "normsim": normsim,
            "stored": normsim, "read": read}[kind]  # fmt: skip
    clock = time.perf_counter if kind == "stored" else time.process_time
    keep_memory()
    work = made(*(int(arg) if arg.isdecimal() else arg for arg in args))
    taken = []
    for _ in range(int(runs) + 1):
        taken.append([])
        for job in work:
            start = clock()
            job()
            taken[-1].append(clock() - start)
    print(json.dumps(taken[1:]))


if __name__ == "__main__":
    main(*sys.argv[1:])
