"""The two passes of a reshard over whole files: the index of an input tar, and an output tar.

    work/NAME.tar.npz       an input tar's samples that are in the subset
    work/NNNNNNNN.tar.json  what the manifest says of an output tar; there when the tar is

Each is done once: where its file is, it is read and nothing else is done.
"""

import binascii
import contextlib
import dataclasses
import fcntl
import hashlib
import io
import itertools
import json
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from metadata.errors import CurateError, printable
from pipeline import storage, tars
from pipeline import subset as subsets

_MAX_SAMPLE_BYTES = 64 << 20
_MAX_EXTENSION_BYTES = 80  # so that it fits into a tar's header behind a key
_COPY_BYTES = 2 << 20
_SAMPLES_AT_ONCE = 1000


class Run(NamedTuple):
    """Samples of an input tar that go to one output tar: of those with more than `copy` copies, `start` to `stop`."""

    tar: str
    copy: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Job:
    """What every worker needs to know; `subset` is a local file, and so are the removal lists, see reshard_lists."""

    shards: str
    subset: str
    out: str
    samples: int
    lists: tuple[tuple[str, str], ...] = ()

    def tar(self, name: str) -> str:
        return storage.join(self.shards, name)

    def work(self, name: str) -> str:
        return storage.join(self.out, "work", name)


def index_tar(job: Job, name: str) -> int:
    """Reads a tar to its end and writes the index of its samples that are in the subset; gives how many it has in all.

    The index is an .npz: `samples` (in the tar); of each sample in the subset its first `row` there, its number `copy`
    among the samples of that row, the `copies` to write of it, 0 if it is on a removal list, and its `members`; of each
    of their members the offset and size of its `data`, and its `extension`.
    """
    if storage.exists(job.work(f"{name}.npz")):
        return int(read_index(job, name)["samples"])
    uids = subsets.load(job.subset)
    count, kept, members = 0, [np.zeros((4, 0), np.int64)], []
    with tars.opened(job.tar(name)) as tar:
        samples = ((sample, *sample_uid(tar, sample)) for sample in tars.samples(tar))
        while numbered := list(itertools.islice(samples, _SAMPLES_AT_ONCE)):
            batch, found_uids, copy = zip(*numbered, strict=True)
            count += len(batch)
            raw = binascii.unhexlify(b"".join(found_uids))
            rows, copies = subsets.find(uids, np.frombuffer(raw, ">u8").astype("<u8").reshape(-1, 2))
            chosen = np.flatnonzero(copies)
            found = [batch[i] for i in chosen]
            if job.lists:
                from pipeline import reshard_lists  # with pyarrow, which a reshard without lists doesn't need

                copies[chosen[reshard_lists.listed(job.lists, tar, found)]] = 0
            each = [len(sample.members) for sample in found]
            kept.append(np.array([rows[chosen], np.array(copy)[chosen], copies[chosen], each], np.int64))
            members += [(m.data, m.size, _raw(tar, sample, e)) for sample in found for e, m in sample.members.items()]
    data, size, extension = zip(*members, strict=True) if members else ((), (), ())
    index = dict(zip(("row", "copy", "copies", "members"), np.concatenate(kept, axis=1), strict=True))
    index |= {"samples": np.array(count), "data": np.array(data, np.int64), "size": np.array(size, np.int64)}
    write_index(job, name, index | {"extension": np.array(extension, np.bytes_)})
    return count


def write_index(job: Job, name: str, index: Mapping[str, Any]) -> None:
    """Writes the index of an input tar, arrays by name."""
    file = io.BytesIO()
    np.savez(file, **index)
    storage.write(job.work(f"{name}.npz"), file.getvalue())


def read_index(job: Job, name: str) -> Mapping[str, np.ndarray]:
    """The index of an input tar."""
    return np.load(io.BytesIO(storage.read(job.work(f"{name}.npz"))), allow_pickle=False)


#: A uid that comes first, as img2dataset writes it for DataComp: the rest of the json needn't be parsed. The main job
#: numbers a row's further copies right after it.
_FIRST_UID = re.compile(
    rb'\s*\{\s*"uid"\s*:\s*"([0-9a-fA-F]{32})"\s*(?:,\s*"copy"\s*:\s*([1-9]\d{0,8})\s*)?[,}]'
)


def sample_uid(tar: tars.Source, sample: tars.Sample) -> tuple[bytes, int]:
    """The uid in a sample's json, 32 hexadecimal digits, and its number among the samples of the uid's row, from 0."""
    if sample.length > _MAX_SAMPLE_BYTES:
        raise unfit(tar, sample, f"{sample.length} bytes, but at most {_MAX_SAMPLE_BYTES} are copied")
    member = sample.members.get("json")
    body = tar.read(member.data, member.size) if member else b"null"
    if found := _FIRST_UID.match(body):
        return found[1], int(found[2] or 0)
    try:
        uid = json.loads(body)["uid"]
    except (ValueError, TypeError, KeyError, RecursionError):
        uid = None
    if not isinstance(uid, str) or not re.fullmatch("[0-9a-fA-F]{32}", uid):
        raise unfit(tar, sample, 'no uid, but a json member with a "uid" of 32 hexadecimal digits is needed')
    return uid.encode(), 0


def _raw(tar: tars.Source, sample: tars.Sample, extension: str) -> bytes:
    raw = extension.encode()
    if len(raw) > _MAX_EXTENSION_BYTES:
        raise unfit(tar, sample, f"an extension of {len(raw)} bytes, but at most {_MAX_EXTENSION_BYTES} fit here")
    return raw


def unfit(tar: tars.Source, sample: tars.Sample, what: str) -> CurateError:
    """The error for a sample that can't be copied; `what` it has, and what is needed."""
    return CurateError(
        f"{tar.name}: sample {printable(sample.key)!r} has {what}. Mend the tar, or take it out of the folder."
    )


def write_shard(job: Job, planned: tuple[int, Sequence[Run]]) -> dict[str, Any]:
    """Writes an output tar; gives its name, samples, bytes and sha256."""
    shard, runs = planned
    name = f"{shard:08d}.tar"
    path, done = storage.join(job.out, name), job.work(f"{name}.json")
    if storage.exists(done):
        record = storage.read_json(done)
        if storage.exists(path) and storage.size(path) == record["bytes"]:
            return record
    digest, size = hashlib.sha256(), 0
    with storage.atomic(path) as file, ThreadPoolExecutor(2) as beside:
        under_way: list[Future] = []
        for block in _blocks(job, shard, runs):
            _finish(under_way)  # their block is about to be filled anew
            under_way = [beside.submit(digest.update, block), beside.submit(_write, file, block)]
            size += len(block)
        _finish(under_way)
    samples = sum(run.stop - run.start for run in runs)
    record = {"name": name, "samples": samples, "bytes": size, "sha256": digest.hexdigest()}
    storage.write_json(done, record)
    return record


def _finish(under_way: Sequence[Future]) -> None:
    for future in under_way:
        future.result()


def _blocks(job: Job, shard: int, runs: Sequence[Run]) -> Iterator[memoryview]:
    """The bytes of an output tar, some megabytes at a time; a block holds until the next but one is asked for.

    All but the last two are whole pages, in memory and in the tar.
    """
    block, other = mmap.mmap(-1, _COPY_BYTES), mmap.mmap(-1, _COPY_BYTES)
    end = 0
    for number, sample in enumerate(itertools.chain.from_iterable(_samples(job, run) for run in runs)):
        whole = end - end % mmap.PAGESIZE
        if end + sample.room > len(block) and whole:
            yield memoryview(block)[:whole]
            block, other = other, block
            block[: end - whole] = other[whole:end]
            end -= whole
        if end + sample.room > len(block):
            larger = mmap.mmap(-1, end + sample.room)
            larger[:end] = block[:end]
            block = larger
        end = sample.copy(tars.sample_key(shard, number, job.samples), memoryview(block), end)
    yield memoryview(block)[:end]
    yield memoryview(tars.END)


class _Kept(NamedTuple):
    """A sample to copy: its tar, and the offset, size and extension of each of its members there."""

    tar: tars.Source
    members: list[tuple[int, int, bytes]]

    @property
    def length(self) -> int:
        """Bytes from its first member to its last, with the headers between."""
        return self.members[-1][0] + self.members[-1][1] - self.members[0][0]

    @property
    def room(self) -> int:
        """Bytes that `copy` needs at most."""
        return self.length + 2 * tars.BLOCK

    def copy(self, key: str, block: memoryview, end: int) -> int:
        """Puts the members under their new headers into `block` from `end` on; gives the new end.

        All is read at once, behind the place of the first header. So the first member, mostly the image, is where it
        belongs; the others move down, for what lay before each was at least the one header that it has now.
        """
        first = self.members[0][0]
        start = end + tars.BLOCK
        if self.tar.read_into(first, block[start : start + self.length]) != self.length:
            raise CurateError(
                f"{self.tar.name}: ends before byte {first + self.length}, but was longer a while ago. "
                f"Run the same command again when nothing writes to it any more."
            )
        for at, size, extension in self.members:
            data, stop = end + tars.BLOCK, end + tars.BLOCK + size
            if at != first:
                block[data:stop] = block[start + at - first : start + at - first + size]
            block[end:data] = tars.member_header(f"{key}.{extension.decode()}", size)
            end = stop + -size % tars.BLOCK
            block[stop:end] = tars.padding(size)
        return end


def _samples(job: Job, run: Run) -> Iterator[_Kept]:
    index = read_index(job, run.tar)
    members = list(zip(*(index[name].tolist() for name in ("data", "size", "extension")), strict=True))
    stops = np.cumsum(index["members"])
    starts = stops - index["members"]
    chosen = np.flatnonzero(index["copies"] > run.copy)[run.start : run.stop]
    if len(chosen) != run.stop - run.start:
        raise CurateError(
            f"{job.work(run.tar)}.npz: {len(chosen)} samples, but {run.stop - run.start} were planned. "
            f"Run the same command again with --overwrite."
        )
    with tars.opened(job.tar(run.tar)) as tar:
        for start, stop in zip(starts[chosen].tolist(), stops[chosen].tolist(), strict=True):
            yield _Kept(tar, members[start:stop])


def _write(file: BinaryIO, block: memoryview) -> None:
    """Writes whole pages straight to a local disk, where the file system can, and anything else as usual.

    Shards are written once and are more than a page cache holds: to make room for them there costs more than the copy.
    """
    if not isinstance(file, io.BufferedWriter):
        file.write(block)
        return
    direct = getattr(os, "O_DIRECT", 0)
    usual = fcntl.fcntl(file, fcntl.F_GETFL) & ~direct
    written = 0
    if len(block) % mmap.PAGESIZE == 0:
        with contextlib.suppress(OSError):  # as from a file system that can't; what isn't written is written below
            fcntl.fcntl(file, fcntl.F_SETFL, usual | direct)
            written = os.write(file.fileno(), block)
    fcntl.fcntl(file, fcntl.F_SETFL, usual)
    file.write(block[written:])
    file.flush()  # before the next block may go straight to the disk
