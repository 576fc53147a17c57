"""Where the image of a uid is, in a folder of webdataset tars.

    work/index/NAME.npy   of a tar: SAMPLE_DTYPE, by uid and copy
    work/index.npy        of all tars, by uid and copy; `tar` is the place among the sorted names

The main job may write a row several times, in several tars, and any of these samples may be missing where its fetch
failed: the image is that of the lowest copy there is.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from metadata import uids as uid
from pipeline import storage, subset, tars
from pipeline.reshard_work import sample_uid
from pipeline.shard_folders import tar_names
from pipeline.statuses import OK

#: What can become of a row beside STATUSES: the shards have no image of it.
NOT_IN_SHARDS = "not_in_shards"

#: A uid's two words, as in a subset file; a sample's number among those of the uid's row; the tar and the bytes of the
#: image in it.
SAMPLE_DTYPE = np.dtype([*uid.UID_DTYPE.descr, ("copy", "<u4"), ("tar", "<u4"), ("offset", "<u8"), ("size", "<u8")])


def index_tar(numbered: tuple[int, str], shards: str, out: str) -> None:
    """Writes the index of a tar, unless it is there: of each sample with an image and a uid."""
    number, name = numbered
    if storage.exists(path := storage.join(out, "work", "index", f"{name}.npy")):
        return
    found, rows = [], []
    with tars.opened(storage.join(shards, name)) as tar:
        for sample in tars.samples(tar):
            if sample.image:
                digits, copy = sample_uid(tar, sample)
                image = sample.members[sample.image]
                found.append(digits.decode())
                rows.append((copy, number, image.data, image.size))
    index = np.empty(len(rows), SAMPLE_DTYPE)
    index[["f0", "f1"]] = uid.parse(pa.array(found, pa.string()), name)
    for place, field in enumerate(("copy", "tar", "offset", "size")):
        index[field] = [row[place] for row in rows]
    _write(path, index)


def merge(names: Sequence[str], out: str) -> None:
    """Writes the index of all tars, from those of each, and removes these."""
    path = storage.join(out, "work", "index.npy")
    if storage.exists(path):
        return
    parts = [_load(storage.join(out, "work", "index", f"{name}.npy")) for name in names]
    _write(path, np.concatenate(parts))
    storage.remove(storage.join(out, "work", "index"))


def _write(path: str, index: np.ndarray) -> None:
    with storage.atomic(path) as file:
        np.save(file, index[np.lexsort((index["copy"], index["f1"], index["f0"]))])


def _load(path: str) -> np.ndarray:
    if storage.is_local(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return np.load(io.BytesIO(storage.read(path)), allow_pickle=False)


def read_images(shards: str, out: str, wanted: np.ndarray, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Of each uid (UID_DTYPE) a status and, if it is `ok`, its image; none is larger than `max_bytes`."""
    names = tar_names(shards)
    index = _load(storage.join(out, "work", "index.npy"))
    first, count = subset.find(index, wanted.view("<u8").reshape(-1, 2))
    with contextlib.ExitStack() as stack:
        opened: tuple[int, tars.Source] | None = None
        for place, there in zip(first, count, strict=True):
            if not there:
                yield NOT_IN_SHARDS, b""
                continue
            sample = index[place]
            if sample["size"] > max_bytes:
                yield "too_large", b""
                continue
            if opened is None or opened[0] != sample["tar"]:  # shards hold a pool's rows in its order, so that is rare
                stack.close()
                path = storage.join(shards, names[sample["tar"]])
                opened = int(sample["tar"]), stack.enter_context(tars.opened(path))
            yield OK, opened[1].read(int(sample["offset"]), int(sample["size"]))
