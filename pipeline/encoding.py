"""Parts of a pool's rows: their images and captions in, features and scores out.

    work/parts/NNNNNNNN.npz   of a part's rows in order: `img`, `txt`, float16 of shape (rows, dims), NaN where there is
                              none; `score`, float32; `status`, uint8: places in OUTCOMES

A part's images wait as bytes in a file without a name, those of the next part are fetched meanwhile, and two batches
are decoded at a time. So memory does not grow with the part, nor with the pool.
"""

import collections
import contextlib
import dataclasses
import hashlib
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from filters.features import inner
from metadata import uids as uid
from pipeline import samples, shard_index, storage
from pipeline.images import header_problem
from pipeline.models import Model
from pipeline.options import FetchPolicy, ImageOptions
from pipeline.pieces import Piece, batches
from pipeline.planning import progress_writer
from pipeline.statuses import OK, STATUSES

#: What can become of a row, besides STATUSES and that the shards have none of it: it has an image but no caption, or
#: what the model made of them is no number.
NO_CAPTION, NO_NUMBER = "no_caption", "no_number"
OUTCOMES = (*STATUSES, shard_index.NOT_IN_SHARDS, NO_CAPTION, NO_NUMBER)

#: Rows of a part: what a killed run does again. Its images take a few hundred MB of disk, its features a few of memory.
PART_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Part:
    """A run of a piece's rows: the address of a unit of work.

    Attributes:
        number: among all parts of the pool.
        start, stop: rows of the piece.
    """

    number: int
    piece: Piece
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class EncodeJob:
    """What every worker needs to know to encode parts.

    Attributes:
        weights, config: of the model that the run began with, see Model.
        columns: to be read of the pool; `sha256` where it has one and images are fetched.
        batch: rows that the model sees at a time, of which those without an image are left out.
        threads: that decode images; the model computes on as many.
        dims: of the model's features.
        shards: a folder of tars whose index is in work/; "" to fetch.
    """

    out: str
    model: str
    pretrained: str | None
    weights: str
    config: dict[str, Any]
    columns: tuple[str, ...]
    batch: int
    threads: int
    fetch: FetchPolicy
    accept_changed: bool
    dims: int
    shards: str = ""


def part_path(out: str, number: int) -> str:
    """Where a part's features and scores are."""
    return storage.join(out, "work", "parts", f"{number:08d}.npz")


def encode_parts(parts: Sequence[Part], model: Model, job: EncodeJob) -> list[int]:
    """Writes the parts that are not there, in order, each when it is whole; gives the numbers of all."""
    todo = [part for part in parts if not storage.exists(part_path(job.out, part.number))]
    waiting = collections.deque(_Images(part, job) for part in todo[:1])
    try:
        with ThreadPoolExecutor(job.threads) as threads:
            for place, part in enumerate(todo, 1):
                with waiting.popleft() as images:
                    waiting.extend(_Images(after, job) for after in todo[place : place + 1])
                    made = _encode(images, model, job, threads, progress_writer(job.out, part.number))
                with storage.atomic(part_path(job.out, part.number)) as file:
                    np.savez(file, **made)  # type: ignore[arg-type]
    finally:
        for images in waiting:
            images.close()
    return [part.number for part in parts]


def _encode(
    images: "_Images", model: Model, job: EncodeJob, threads: ThreadPoolExecutor, report: Any
) -> dict[str, np.ndarray]:
    """A part's arrays. A batch is always of the same rows, so that it gives the same numbers whoever works on it."""
    rows, counts = len(images.rows), collections.Counter[str]()
    shape = (rows, job.dims)
    made: dict[str, np.ndarray] = {
        "img": np.full(shape, np.nan, np.float16), "txt": np.full(shape, np.nan, np.float16),
        "score": np.full(rows, np.nan, np.float32), "status": np.empty(rows, np.uint8),
    }  # fmt: skip
    ahead = _decode(images, range(min(job.batch, rows)), model, threads)
    for start in range(0, rows, job.batch):
        pixels, statuses = zip(*(decoded.result() for decoded in ahead), strict=True)
        stop = start + len(pixels)
        ahead = _decode(images, range(stop, min(stop + job.batch, rows)), model, threads)
        texts = [row.text for row in images.rows[start:stop]]
        _encode_batch(model, pixels, texts, {name: values[start:stop] for name, values in made.items()})
        scores = made["score"][start:stop]
        outcomes = [status if status != OK else NO_CAPTION if text is None else NO_NUMBER if score != score else OK
                    for status, text, score in zip(statuses, texts, scores, strict=True)]  # fmt: skip
        made["status"][start:stop] = [OUTCOMES.index(outcome) for outcome in outcomes]
        counts.update(outcomes)
        report(counts)
    report(counts, last=True)
    return made


def _encode_batch(
    model: Model, pixels: Sequence[Any], texts: Sequence[str | None], made: dict[str, np.ndarray]
) -> None:
    """Puts the features of images that are there, of their captions, and their cosines into the rows of `made`."""
    seen = [number for number, each in enumerate(pixels) if each is not None]
    if not seen:
        return
    images = model.encode_images([pixels[number] for number in seen])
    made["img"][seen] = images
    pairs = [place for place, number in enumerate(seen) if texts[number] is not None]
    if pairs:
        rows = [seen[place] for place in pairs]
        captions = model.encode_texts([texts[row] or "" for row in rows])
        made["txt"][rows] = captions
        made["score"][rows] = inner(images[pairs], captions)


def _decode(images: "_Images", rows: range, model: Model, threads: ThreadPoolExecutor) -> list[Future]:
    """Of each row, when it has come: what the model takes, or None, and a status."""

    def decode(row: int) -> tuple[Any, str]:
        status, body = images.take(row)
        if status == OK:
            status = header_problem(body, ImageOptions().max_pixels) or OK
        pixels = model.prepare(body) if status == OK else None
        return pixels, "undecodable" if status == OK and pixels is None else status

    return [threads.submit(decode, row) for row in rows]


class _Images:
    """The rows of a part, and their images, which a thread gathers on disk; a context manager that stops it."""

    def __init__(self, part: Part, job: EncodeJob) -> None:
        self.rows = samples.rows(_read(part, job.columns))
        self.job, self.part, self.stopped = job, part, False
        self.places: list[Future[tuple[str, int, int]]] = [Future() for _ in self.rows]
        self.stack = contextlib.ExitStack()
        self.file = self.stack.enter_context(storage.scratch(storage.join(job.out, "work")))
        self.thread = threading.Thread(target=self._gather, daemon=True, name="images")
        self.thread.start()

    def __enter__(self) -> "_Images":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is under way, and frees the disk."""
        self.stopped = True
        self.thread.join()
        self.stack.close()

    def take(self, row: int) -> tuple[str, bytes]:
        """The row's status and image, as soon as it has come; raises what went wrong with gathering."""
        status, offset, length = self.places[row].result()
        return status, os.pread(self.file.fileno(), length, offset)

    def _gather(self) -> None:
        offset = 0
        try:
            with contextlib.closing(self._found()) as found:
                for row, status, body in found:
                    if self.stopped:
                        break
                    self.file.write(body)
                    self.file.flush()
                    self.places[row].set_result((status, offset, len(body)))
                    offset += len(body)
        except BaseException as error:  # the one who waits for the rows gets it
            failure = error
        else:
            failure = RuntimeError(f"{self.part.piece.path}: images were gathered, but not every row has an outcome.")
        for place in self.places:
            if not place.done():
                place.set_exception(failure)

    def _found(self) -> Generator[tuple[int, str, bytes], None, None]:
        """Each row's number, status and image, in the order in which they come."""
        if self.job.shards:
            yield from self._from_shards()
            return
        from pipeline.fetch import fetch_all

        with contextlib.closing(fetch_all([row.url for row in self.rows], self.job.fetch)) as results:
            for row, fetched in results:
                expected, status = self.rows[row].sha256, fetched.status
                if status == OK and expected is not None and not self.job.accept_changed:
                    status = OK if expected.lower() == hashlib.sha256(fetched.body).hexdigest() else "changed"
                yield row, status, fetched.body if status == OK else b""

    def _from_shards(self) -> Iterator[tuple[int, str, bytes]]:
        uids = uid.parse(pa.array([row.uid for row in self.rows], pa.string()), self.part.piece.path)
        found = shard_index.read_images(self.job.shards, self.job.out, uids, self.job.fetch.max_bytes)
        for row, (status, body) in enumerate(found):
            yield row, status, body


def _read(part: Part, columns: Sequence[str]) -> pa.Table:
    """The part's rows."""
    found, first = [], 0
    for batch in batches(part.piece, columns):
        if first + batch.num_rows > part.start:
            found.append(batch.slice(max(0, part.start - first), part.stop - max(part.start, first)))
        first += batch.num_rows
        if first >= part.stop:
            break
    return pa.Table.from_batches(found)
