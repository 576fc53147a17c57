"""A run in small: rows are chosen from a few of a pool's files, and some of their images fetched, to see what comes.

All by the functions of a run, in one process, into a folder that is thrown away.
"""

import bisect
import collections
import dataclasses
import itertools
import os
import pathlib
import re
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters.recipes import Recipe
from pipeline import in_a_loop, manifest, planning, scores, select, storage
from pipeline.curate import choice_of, tell
from pipeline.options import FetchPolicy, ImageOptions
from pipeline.pieces import Inspection, Piece
from pipeline.pools import Pool

#: Of the images that are fetched, those that come last are waited for: this share of them is the rate's.
_STEADY = 0.9

#: Folders of a run in which there is a file a piece that grows with the samples taken of it, not with its rows; and
#: those of which a copy is made by range, where a pool has many pieces.
_OF_SAMPLES, _BOUND = ("kept", "rows", "plan"), re.compile(r"uids|groups-\d+")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What came of choosing.

    Attributes:
        counts: as the manifest has them.
        samples: of each piece.
        shares: that are kept of each file when it is chosen from on its own; empty where there is but one.
        seconds_a_row: of all passes together.
    """

    counts: Mapping[str, Any]
    samples: Sequence[int]
    shares: Sequence[float]
    seconds_a_row: float


@dataclasses.dataclass(frozen=True)
class Left:
    """Bytes that were left in the folder, but for those of shards and of what a run writes of itself.

    Attributes:
        once: however many rows there are.
        of_rows: that grow with the rows.
        of_samples: that grow with the samples.
        of_a_sample: the same for one, by file that has any. float64, shape (files,).
    """

    once: int
    of_rows: int
    of_samples: int
    of_a_sample: np.ndarray


@dataclasses.dataclass(frozen=True)
class Fetched:
    """What came of some of the samples.

    Attributes:
        arrived: bytes of the body of each row, fetched once however many of its copies are among them; 0 for none.
            int64, shape (rows,).
        stored: bytes in the shard of each sample; 0 for none. int64, shape (samples,).
        ledger: bytes of all their lines, and those that a ledger has besides.
        seconds_an_image: until nearly all were there.
        tail_s: seconds from then on, in which few links keep a shard from its end.
    """

    statuses: collections.Counter[str]
    arrived: np.ndarray
    stored: np.ndarray
    ledger: tuple[int, int]
    seconds_an_image: float
    tail_s: float


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
    counts, samples, hashes, _ = manifest.count_rows(found.pieces, names, folder)
    tell(recipe.steps, select.fitted(recipe.steps, folder), folder, hashes)
    return Chosen(counts, samples, shares, seconds / found.rows)


def _forget(folder: str) -> None:
    """Removes what choosing left, but for what scorers need."""
    work = storage.join(folder, "work")
    for path in (storage.join(folder, "kept"), *(storage.join(work, name) for name in os.listdir(work))):
        if os.path.basename(path) != "built":
            storage.remove(path)


def plan(found: Inspection, folder: str) -> float:
    """Notes in the folder what the images of the samples need; gives the seconds of a row of the pool."""
    start = time.perf_counter()
    for piece in found.pieces:
        planning.plan_piece(piece, folder, (*planning.REQUIRED_COLUMNS, *found.optional))
    return (time.perf_counter() - start) / found.rows


def left(found: Inspection, samples: Sequence[int], pool_pieces: float, folder: str) -> Left:
    """What `choose` and `plan` left in the folder.

    Args:
        samples: of each piece; at least one in all.
        pool_pieces: of the pool that the files are a sample of.
    """
    once, of_rows = 0, 0
    of_samples: collections.Counter[str] = collections.Counter()
    for path in filter(pathlib.Path.is_file, pathlib.Path(folder).rglob("*")):
        size, parent = path.stat().st_size, path.parent.name
        if not re.match(r"\d{6}", path.name):
            once += size
        elif parent in _OF_SAMPLES:
            of_samples[found.pieces[int(path.stem)].path] += size
        elif parent != "subset":  # which is known without
            is_bound = _BOUND.fullmatch(parent) and pool_pieces > select.Choice.files_at_once
            of_rows += 2 * size if is_bound else size
    taken: collections.Counter[str] = collections.Counter()
    for piece, number in zip(found.pieces, samples, strict=True):
        taken[piece.path] += number
    of_a_sample = np.array([of_samples[path] / number for path, number in taken.items() if number])
    return Left(once, of_rows, of_samples.total(), of_a_sample)


def fetch(
    pool: Pool, recipe: Recipe, found: Inspection, samples: Sequence[int], number: int, policy: FetchPolicy,
    images: ImageOptions, folder: str,
) -> Fetched:  # fmt: skip
    """Makes a shard of so many of the samples, drawn from all of them alike, or of all where there are no more.

    Args:
        samples: of each piece; at least one in all.
        folder: where `choose` and `plan` left what they made.
    """
    from pipeline import ledger, shards, tars  # it takes a second to import, which no row needs
    from pipeline.resizing import Resizer  # noqa: F401  neither does this

    table = planning.read_plan(_drawn(found.pieces, samples, number), folder)
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
    _, first = np.unique(lines["uid"].to_numpy(), return_index=True)
    steady = max(1, int(_STEADY * len(times)))
    return Fetched(
        statuses,
        lines["bytes"].to_numpy()[first],
        np.array([lengths.get(key, 0) for key in lines["key"].to_pylist()]),
        _parts(storage.read(storage.join(out, ledger.ledger_name(0)))),
        times[steady - 1] / steady,
        times[-1] - times[steady - 1],
    )


def _parts(parquet: bytes) -> tuple[int, int]:
    """Bytes of a parquet file's rows, and of the rest."""
    found = pq.read_metadata(pa.BufferReader(parquet))
    groups = [found.row_group(number) for number in range(found.num_row_groups)]
    of_rows = sum(group.column(n).total_compressed_size for group in groups for n in range(found.num_columns))
    return of_rows, len(parquet) - of_rows


def _drawn(pieces: Sequence[Piece], samples: Sequence[int], number: int) -> planning.ShardPlan:
    """Some of the samples, each as likely as any other and the same every time."""
    ends = list(itertools.accumulate(samples))
    rows = np.random.default_rng(0).choice(ends[-1], min(number, ends[-1]), replace=False)
    parts = []
    for row in sorted(rows.tolist()):
        piece = bisect.bisect_right(ends, row)
        own = row - (ends[piece] - samples[piece])
        parts.append((pieces[piece].name, own, own + 1))
    return planning.ShardPlan(0, tuple(parts))


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    status = pathlib.Path("/proc/self/status")  # the other has what the process held that this one was started from
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
