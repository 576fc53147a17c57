"""Features of images in a folder or in webdataset tars, through open_clip: what rows of a pool are compared with.

    OUT.npy               the features: float32, shape (images, dims), of unit length
    OUT.json              what they are of, and their sha256; written last
    OUT.npy.work/HASH/    what a killed run goes on from, by a hash of all that it depends on; gone at the end
        NNNNNNNNNN.npz    the batch of images that begins there: `features`, and names of those `left_out`
"""

import concurrent.futures
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from metadata.errors import CurateError, printable
from pipeline import folder, models, storage, tars
from pipeline.progress import Line

#: Names of image files end so, in any case of letters; what is an image in a tar, `tars.Sample` says.
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif")

#: Why files of those endings are not taken, by what `passed_over` calls them.
REASONS = {
    "members": f"a sample's image is the first of {', '.join(tars.IMAGES)}, and its ending is all after the first dot "
               f"of a name",
    "beside_tars": "of a folder with tars these alone are read",
}  # fmt: skip


def make(images: str, model: str, pretrained: str | None, out: str, batch: int) -> dict[str, Any]:
    """Writes the features, float32 of shape (images, dims) and of unit length, in the order of `find`.

    An image that can't be read is left out, counted and named, and so is one that is passed over; where none can be
    read, that is an error. A run that was killed goes on where it was, if images, model and batch are the same.

    Args:
        model: a name of open_clip's, or the path of a model's config in JSON.
        pretrained: one of its tags, or a checkpoint; of a file only weights are read, and no code.
        out: of the .npy; beside it a .json says what it is of.
        batch: images that the model sees at a time.

    Returns:
        What the JSON says: {"model", "pretrained", "images", "left_out": names, "passed_over", "sha256", …}.
    """
    if not storage.is_local(out) or not out.endswith(".npy"):
        raise CurateError(f"--out {out}: is no path that ends in .npy, but steps read targets from such a file on "
                          f"their own machine. Give one.")  # fmt: skip
    about = f"{out.removesuffix('.npy')}.json"
    folder.refuse_other_record(about, "targets", ("images", "left_out", "sha256"))
    total, others = sum(1 for _ in _entries(images)), passed_over(images)
    if not total:
        why = "".join(f" ({printable(names[0])} is passed over: {REASONS[kind]})" for kind, names in others.items())
        raise CurateError(f"--images {images}: no images there{why}, but targets are made of them. Look at the path.")
    encoder = models.open_model(model, pretrained)
    work = storage.join(f"{out}.work", _identity(images, encoder, batch))
    os.makedirs(work, exist_ok=True)
    with folder.alone(f"{out}.work"):
        _encode(images, encoder, batch, total, work)
        parts = [storage.join(work, name) for name in storage.names(work)]
        left_out = [str(name) for part in parts for name in _load(part, "left_out")]
        if len(left_out) == total:
            raise CurateError(f"--images {images}: none of {total:,} images can be read ({printable(left_out[0])}, …), "
                              f"but targets are made of them. Look at them.")  # fmt: skip
        _join(parts, total - len(left_out), out)
        record = {"model": model, "pretrained": pretrained, "device": encoder.device, "images": total - len(left_out),
                  "left_out": left_out, "passed_over": others, "sha256": storage.sha256(out)}  # fmt: skip
        storage.write_json(about, record)
        storage.remove(f"{out}.work")
    return record


def _identity(images: str, encoder: models.Model, batch: int) -> str:
    """A hash of all that the features depend on: 16 hexadecimal digits."""
    files = [(path, storage.size(path), storage.etag(path)) for path in _paths(images)]
    known = [files, encoder.name, encoder.config, encoder.weights, encoder.device, batch]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def _encode(images: str, encoder: models.Model, batch: int, total: int, work: str) -> None:
    """Writes the batches from the first on that is not there: where work was being removed, that may be any."""
    done, names = 0, set(storage.names(work))
    while _part(done) in names:
        done = min(done + batch, total)
    line, threads = Line("encoding", "images", total, done), concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    with line, threads:
        for part in _cut(find(images, done), batch):
            made = list(threads.map(lambda image: encoder.prepare(image[1]), part))
            left_out = [name for (name, _), pixels in zip(part, made, strict=True) if pixels is None]
            good = [pixels for pixels in made if pixels is not None]
            features = encoder.encode_images(good) if good else np.empty((0, 0), np.float32)
            with storage.atomic(storage.join(work, _part(done))) as file:
                np.savez(file, features=features, left_out=np.array(left_out, np.str_))
            done += len(part)
            line.show(done, last=done == total)


def _part(first: int) -> str:
    """The name of the batch that begins with that image."""
    return f"{first:010d}.npz"


def _load(part: str, name: str) -> np.ndarray:
    with np.load(part, allow_pickle=False) as arrays:
        return arrays[name]


def _join(parts: list[str], rows: int, out: str) -> None:
    """Writes the features of the batches as one array, without more than a batch in memory."""
    dims = max(_load(part, "features").shape[1] for part in parts)
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dims)}
    with storage.atomic(out) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(_load(part, "features").tobytes())


def _cut(rest: Iterator[tuple[str, bytes]], size: int) -> Iterator[tuple[tuple[str, bytes], ...]]:
    """itertools.batched, which Python 3.11 does not have."""
    while part := tuple(itertools.islice(rest, size)):
        yield part


def find(images: str, first: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the images in a local folder and those in it, sorted by name, or of the tars in it.

    Links to folders are followed, as torchvision's ImageFolder does. Of a folder with .tar files these alone are read,
    in the order of their names, and their samples in theirs, each of which has one image at most.

    Args:
        first: the images before that one, from 0, are not read.
    """
    for name, read in itertools.islice(_entries(images), first, None):
        yield name, read()


def _entries(images: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Names of the images, and what reads each before the next is asked for."""
    for path in _paths(images):
        if not path.endswith(".tar"):
            yield path, lambda path=path: storage.read(path)  # type: ignore[misc]
            continue
        with tars.opened(path) as tar:
            for sample in tars.samples(tar):
                if sample.image:
                    name, member = f"{path}: {sample.key}.{sample.image}", sample.members[sample.image]
                    yield name, lambda tar=tar, member=member: tar.read(member.data, member.size)  # type: ignore[misc]


def passed_over(images: str) -> dict[str, list[str]]:
    """Names of what ends as an image does and is not among `find`'s, by why: of REASONS, those that there are."""
    shards, files = _shards_and_images(images)
    members = []
    for path in shards:
        with tars.opened(path) as tar:
            for sample in tars.samples(tar):
                others = (name for name in sample.members if name != sample.image and f".{name}".endswith(ENDINGS))
                members += [f"{path}: {sample.key}.{name}" for name in others]
    found = {"members": members, "beside_tars": files if shards else []}
    return {kind: names for kind, names in found.items() if names}


def _paths(images: str) -> list[str]:
    """The tars in the folder, or where there are none the images."""
    shards, files = _shards_and_images(images)
    return shards or files


def _shards_and_images(images: str) -> tuple[list[str], list[str]]:
    folders = storage.walk(images) if os.path.isdir(images) else ()
    paths = sorted(os.path.join(folder, name) for folder, _, names in folders for name in names)
    return ([path for path in paths if path.endswith(".tar")],
            [path for path in paths if path.lower().endswith(ENDINGS)])  # fmt: skip
