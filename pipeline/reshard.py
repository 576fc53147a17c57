"""From shards that are already downloaded to the shards of a subset: members are copied, images never decoded.

    NNNNNNNN.tar   the samples whose uid is in the subset, in the input's order, all tars full but the last
    sizes.json     samples by tar, for open_clip
    manifest.json  what went in and what came out; run.json: what was asked for
    work/          what a killed run goes on from; gone at the end

Two passes over whole files, each file one worker's (reshard_work.py). The first reads every input tar's headers and the
uids in its json members, and leaves an index of the samples to keep. The second copies those, output tar by output tar.
Between them stand counts per tar, so memory doesn't grow with the pool.

A uid that the subset has k times is written k times: first all samples once, then those with a second copy once more,
and so on. Between two copies of a sample there is thus every other that is to be seen as often, and the order follows
from the subset and the input alone. Where the input is of the main job and has copies of its own, any of which may be
missing since its fetch failed, the lowest that is there is read and the others are passed over.
"""

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np

from metadata.errors import CurateError, printable
from pipeline import folder, shard_folders, signals, storage, tars
from pipeline import subset as subsets
from pipeline.progress import Line
from pipeline.reshard_work import Job, Run, index_tar, read_index, write_index, write_shard

Result = TypeVar("Result")
Each = Callable[[Callable[[Any], Result], Iterable[Any]], Iterator[Result]]


def reshard(
    shards: str,
    subset: str,
    out: str,
    samples: int,
    workers: int,
    overwrite: bool = False,
    remove: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Writes the shards of a subset; gives their manifest, with "nothing_to_do" if they were there.

    Args:
        shards: folder of webdataset tars, or of a run, whose samples have a json member with a "uid" of 32 hexadecimal
            digits.
        subset: .npy of dtype u8,u8, sorted; a uid may be in it more than once.
        out: folder to write to.
        samples: in each shard.
        workers: processes, of which no more are begun than there are tars.
        overwrite: remove what another subset or other shards left in `out`.
        remove: removal lists, whose samples are left out: what each has (uid, sha256, url or domain), and its path.

    Raises:
        CurateError: a tar or the subset is broken; a run, or sizes.json, has more tars than are there; a sample has no
            uid; two that are wanted have the same one and are the same copy (which of them the subset means can't be
            known); none is found; `out` holds something else.
    """
    for option, path in ("--shards", shards), ("--subset", subset):
        folder.refuse_inside(out, option, [path])
    shards, names = shard_folders.open_whole(shards)
    with subsets.local_file(subset) as path, _packed(remove) as (lists, listed):
        facts = subsets.check(path, f"--subset {subset}")
        paths = [storage.join(shards, name) for name in names]
        sizes, etags = (list(storage.several_at_once(of, paths)) for of in (storage.size, storage.etag))
        inputs = [{"name": name, "bytes": size} for name, size in zip(names, sizes, strict=True)]
        asked = {
            "command": "reshard",
            # The manifest, whose bytes follow from those of the input, has no etags: they may be times.
            "pool": [{**tar, "etag": etag} for tar, etag in zip(inputs, etags, strict=True)],
            "recipe": {"subset_sha256": facts.sha256} | ({"removals": listed} if listed else {}),
            "samples_per_shard": samples,
        }
        with folder.claim(out, asked, overwrite):
            written = storage.join(out, "manifest.json")
            finished = storage.exists(written)
            if not finished:
                job = Job(shards, path, out, samples, lists)
                storage.write_json(written, _reshard(job, inputs, facts, workers) | {"removals": listed})
            storage.remove(storage.join(out, "work"))
            return storage.read_json(written) | ({"nothing_to_do": True} if finished else {})


def _reshard(job: Job, inputs: Sequence[Mapping[str, Any]], facts: subsets.Facts, workers: int) -> dict[str, Any]:
    """Does it all but the manifest, which it gives."""
    names = [tar["name"] for tar in inputs]
    threads = bool(job.lists) or not all(map(storage.is_local, (job.shards, job.out)))
    most = max(len(names), len(subsets.load(job.subset)) // job.samples + 1)  # tars to read, or to write
    with worker_processes(min(workers, most), threads) as each:
        counts = follow("reading", each(functools.partial(index_tar, job), names), len(names))
        levels, removed = _levels(job, names)
        if not any(levels.values()):
            if removed:
                raise CurateError(
                    f"--remove: all {removed} samples of {job.shards} that are in the subset are on a list, but shards "
                    f"need some. Look whether it is the right list."
                )
            raise CurateError(
                f"--subset: none of its uids is among the {sum(counts)} samples of {job.shards}, but "
                f"shards need some. Look whether the two are of one pool."
            )
        plan = plan_shards(levels, job.samples)
        _remove_others(job.out, len(plan))
        outputs = follow("copying", each(functools.partial(write_shard, job), enumerate(plan)), len(plan))
    storage.write_json(storage.join(job.out, "sizes.json"), {shard["name"]: shard["samples"] for shard in outputs})
    kept = {name: level[0] if level else 0 for name, level in levels.items()}
    written = sum(shard["samples"] for shard in outputs)
    missing = facts.distinct - sum(kept.values()) - removed
    return {
        "command": "reshard",
        "subset": {"sha256": facts.sha256, "uids": facts.distinct, "missing": missing},
        "samples": {
            "in": sum(counts),
            "removed": removed,
            "kept": sum(kept.values()),
            "copies": written - sum(kept.values()),
            "written": written,
        },
        "samples_per_shard": job.samples,
        "shards": [{**tar, "samples": n, "kept": kept[tar["name"]]} for tar, n in zip(inputs, counts, strict=True)],
        "outputs": outputs,
    }


#: The number of a sample that is on a removal list: above that of every other, so that any of these goes before it.
_LISTED = np.iinfo(np.int32).max


def _levels(job: Job, names: Sequence[str]) -> tuple[dict[str, list[int]], int]:
    """How many samples of each tar have more than 0, 1, 2, … copies, once each row of the subset has one sample only.

    That is its lowest copy on no removal list; in the indexes the others get 0 `copies`. Besides: how many rows have
    none but listed ones.
    """
    levels, removed = {}, 0
    shape = subsets.load(job.subset).shape
    with tempfile.TemporaryFile() as lowest_file, tempfile.TemporaryFile() as seen_file:
        # Five bytes for each row of the subset, in files so that they needn't stay in memory.
        lowest = np.memmap(lowest_file, np.int32, "w+", shape=shape)
        seen = np.memmap(seen_file, bool, "w+", shape=shape)
        lowest[:] = _LISTED
        for name in names:
            index = read_index(job, name)
            np.minimum.at(lowest, index["row"], _numbers(index))
        for name in names:
            index = read_index(job, name)
            rows, copies, listed = index["row"], index["copies"], index["copies"] == 0
            lowest_there = _numbers(index) == lowest[rows]
            kept, times = np.unique(rows[lowest_there & ~listed], return_counts=True)
            again = kept[seen[kept] | (times > 1)]
            if len(again):
                _raise_same_uid(job, names, again[0], lowest[again[0]])
            gone = np.unique(rows[lowest_there & listed])
            removed += int((~seen[gone]).sum())
            seen[kept] = seen[gone] = True
            if not lowest_there[~listed].all():
                copies = np.where(lowest_there, copies, 0)
                write_index(job, name, {**index, "copies": copies})
            levels[name] = np.bincount(copies)[:0:-1].cumsum()[::-1].tolist()
    return levels, removed


def _numbers(index: Mapping[str, np.ndarray]) -> np.ndarray:
    """By which a row's samples are ranked: int32, shape (samples in the index,)."""
    return np.where(index["copies"] == 0, _LISTED, index["copy"]).astype(np.int32)


def _raise_same_uid(job: Job, names: Sequence[str], row: int, copy: int) -> None:
    """Names the samples that are that copy of that row of the subset, and on no removal list."""
    where = []
    for name in names:
        index = read_index(job, name)
        first = np.cumsum(index["members"]) - index["members"]
        data = set(index["data"][first[(index["row"] == row) & (_numbers(index) == copy)]].tolist())
        if data:
            with tars.opened(job.tar(name)) as tar:
                where += [
                    f"{printable(sample.key)!r} of {name}"
                    for sample in tars.samples(tar)
                    if next(iter(sample.members.values())).data in data
                ]
    raise CurateError(
        f"--shards {job.shards}: samples {' and '.join(where)} have the same uid, but a uid names one "
        f"sample. Take all but one of them out."
    )


def plan_shards(levels: Mapping[str, Sequence[int]], samples: int) -> list[list[Run]]:
    """What goes into each output tar: all samples of all tars once, then once more those that have a second copy, ….

    Args:
        levels: by input tar, in order: how many of its samples have more than 0, 1, 2, … copies.
        samples: in an output tar; only the last has fewer.
    """
    plan: list[list[Run]] = []
    room = 0
    for copy in range(max(map(len, levels.values()))):
        levels = {name: level for name, level in levels.items() if len(level) > copy}
        for name, level in levels.items():
            start = 0
            while start < level[copy]:
                if not room:
                    plan.append([])
                    room = samples
                stop = min(level[copy], start + room)
                plan[-1].append(Run(name, copy, start, stop))
                room -= stop - start
                start = stop
    return plan


@contextlib.contextmanager
def worker_processes(count: int, threads: bool) -> Iterator[Each]:
    """A `map` over that many processes, in order; a worker that dies ends it with an error."""
    if count == 1:
        yield map
        return
    # A fork is there at once, but would cut off the threads that fsspec's remote file systems have, and pyarrow.
    context = multiprocessing.get_context("spawn" if threads else "fork")
    pool = ProcessPoolExecutor(count, context, initializer=_begin_work)

    def each(function: Callable[[Any], Result], items: Iterable[Any]) -> Iterator[Result]:
        with signals.held_back():  # the first call forks
            return pool.map(function, items)

    try:
        yield each
    except BrokenProcessPool:
        raise CurateError(
            "a worker process died in the middle of its work, but all are needed. If memory ran out, try "
            "fewer --workers. What is finished is kept: run the same command again to go on."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_work() -> None:
    """Leaves Ctrl-C to the parent, and ends with it should it be killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def follow(label: str, results: Iterable[Result], total: int) -> list[Result]:
    """The results, with progress on standard error as they come."""
    found = []
    with Line(label, "tars", total) as line:
        for result in results:
            found.append(result)
            line.show(len(found), last=len(found) == total)
    return found


def _remove_others(out: str, shards: int) -> None:
    """Removes the tars that an overwritten run has left behind those of this one, which replaces the rest."""
    for name in storage.names(out):
        if re.fullmatch(r"\d{8}\.tar", name) and int(name[:8]) >= shards:
            storage.remove(storage.join(out, name))


def _packed(lists: Sequence[tuple[str, str]]) -> contextlib.AbstractContextManager:
    """See reshard_lists.packed, which brings pyarrow."""
    if not lists:
        return contextlib.nullcontext(((), []))
    from pipeline import reshard_lists

    return reshard_lists.packed(lists)
