"""From kept rows to shards: what each shard will hold, and the doing of one shard.

work/plan/NNNNNN.parquet    what the image step needs of a piece's samples: its kept rows in pool order, each as often
                            as it is taken; `copy` numbers these from 0
work/progress/NNNNNNNN.json  statuses so far of one shard
"""

import collections
import dataclasses
import io
import json
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import ledger, storage
from pipeline.options import FetchPolicy, ImageOptions
from pipeline.pieces import Piece, batches

#: What a shard needs of a row beyond these is optional: a pool may lack it.
REQUIRED_COLUMNS = ("uid", "url", "text")
OPTIONAL_COLUMNS = ("face_bboxes", "sha256")

#: Rows in a row group of a plan: a shard reads few rows that are not its own.
_GROUP_ROWS = 10_000


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """The samples of one shard: runs of planned samples, in pool order.

    Attributes:
        parts: (name of the piece, its first planned sample, the one after the last).
    """

    shard: int
    parts: tuple[tuple[str, int, int], ...]

    @property
    def rows(self) -> int:
        return sum(end - start for _, start, end in self.parts)


@dataclasses.dataclass(frozen=True)
class ImageStep:
    """What every worker needs to know to make shards."""

    folder: str
    columns: tuple[str, ...]
    samples: int
    fetch: FetchPolicy
    images: ImageOptions


def plan_path(name: str, folder: str) -> str:
    """Where the plan of the piece of that name is."""
    return storage.join(folder, "work", "plan", f"{name}.parquet")


def plan_piece(piece: Piece, folder: str, columns: Sequence[str]) -> None:
    """Writes what the image step needs of the piece's samples, unless it is there."""
    if storage.exists(path := plan_path(piece.name, folder)):
        return
    with storage.atomic(path) as file:
        rows = storage.read(storage.join(folder, "work", "rows", f"{piece.name}.npy"))
        kept = np.load(io.BytesIO(rows), allow_pickle=False)
        copy = np.arange(len(kept)) - np.searchsorted(kept, kept)  # equal rows are next to each other
        writer: pq.ParquetWriter | None = None
        offset = 0
        for batch in batches(piece, columns):
            first, end = np.searchsorted(kept, [offset, offset + batch.num_rows])
            chosen = batch.take(pa.array(kept[first:end] - offset))
            chosen = chosen.append_column("copy", pa.array(copy[first:end], pa.int32()))
            writer = writer or pq.ParquetWriter(file, chosen.schema, compression="zstd", use_dictionary=False)
            writer.write_batch(chosen, row_group_size=_GROUP_ROWS)
            offset += batch.num_rows
        assert writer is not None  # a piece has rows
        writer.close()


def plan_shards(planned: Sequence[tuple[str, int]], samples: int) -> list[ShardPlan]:
    """Cuts the samples of all pieces, in order, into shards of `samples`; only the last may hold fewer.

    Args:
        planned: (name of the piece, number of its samples).
    """
    plans: list[ShardPlan] = []
    parts: list[tuple[str, int, int]] = []
    room = samples
    for name, rows in planned:
        start = 0
        while start < rows:
            end = min(rows, start + room)
            parts.append((name, start, end))
            room -= end - start
            start = end
            if not room:
                plans.append(ShardPlan(len(plans), tuple(parts)))
                parts, room = [], samples
    if parts:
        plans.append(ShardPlan(len(plans), tuple(parts)))
    return plans


def read_plan(plan: ShardPlan, folder: str) -> pa.Table:
    """The shard's planned samples, in order: first copies in pool order, then second ones, and so on.

    So copies are as far from each other as one shard allows.
    """
    tables = []
    for name, start, end in plan.parts:
        path = plan_path(name, folder)
        with pa.memory_map(path) if storage.is_local(path) else storage.open_read(path) as file:
            parquet = pq.ParquetFile(file)
            offset = 0
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                low, high = max(start, offset), min(end, offset + rows)
                if low < high:
                    tables.append(parquet.read_row_group(group, use_threads=False).slice(low - offset, high - low))
                offset += rows
    planned = pa.concat_tables(tables)
    copy = planned["copy"].to_numpy()
    return planned.take(np.argsort(copy, kind="stable")) if copy.any() else planned


def make_shard(plan: ShardPlan, step: ImageStep, _planned: object = None) -> None:
    """Fetches and writes the shard, unless it is there and whole."""
    folder = storage.join(step.folder, "shards")
    if ledger.shard_is_whole(folder, plan.shard):
        return
    from pipeline import shards  # workers alone need it, and what it brings

    report = progress_writer(step.folder, plan.shard)
    statuses = shards.write_shard(
        plan.shard, read_plan(plan, step.folder), folder, step.fetch, step.images, step.samples, report
    )
    report(statuses, last=True)


def progress_path(folder: str, shard: int) -> str:
    """Where a shard's statuses so far are."""
    return storage.join(folder, "work", "progress", f"{shard:08d}.json")


def progress_writer(folder: str, shard: int, every_s: float = 1.0) -> Callable[..., None]:
    """A function that leaves the statuses so far that it is given for the driver, not more often than `every_s`."""
    written = 0.0

    def report(statuses: collections.Counter, last: bool = False) -> None:
        nonlocal written
        if last or time.monotonic() - written >= every_s:
            written = time.monotonic()
            storage.write(progress_path(folder, shard), json.dumps({"statuses": statuses, "done": last}).encode())

    return report


class ProgressReader:
    """Adds up the statuses of all shards; a finished shard's are read once."""

    def __init__(self, folder: str) -> None:
        self.folder = storage.join(folder, "work", "progress")
        self.done: dict[str, collections.Counter] = {}

    def __call__(self) -> tuple[int, str]:
        """Samples settled by now, and the two statuses that matter most in words."""
        total: collections.Counter = collections.Counter()
        for name in storage.names(self.folder):
            if name not in self.done:
                found = storage.read_json(storage.join(self.folder, name))
                statuses = collections.Counter(found["statuses"])
                if found["done"]:
                    self.done[name] = statuses
                else:
                    total += statuses
        for statuses in self.done.values():
            total += statuses
        settled = total.total()
        return settled, f"{total['ok']:,} ok, {settled - total['ok']:,} not" if settled else ""
