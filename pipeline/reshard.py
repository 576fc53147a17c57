"""From shards that are already downloaded to the shards of a subset: members are copied, images never decoded.

    NNNNNNNN.tar   the samples whose uid is in the subset, in the input's order, all tars full but the last
    sizes.json     samples by tar, for open_clip
    manifest.json  what went in and what came out; run.json: what was asked for
    work/          what a killed run goes on from; gone at the end

Two passes over whole files, each file one worker's. The first reads the headers of every input tar and the uids in its
json members, and leaves an index of the samples to keep. The second copies those, output tar by output tar. Between
them stand counts per tar, so memory doesn't grow with the pool.

A uid that the subset has k times is written k times: first come all samples once, then those with a second copy once
more, and so on. So between two copies of a sample lie all the samples between, and never is one beside the other unless
it is alone in having them; the order follows from the subset and the input alone.
"""

import binascii
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import io
import itertools
import json
import mmap
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from metadata.errors import CurateError, printable
from pipeline import folder, storage, tars
from pipeline.progress import Line

Task = TypeVar("Task")
Result = TypeVar("Result")

_UIDS = np.dtype("u8,u8")
_MAX_SAMPLE_BYTES = 64 << 20
_COPY_BYTES = 2 << 20
_SAMPLES_AT_ONCE = 10_000


class Run(NamedTuple):
    """Samples of an input tar that go to one output tar: those with more than `copy` copies, from `start` to `stop`."""

    tar: str
    copy: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Job:
    """What every worker needs to know; `subset` is a local file."""

    shards: str
    subset: str
    out: str
    samples: int

    def tar(self, name: str) -> str:
        return storage.join(self.shards, name)

    def work(self, name: str) -> str:
        return storage.join(self.out, "work", name)


def reshard(shards: str, subset: str, out: str, samples: int, workers: int, overwrite: bool = False) -> dict[str, Any]:
    """Writes the shards of a subset; gives their manifest, with "nothing_to_do" if they were there.

    Args:
        shards: folder of webdataset tars whose samples have a json member with a "uid" of 32 hexadecimal digits.
        subset: .npy of dtype u8,u8, sorted; a uid may be in it more than once.
        out: folder to write to.
        samples: in each shard.
        workers: processes.
        overwrite: remove what another subset or other shards left in `out`.

    Raises:
        CurateError: a tar or the subset is broken, a sample has no uid, two have the same one (both are named: which of
            them a subset means can't be known), none is found, or `out` holds something else.
    """
    for option, path in ("--shards", shards), ("--subset", subset):
        if _is_inside(path, out):
            raise CurateError(f"{option} {path}: lies in --out {out}, but what is read must not be written over. Give another --out.")
    names = [name for name in storage.names(shards) if name.endswith(".tar")]
    if not names:
        raise CurateError(f"--shards {shards}: no tars there, but a folder with .tar files is needed. Look at the path.")
    with _local(subset) as path:
        digest, distinct = check_subset(path, subset)
        inputs = [{"name": name, "bytes": _size(storage.join(shards, name))} for name in names]
        _claim(out, {"command": "reshard", "subset_sha256": digest, "samples_per_shard": samples, "shards": inputs}, overwrite)
        job = Job(shards, path, out, samples)
        try:
            return storage.read_json(storage.join(out, "manifest.json")) | {"nothing_to_do": True}
        except FileNotFoundError:
            return _reshard(job, inputs, digest, distinct, workers)
        finally:
            if storage.exists(storage.join(out, "manifest.json")):
                storage.remove(storage.join(out, "work"))


def _reshard(job: Job, inputs: list[dict[str, Any]], digest: str, distinct: int, workers: int) -> dict[str, Any]:
    names = [tar["name"] for tar in inputs]
    with _workers(workers, remote=not all(map(storage.is_local, (job.shards, job.out)))) as each:
        _follow("reading headers", "tars", each(functools.partial(index_tar, job), names), len(names))
        levels = _levels(job, inputs)
        plan = list(enumerate(plan_shards(levels, job.samples)))
        outputs = _follow("copying", "tars", each(functools.partial(write_shard, job), plan), len(plan))
    kept, written = sum(tar["kept"] for tar in inputs), sum(shard["samples"] for shard in outputs)
    if written != sum(sum(level) for level in levels.values()):
        raise CurateError(f"{job.out}: {written} samples were written, but not as many as planned. This is a defect: please report it.")
    manifest = {
        "command": "reshard",
        "subset": {"sha256": digest, "uids": distinct, "missing": distinct - kept},
        "samples": {"in": sum(tar["samples"] for tar in inputs), "kept": kept, "copies": written - kept, "written": written},
        "samples_per_shard": job.samples,
        "shards": inputs,
        "outputs": outputs,
    }
    storage.write_json(storage.join(job.out, "sizes.json"), {shard["name"]: shard["samples"] for shard in outputs})
    storage.write_json(storage.join(job.out, "manifest.json"), manifest)
    return manifest


def check_subset(path: str, name: str) -> tuple[str, int]:
    """The sha256 of a subset file, and how many distinct uids it has.

    Raises:
        CurateError: it is no .npy of dtype u8,u8 and one dimension, is empty or isn't sorted.
    """
    needed = "but DataComp's format is needed: .npy, dtype u8,u8, one dimension, sorted. Make it with `curate --select-only`."
    try:
        uids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CurateError(f"--subset {name}: {printable(error)}, {needed}") from None
    if not isinstance(uids, np.ndarray) or uids.dtype != _UIDS or uids.ndim != 1 or not len(uids):
        what = f"dtype {uids.dtype} and shape {uids.shape}" if isinstance(uids, np.ndarray) else "an archive of arrays"
        raise CurateError(f"--subset {name}: {printable(what)}, {needed}")
    distinct = 1
    for start in range(0, len(uids) - 1, 1 << 20):
        part = np.asarray(uids[start : start + (1 << 20) + 1])
        high, low = part["f0"], part["f1"]
        same = high[1:] == high[:-1]
        wrong = (high[1:] < high[:-1]) | same & (low[1:] < low[:-1])
        if wrong.any():
            raise CurateError(f"--subset {name}: row {start + int(wrong.argmax()) + 1} is smaller than the one before, {needed}")
        distinct += int((~same | (low[1:] != low[:-1])).sum())
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), distinct


def find(subset: np.ndarray, uids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where uids are in a sorted subset, and how often.

    Args:
        subset: dtype u8,u8, shape (m,); may be a memory map: about log2(m) of its rows are touched for a uid.
        uids: <u8, shape (n, 2).

    Returns:
        int64, shape (n,): the first row of each uid, or where it would be; int64, shape (n,): its rows, 0 for none.
    """
    first = _bound(subset, uids, np.less)
    return first, _bound(subset, uids, np.less_equal) - first


def _bound(subset: np.ndarray, uids: np.ndarray, before: np.ufunc) -> np.ndarray:
    """How many rows of the subset are `before` each uid: a binary search for all of them at once."""
    high, low = np.asarray(subset["f0"]), np.asarray(subset["f1"])
    start, stop = np.zeros(len(uids), np.int64), np.full(len(uids), len(subset), np.int64)
    for _ in range(len(subset).bit_length()):
        middle = np.minimum((start + stop) >> 1, len(subset) - 1)
        there = high[middle]
        right = (there < uids[:, 0]) | (there == uids[:, 0]) & before(low[middle], uids[:, 1])
        right &= start < stop
        start = np.where(right, middle + 1, start)
        stop = np.where(right, stop, np.minimum(middle, stop))
    return start


def index_tar(job: Job, name: str) -> None:
    """Reads a tar to its end and writes the index of its samples that are in the subset, unless it is there.

    An .npz of `samples` (in the tar), `row` (in the subset), `copies` and `members` of each sample kept, and `data`, `size`
    and `extension` of each member of those.
    """
    if storage.exists(job.work(f"{name}.npz")):
        return
    subset = np.load(job.subset, mmap_mode="r", allow_pickle=False)
    count, kept, members = 0, [], []
    with tars.opened(job.tar(name)) as tar:
        samples = tars.samples(tar)
        while batch := list(itertools.islice(samples, _SAMPLES_AT_ONCE)):
            count += len(batch)
            raw = binascii.unhexlify(b"".join([_uid(tar, sample) for sample in batch]))
            rows, copies = find(subset, np.frombuffer(raw, ">u8").astype("<u8").reshape(-1, 2))
            chosen = np.flatnonzero(copies)
            kept.append(np.stack([rows[chosen], copies[chosen], [len(batch[i].members) for i in chosen]]))
            members += [(m.data, m.size, _extension(tar, batch[i], e)) for i in chosen for e, m in batch[i].members.items()]
    row, copies, counts = np.concatenate(kept or [np.zeros((3, 0))], axis=1).astype(np.int64)
    data, size, extension = zip(*members, strict=True) if members else ([], [], [])
    file = io.BytesIO()
    np.savez(file, samples=count, row=row, copies=copies, members=counts,
             data=np.array(data, np.int64), size=np.array(size, np.int64), extension=np.array(extension, np.bytes_))
    storage.write(job.work(f"{name}.npz"), file.getvalue())


#: A uid that comes first, as img2dataset writes it for DataComp: its json need not be parsed.
_FIRST_UID = re.compile(rb'\s*\{\s*"uid"\s*:\s*"([0-9a-fA-F]{32})"\s*[,}]')


def _uid(tar: tars.Source, sample: tars.Sample) -> bytes:
    """The uid in a sample's json, 32 hexadecimal digits."""
    if sample.length > _MAX_SAMPLE_BYTES:
        raise _bad_sample(tar, sample, f"{sample.length} bytes, but at most {_MAX_SAMPLE_BYTES} are copied")
    member = sample.members.get("json")
    body = tar.read(member.data, member.size) if member else b"null"
    if found := _FIRST_UID.match(body):
        return found[1]
    try:
        uid = json.loads(body)["uid"]
    except (ValueError, TypeError, KeyError, RecursionError):
        uid = None
    if not isinstance(uid, str) or not re.fullmatch("[0-9a-fA-F]{32}", uid):
        raise _bad_sample(tar, sample, "no uid, but a json member with a \"uid\" of 32 hexadecimal digits is needed")
    return uid.encode()


def _extension(tar: tars.Source, sample: tars.Sample, extension: str) -> bytes:
    raw = extension.encode()
    if len(raw) > 80:
        raise _bad_sample(tar, sample, f"an extension of {len(raw)} bytes, but at most 80 fit behind a key")
    return raw


def _bad_sample(tar: tars.Source, sample: tars.Sample, what: str) -> CurateError:
    return CurateError(f"{tar.name}: sample {printable(sample.key)!r} has {what}. Mend the tar, or take it out of the folder.")


def _index(job: Job, name: str) -> Mapping[str, np.ndarray]:
    return np.load(io.BytesIO(storage.read(job.work(f"{name}.npz"))), allow_pickle=False)


def _levels(job: Job, inputs: list[dict[str, Any]]) -> dict[str, list[int]]:
    """How many samples of each tar have more than 0, 1, 2, … copies; adds samples and kept to `inputs`."""
    levels = {}
    with tempfile.TemporaryFile() as file:
        # A byte for each row of the subset, in a file so that it needn't be in memory.
        seen = np.memmap(file, bool, "w+", shape=np.load(job.subset, mmap_mode="r").shape)
        for tar in inputs:
            index = _index(job, tar["name"])
            row = index["row"]
            again = np.concatenate([row[seen[row]], np.sort(row)[1:][np.diff(np.sort(row)) == 0]])
            if len(again):
                _raise_same_uid(job, [t["name"] for t in inputs], again[0])
            seen[row] = True
            levels[tar["name"]] = np.bincount(index["copies"])[:0:-1].cumsum()[::-1].tolist()
            tar |= {"samples": int(index["samples"]), "kept": len(row)}
    if not any(levels.values()):
        raise CurateError(f"--subset: none of its uids is in the {sum(tar['samples'] for tar in inputs)} samples of {job.shards}, but "
                          f"shards need some. Look whether the two are of one pool.")
    return levels


def _raise_same_uid(job: Job, names: Sequence[str], row: int) -> None:
    """Names the samples that have the uid in that row of the subset."""
    where = []
    for name in names:
        if storage.exists(job.work(f"{name}.npz")):
            index = _index(job, name)
            first = np.cumsum(index["members"]) - index["members"]
            offsets = set(index["data"][first[index["row"] == row]].tolist())
            with tars.opened(job.tar(name)) as tar:
                where += [f"{printable(sample.key)!r} of {tar.name}" for sample in tars.samples(tar)
                          if next(iter(sample.members.values())).data in offsets]
    raise CurateError(f"--shards {job.shards}: samples {' and '.join(where)} have the same uid, but a uid names one sample. "
                      f"Take all but one of them out.")


def plan_shards(levels: Mapping[str, Sequence[int]], samples: int) -> list[list[Run]]:
    """What goes into each output tar: all samples of all tars once, then once more those that have a second copy, ….

    Args:
        levels: by input tar, in order: how many of its samples have more than 0, 1, 2, … copies.
        samples: in an output tar.
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


def write_shard(job: Job, planned: tuple[int, Sequence[Run]]) -> dict[str, Any]:
    """Writes an output tar, unless it is there and whole; gives its name, samples, bytes and sha256."""
    shard, runs = planned
    name = f"{shard:08d}.tar"
    path, done = storage.join(job.out, name), job.work(f"{name}.json")
    if storage.exists(done):
        record = storage.read_json(done)
        if storage.exists(path) and _size(path) == record["bytes"]:
            return record
    digest, size = hashlib.sha256(), 0
    with storage.atomic(path) as file, ThreadPoolExecutor(1) as beside:
        hashing: Future | None = None
        for block in _blocks(job, shard, runs):
            if hashing:
                hashing.result()  # so that no more than two blocks are held
            hashing = beside.submit(digest.update, block)
            size += _write_past_cache(file, block)
    record = {"name": name, "samples": sum(run.stop - run.start for run in runs), "bytes": size, "sha256": digest.hexdigest()}
    storage.write_json(done, record)
    return record


def _blocks(job: Job, shard: int, runs: Sequence[Run]) -> Iterator[memoryview]:
    """The bytes of an output tar, some megabytes at a time; a block holds until the next but one is asked for.

    Blocks but the last two begin and end on a page, in memory and in the tar.
    """
    # img2dataset's convention, as in pipeline/shards.py.
    digits = len(str(job.samples - 1)) if job.samples > 1 else 0
    block, other = mmap.mmap(-1, _COPY_BYTES), mmap.mmap(-1, _COPY_BYTES)
    end = 0
    for number, sample in enumerate(itertools.chain.from_iterable(_samples(job, run) for run in runs)):
        if end + sample.bound > len(block):
            whole = end - end % mmap.PAGESIZE
            if end - whole + sample.bound > len(other):
                other = mmap.mmap(-1, 2 * sample.bound)
            other[: end - whole] = block[whole:end]
            yield memoryview(block)[:whole]
            block, other, end = other, block, end - whole
        end = sample.copy(f"{shard * 10**digits + number:0{8 + digits}d}", memoryview(block), end)
    yield memoryview(block)[:end]
    yield memoryview(tars.END)


def _write_past_cache(file: BinaryIO, block: memoryview) -> int:
    """Writes whole pages straight to a local disk, where the file system can, and anything else as usual.

    Shards are written once, and are more than a page cache holds; to make room there for them costs more than the copy.
    """
    if not isinstance(file, io.BufferedWriter):
        return file.write(block)
    direct = getattr(os, "O_DIRECT", 0)
    flags = fcntl.fcntl(file, fcntl.F_GETFL) & ~direct
    written = 0
    if len(block) % mmap.PAGESIZE == 0:
        with contextlib.suppress(OSError):  # such as a file system without it; what is not written is written below
            fcntl.fcntl(file, fcntl.F_SETFL, flags | direct)
            written = os.write(file.fileno(), block)
    fcntl.fcntl(file, fcntl.F_SETFL, flags)
    return written + file.write(block[written:])


class _Kept(NamedTuple):
    """A sample to copy: its tar, and the offset, size and extension of each of its members there."""

    tar: tars.Source
    members: list[tuple[int, int, bytes]]

    @property
    def bound(self) -> int:
        """Bytes that a copy needs at most while it is made: what is read has its own headers between the members."""
        return self.members[-1][0] + self.members[-1][1] - self.members[0][0] + 2 * tars.BLOCK

    def copy(self, key: str, block: memoryview, end: int) -> int:
        """Puts the members, under their new headers, into `block` from `end` on; gives the new end.

        All is read at once behind the place of the first header, so the first member, the image, lies where it belongs;
        the others move towards it, as what was between them is more than the one header that is now.
        """
        first = self.members[0][0]
        length = self.members[-1][0] + self.members[-1][1] - first
        read = end + tars.BLOCK
        if self.tar.read_into(first, block[read : read + length]) != length:
            raise CurateError(f"{self.tar.name}: ends before byte {first + length}, but was longer before. Let nothing write to it.")
        for at, size, extension in self.members:
            data, stop = end + tars.BLOCK, end + tars.BLOCK + size
            if at != first:
                block[data:stop] = block[read + at - first : read + at - first + size]
            block[end:data] = tars.member_header(f"{key}.{extension.decode()}", size)
            end = stop + -size % tars.BLOCK
            block[stop:end] = tars.padding(size)
        return end


def _samples(job: Job, run: Run) -> Iterator[_Kept]:
    index = _index(job, run.tar)
    members = list(zip(*(index[name].tolist() for name in ("data", "size", "extension")), strict=True))
    stops = np.cumsum(index["members"])
    chosen = np.flatnonzero(index["copies"] > run.copy)[run.start : run.stop]
    with tars.opened(job.tar(run.tar)) as tar:
        for start, stop in zip((stops - index["members"])[chosen].tolist(), stops[chosen].tolist(), strict=True):
            yield _Kept(tar, members[start:stop])


@contextlib.contextmanager
def _workers(count: int, remote: bool) -> Iterator[Callable[[Callable[[Task], Result], Iterable[Task]], Iterator[Result]]]:
    """A `map` over processes, in order; a worker that dies ends it with an error."""
    if count == 1:
        yield map
        return
    # A fork is there at once, but fsspec's remote file systems have threads, which a fork would cut off.
    context = multiprocessing.get_context("spawn" if remote else "fork")
    pool = ProcessPoolExecutor(count, context, initializer=_begin_work)
    try:
        yield pool.map
    except BrokenProcessPool:
        raise CurateError("a worker process died, but its work is needed. If memory ran out, try fewer --workers; what is finished is "
                          "kept: run the same command again to go on.") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_work() -> None:
    """Leaves Ctrl-C to the parent, and ends with it: it may be killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    if parent:
        threading.Thread(target=wait, daemon=True).start()


def _follow(label: str, unit: str, results: Iterable[Result], total: int) -> list[Result]:
    """The results, with progress on standard error as they come."""
    line = Line(label, unit, total)
    found = []
    try:
        for result in results:
            found.append(result)
            line.show(len(found), last=len(found) == total)
    except BaseException:
        line.close()
        raise
    return found


def _claim(out: str, identity: dict[str, Any], overwrite: bool) -> None:
    """Makes `out` this run's, without the other one's files if it is to be overwritten, and without torn ones."""
    if overwrite and storage.exists(storage.join(out, "run.json")):
        storage.remove(storage.join(out, "manifest.json"))
        for name in storage.names(out):
            if re.fullmatch(r"\d{8}\.tar|sizes\.json", name):
                storage.remove(storage.join(out, name))
    folder.claim(out, identity, overwrite)
    if storage.is_local(out):
        for name in os.listdir(out):
            if re.fullmatch(r"\.\d{8}\.tar\.\w+\.tmp", name):  # of a run that was killed
                os.unlink(os.path.join(out, name))


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
    """The file on this machine: itself, or a copy while the block lasts."""
    if storage.is_local(path):
        yield path
        return
    with storage.open_read(path) as remote, tempfile.NamedTemporaryFile(suffix=".npy") as file:
        shutil.copyfileobj(remote, file)
        file.flush()
        yield file.name


def _is_inside(path: str, directory: str) -> bool:
    if storage.is_local(path) != storage.is_local(directory):
        return False
    path, directory = (p.rstrip("/") if "://" in p else os.path.realpath(p) for p in (path, directory))
    return (path + "/").startswith(directory + "/")


def _size(path: str) -> int:
    if storage.is_local(path):
        return os.stat(path).st_size
    fs, name = storage.filesystem(path)
    return fs.size(name)
