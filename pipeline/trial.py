"""A run in small: rows are chosen from a few of a pool's files, and some of their images fetched, to see what comes.

All by the functions of a run, in one process, into a folder that is thrown away.
"""

import bisect
import collections
import dataclasses
import itertools
import os
import pathlib
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from filters.recipes import Recipe
from pipeline import in_a_loop, manifest, planning, scores, storage
from pipeline.curate import choice_of
from pipeline.options import FetchPolicy, ImageOptions
from pipeline.pieces import Inspection, Piece
from pipeline.pools import Pool

#: Of the images that are fetched, those that come last are waited for: this share of them is the rate's.
_STEADY = 0.9


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What came of choosing.

    Attributes:
        counts: as the manifest has them.
        kept: rows of each piece.
        shares: that are kept of each file when it is chosen from on its own; empty where there is but one.
        seconds_a_row: of all passes together.
        bytes: that were left in the folder.
    """

    counts: Mapping[str, Any]
    kept: Sequence[int]
    shares: Sequence[float]
    seconds_a_row: float
    bytes: int


@dataclasses.dataclass(frozen=True)
class Fetched:
    """What came of some of the kept rows.

    Attributes:
        arrived, stored: bytes of the body and in the shard, of each row; 0 for none. int64, shape (rows,).
        seconds_an_image: until nearly all were there.
        tail_s: seconds from then on, in which few links keep a shard from its end.
        seconds_a_row: of each row of the pool, to note what the kept ones' images need.
    """

    statuses: collections.Counter[str]
    arrived: np.ndarray
    stored: np.ndarray
    seconds_an_image: float
    tail_s: float
    seconds_a_row: float


def choose(recipe: Recipe, found: Inspection, pool_rows: float, folder: str) -> Chosen:
    """Chooses rows of the files, of each on its own and of all together; what the latter leaves stays in `folder`.

    Args:
        pool_rows: how many rows the pool has of which the files are a sample.
    """
    choice = choice_of(recipe, found.rows, folder)
    scores.build(choice.scorers, folder)
    names = [step.name for step in recipe.steps]
    shares = []
    for path in [file.path for file in found.files if file.rows] if len(found.files) > 1 else []:
        own = [piece for piece in found.pieces if piece.path == path]
        own = [dataclasses.replace(piece, index=index) for index, piece in enumerate(own)]
        rows = sum(piece.rows for piece in own)
        in_a_loop.choose(recipe.steps, own, choice, pool_rows / rows)
        shares.append(manifest.count_rows(own, names, folder)[0]["kept"] / rows)
        _forget(folder)
    start = time.perf_counter()
    in_a_loop.choose(recipe.steps, found.pieces, choice, pool_rows / found.rows)
    seconds = time.perf_counter() - start
    counts, kept, _ = manifest.count_rows(found.pieces, names, folder)
    return Chosen(counts, kept, shares, seconds / found.rows, _size(folder))


def _forget(folder: str) -> None:
    """Removes what choosing left, but for what scorers need."""
    work = storage.join(folder, "work")
    for path in (storage.join(folder, "kept"), *(storage.join(work, name) for name in os.listdir(work))):
        if os.path.basename(path) != "built":
            storage.remove(path)


def _size(folder: str) -> int:
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())


def fetch(
    pool: Pool, recipe: Recipe, found: Inspection, kept: Sequence[int], number: int, policy: FetchPolicy,
    images: ImageOptions, folder: str,
) -> Fetched:  # fmt: skip
    """Makes a shard of so many of the kept rows, drawn from all of them alike, or of all where there are no more.

    Args:
        kept: rows of each piece; at least one in all.
        folder: where `choose` left its choice.
    """
    from pipeline import ledger, shards, tars  # it takes a second to import, which no row needs
    from pipeline.resizing import Resizer  # noqa: F401  neither does this

    start = time.perf_counter()
    for piece in found.pieces:
        planning.plan_piece(piece, folder, (*planning.REQUIRED_COLUMNS, *found.optional))
    seconds_a_row = (time.perf_counter() - start) / found.rows
    table = planning.read_plan(_drawn(found.pieces, kept, number), folder)
    out = storage.join(folder, "shards")
    times = []
    with pool.serve() as resolve:
        start = time.perf_counter()
        policy = dataclasses.replace(policy, resolve=resolve)
        statuses = shards.write_shard(0, table, out, policy, images, max(number, recipe.samples_per_shard),
                                      lambda _: times.append(time.perf_counter() - start))  # fmt: skip
    lines = ledger.read_ledger(out, 0)
    with tars.opened(storage.join(out, ledger.tar_name(0))) as tar:
        lengths = {sample.key: sample.length for sample in tars.samples(tar)}
    steady = max(1, int(_STEADY * len(times)))
    return Fetched(
        statuses,
        lines["bytes"].to_numpy(),
        np.array([lengths.get(key, 0) for key in lines["key"].to_pylist()]),
        times[steady - 1] / steady,
        times[-1] - times[steady - 1],
        seconds_a_row,
    )


def _drawn(pieces: Sequence[Piece], kept: Sequence[int], number: int) -> planning.ShardPlan:
    """Some of the kept rows, each as likely as any other and the same every time."""
    ends = list(itertools.accumulate(kept))
    rows = np.random.default_rng(0).choice(ends[-1], min(number, ends[-1]), replace=False)
    parts = []
    for row in sorted(rows.tolist()):
        piece = bisect.bisect_right(ends, row)
        own = row - (ends[piece] - kept[piece])
        parts.append((pieces[piece].name, own, own + 1))
    return planning.ShardPlan(0, tuple(parts))


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    status = pathlib.Path("/proc/self/status")  # the other has what the process held that this one was started from
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
