"""Features of images in a folder or in webdataset tars, through open_clip: what rows of a pool are compared with."""

import concurrent.futures
import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from metadata.errors import CurateError, printable
from pipeline import models, storage, tars
from pipeline.progress import Line

#: Names of images end so, in any case of letters.
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif")


def make(images: str, model: str, pretrained: str | None, out: str, batch: int) -> dict[str, Any]:
    """Writes the features, float32 of shape (images, dims) and of unit length, in the order of `find`.

    An image that can't be read is left out, counted and named; where none can be read, that is an error.

    Args:
        model: a name of open_clip's, or the path of a model's config in JSON.
        pretrained: one of its tags, or a checkpoint; of a file only weights are read, and no code.
        out: of the .npy; beside it a .json says what it is of.
        batch: images that the model sees at a time.

    Returns:
        What the JSON says: {"model", "pretrained", "images", "left_out": names, "sha256", …}.
    """
    if not storage.is_local(out) or not out.endswith(".npy"):
        raise CurateError(f"--out {out}: is no path that ends in .npy, but steps read targets from such a file on "
                          f"their own machine. Give one.")  # fmt: skip
    first = next(find(images), None)
    if first is None:
        raise CurateError(f"--images {images}: no images there, but targets are made of them. Look at the path.")
    encoder = models.open_model(model, pretrained)
    found, left_out = [], []
    line = Line("encoding", "images", 0)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for part in _cut(find(images), batch):
            made = list(threads.map(lambda image: encoder.prepare(image[1]), part))
            left_out += [name for (name, _), pixels in zip(part, made, strict=True) if pixels is None]
            if good := [pixels for pixels in made if pixels is not None]:
                found.append(encoder.encode_images(good))
            line.show(sum(map(len, found)))
    line.close()
    if not found:
        raise CurateError(f"--images {images}: none of {len(left_out):,} images can be read ({printable(left_out[0])}, "
                          f"…), but targets are made of them. Look at them.")  # fmt: skip
    with storage.atomic(out) as file:
        np.save(file, np.concatenate(found))
    record = {"model": model, "pretrained": pretrained, "device": encoder.device, "images": sum(map(len, found)),
              "left_out": left_out, "sha256": storage.sha256(out)}  # fmt: skip
    storage.write_json(f"{out.removesuffix('.npy')}.json", record)
    return record


def _cut(rest: Iterator[tuple[str, bytes]], size: int) -> Iterator[tuple[tuple[str, bytes], ...]]:
    """itertools.batched, which Python 3.11 does not have."""
    while part := tuple(itertools.islice(rest, size)):
        yield part


def find(images: str) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the images in a local folder and those in it, sorted by name, or of the tars in it.

    Of a folder with .tar files these alone are read, in the order of their names, and their samples in theirs.
    """
    paths = sorted(os.path.join(folder, name) for folder, _, names in os.walk(images) for name in names)
    shards = [path for path in paths if path.endswith(".tar")]
    for path in shards:
        with tars.opened(path) as tar:
            for sample in tars.samples(tar):
                for extension, member in sample.members.items():
                    if f".{extension}".endswith(ENDINGS):
                        yield f"{path}: {sample.key}.{extension}", tar.read(member.data, member.size)
    for path in () if shards else paths:
        if path.lower().endswith(ENDINGS):
            yield path, storage.read(path)
