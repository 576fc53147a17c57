"""From a plan of kept rows to one deterministic webdataset tar with its ledger.

    NNNNNNNN.tar      the samples that became ok, in planned order, each as jpg, txt, json
    NNNNNNNN.parquet  the ledger: one row per planned sample, in planned order, and what became of it

Neither holds a time, so the same bytes fetched make the same files, in whatever order they came. The ledger is written
last and gives the tar's size and sha256: a shard is whole when its ledger is there and its tar is the one it describes.
"""

import collections
import contextlib
import hashlib
import itertools
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from metadata.errors import CurateError
from pipeline import storage, tars
from pipeline.fetch import Fetched, fetch_all
from pipeline.images import ImageProcessor
from pipeline.ledger import LEDGER_SCHEMA, found_ledger, ledger_name, shard_is_whole, tar_name
from pipeline.options import FetchPolicy, ImageOptions
from pipeline.samples import Row, rows, sample_blocks
from pipeline.statuses import OK

Statuses = collections.Counter[str]
Progress = Callable[[Statuses], None]


class Outcome(NamedTuple):
    """What became of a row: its part of the ledger, and where its sample is in the scratch file, if it is there."""

    status: str
    attempts: int
    bytes: int = 0
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    offset: int = 0
    length: int = 0


_LEDGER_FIELDS = Outcome._fields[:6]


def write_shard(
    shard: int,
    plan: pa.Table,
    folder: str,
    fetch: FetchPolicy,
    images: ImageOptions,
    samples_per_shard: int,
    on_progress: Progress | None = None,
) -> Statuses:
    """Fetches a plan's images and writes the shard's tar and ledger over what was there; gives the statuses.

    Finished samples wait in a file without a name until the last URL is done, so memory doesn't grow with the shard. A
    shard without a single ok sample has a tar too, an end mark alone, in which readers find no samples: shard numbers
    have no gaps.

    Args:
        plan: uid, url and text, and face_bboxes and sha256 where the pool has them; at most `samples_per_shard` rows. A
            row that is there several times, with `copy` 0, 1, …, is fetched once and written under a key for each.
        folder: where the two files go, local or remote.
        on_progress: called after every sample, with the statuses so far.

    Returns:
        How many rows ended as each status, plan.num_rows in all.

    Raises:
        Exception: whatever goes wrong, but for what is wrong with one row's image; then the shard isn't whole.
    """
    planned = rows(plan)
    if len(planned) > samples_per_shard:
        raise ValueError(f"shard {shard}: {len(planned)} rows, but there are keys for {samples_per_shard}.")
    keys = [tars.sample_key(shard, index, samples_per_shard) for index in range(len(planned))]
    with storage.scratch(folder) as scratch:
        outcomes = _fetch(keys, planned, fetch, images, scratch, on_progress)
        # An old ledger must not be found beside a new tar.
        storage.remove(storage.join(folder, ledger_name(shard)))
        path = storage.join(folder, tar_name(shard))
        tar = _write_tar(path, (_sample(scratch, outcome) for outcome in outcomes if outcome.length))
    return _write_ledger(folder, shard, keys, planned, outcomes, tar)


def retry_shard(
    shard: int,
    plan: pa.Table,
    folder: str,
    fetch: FetchPolicy,
    images: ImageOptions,
    samples_per_shard: int,
    statuses: frozenset[str],
    on_progress: Progress | None = None,
) -> tuple[Statuses, Statuses]:
    """Fetches again only the rows that ended as one of `statuses`; gives the statuses before and after.

    The tar is written anew only if a sample became ok, and is then the one that a luckier first run would have written.
    A row's attempts add up; the rest of its line in the ledger is of the last time. `ok` in `statuses` means nothing.

    A run that dies between the tar and the ledger leaves a larger tar than the ledger says, as samples are only added.
    Such a shard isn't whole, nor is one whose tar was damaged since: it is fetched from the start, by this function or
    the next run.

    Raises:
        CurateError: the shard was made from another plan.
    """
    ledger = found_ledger(folder, shard)
    old = [] if ledger is None else [Outcome(*row.values()) for row in ledger.select(_LEDGER_FIELDS).to_pylist()]
    before = collections.Counter(outcome.status for outcome in old)
    again = [index for index, outcome in enumerate(old) if outcome.status in statuses - {OK}]
    if ledger is None or not shard_is_whole(folder, shard, deep=bool(again)):
        return before, write_shard(shard, plan, folder, fetch, images, samples_per_shard, on_progress)
    planned, keys = rows(plan), ledger["key"].to_pylist()
    if ledger["uid"].to_pylist() != [row.uid for row in planned]:
        where = storage.join(folder, ledger_name(shard))
        raise CurateError(f"{where}: its uids are not the plan's, but a retry needs the plan that the shard was made "
                          f"from. Remove the ledger to have the shard made anew.")
    if not again:
        return before, before
    with storage.scratch(folder) as scratch:
        chosen = [keys[index] for index in again], [planned[index] for index in again]
        new = dict(zip(again, _fetch(chosen[0], chosen[1], fetch, images, scratch, on_progress), strict=True))
        outcomes = [_later(outcome, new.get(index)) for index, outcome in enumerate(old)]
        tar = ledger.schema.metadata
        if any(outcome.length for outcome in outcomes):
            tar = _merge_tar(storage.join(folder, tar_name(shard)), keys, outcomes, scratch)
    return before, _write_ledger(folder, shard, keys, planned, outcomes, tar)


def _fetch(
    keys: Sequence[str],
    planned: Sequence[Row],
    policy: FetchPolicy,
    images: ImageOptions,
    scratch: BinaryIO,
    on_progress: Progress | None,
) -> list[Outcome]:
    """Fetches rows, and appends the samples to `scratch` as they come; gives the outcomes in the order of the rows."""
    process = ImageProcessor(images)
    copies: dict[tuple[str | None, str | None], list[int]] = {}
    for index, row in enumerate(planned):
        copies.setdefault((row.uid, row.url), []).append(index)
    groups = list(copies.values())
    outcomes: dict[int, Outcome] = {}
    counts: Statuses = collections.Counter()
    with contextlib.closing(fetch_all([planned[own[0]].url for own in groups], policy)) as results:
        for number, fetched in results:
            own = groups[number]
            if own[0] in outcomes:
                raise RuntimeError(f"the fetcher gave row {own[0]} twice.")
            added = _add(scratch, [(keys[index], planned[index]) for index in own], fetched, process)
            outcomes.update(zip(own, added, strict=True))
            counts.update(outcome.status for outcome in added)
            if on_progress:
                on_progress(counts)
    if len(outcomes) < len(planned):
        raise RuntimeError(f"the fetcher gave {len(outcomes)} of {len(planned)} rows.")
    if policy.resolve and not any(_listens(ip, port) for _, ip, port in policy.resolve):
        # A cluster's job can outlive its driver, in which the pool's server runs: what failed then is no image's fault.
        raise CurateError("the pool's own image server: it has gone while images were fetched, but a shard needs it "
                          "to the end. Run the same command again to go on.")  # fmt: skip
    return [outcomes[index] for index in range(len(planned))]


def _listens(ip: str, port: int) -> bool:
    """Whether something takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection((ip, port), timeout=5):
        return True
    return False


def _add(
    scratch: BinaryIO, copies: Sequence[tuple[str, Row]], fetched: Fetched, process: ImageProcessor
) -> list[Outcome]:
    """Appends a row's samples, of which there is one for each of its keys, to `scratch`, if it became any."""
    if fetched.status != OK:
        return [Outcome(fetched.status, fetched.attempts)] * len(copies)
    _, row = copies[0]
    boxes = None if row.boxes is None else row.boxes.as_py()
    picture = process(fetched.body, row.sha256, boxes)
    ledger = (picture.status, fetched.attempts, len(fetched.body), picture.sha256, picture.width, picture.height)
    if picture.status != OK:
        return [Outcome(*ledger)] * len(copies)
    return [
        Outcome(*ledger, scratch.tell(), scratch.write(sample_blocks(key, row, boxes, picture))) for key, row in copies
    ]


def _later(old: Outcome, new: Outcome | None) -> Outcome:
    """A row's outcome after it was fetched again, or not."""
    return old if new is None else new._replace(attempts=old.attempts + new.attempts)


def _sample(scratch: BinaryIO, outcome: Outcome) -> bytes:
    scratch.seek(outcome.offset)
    return scratch.read(outcome.length)


def _merge_tar(path: str, keys: Sequence[str], outcomes: Sequence[Outcome], scratch: BinaryIO) -> dict[bytes, bytes]:
    """Writes the tar anew: what it had, and what is in `scratch`, in planned order."""
    with tars.opened(path) as tar:
        there = {sample.key: (sample.offset, sample.length) for sample in tars.samples(tar)}
        samples = (
            _sample(scratch, outcome) if outcome.length else tar.read(*there[key])
            for key, outcome in zip(keys, outcomes, strict=True)
            if outcome.status == OK
        )
        return _write_tar(path, samples)


def _write_tar(path: str, samples: Iterable[bytes]) -> dict[bytes, bytes]:
    """Writes the tar; gives what its ledger says of it."""
    digest, size = hashlib.sha256(), 0
    with storage.atomic(path) as file:
        for data in itertools.chain(samples, [tars.END]):
            digest.update(data)
            file.write(data)
            size += len(data)
    return {b"tar_sha256": digest.hexdigest().encode(), b"tar_bytes": b"%d" % size}


def _write_ledger(
    folder: str,
    shard: int,
    keys: Sequence[str],
    planned: Sequence[Row],
    outcomes: Sequence[Outcome],
    tar: Mapping[bytes, bytes],
) -> Statuses:
    """Writes the ledger, which makes the shard whole; gives its statuses."""
    lines = [
        {"uid": row.uid, "url": row.url, "key": key, **outcome._asdict()}
        for key, row, outcome in zip(keys, planned, outcomes, strict=True)
    ]
    table = pa.Table.from_pylist(lines, LEDGER_SCHEMA.with_metadata(tar))
    storage.write_parquet(storage.join(folder, ledger_name(shard)), table, compression="zstd")
    return collections.Counter(outcome.status for outcome in outcomes)
