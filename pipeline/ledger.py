"""A shard's ledger, one row per planned sample, and what it says of the tar beside it."""

import collections
import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage

LEDGER_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("url", pa.string()),
        ("key", pa.string()),  # of the sample, if it is in the tar
        ("status", pa.string()),  # see pipeline/statuses.py
        ("attempts", pa.int32()),  # tries in which a server was contacted, of all runs together
        ("bytes", pa.int64()),  # of the body that arrived last, 0 if none did
        ("sha256", pa.string()),  # of that body, null if none arrived
        ("width", pa.int32()),  # pixels of the image in the tar, null if none is
        ("height", pa.int32()),
    ]
)


def tar_name(shard: int) -> str:
    """The name of a shard's tar."""
    return f"{shard:08d}.tar"


def ledger_name(shard: int) -> str:
    """The name of a shard's ledger."""
    return f"{shard:08d}.parquet"


def read_ledger(folder: str, shard: int) -> pa.Table:
    """A shard's ledger, of LEDGER_SCHEMA."""
    return pq.read_table(pa.BufferReader(storage.read(storage.join(folder, ledger_name(shard)))))


class Sums(NamedTuple):
    """Of a shard: how many rows ended as each status, and the hashes of its tar and of the ledger itself."""

    statuses: collections.Counter[str]
    tar_sha256: str
    sha256: str


def sums(folder: str, shard: int) -> Sums:
    """What a shard's ledger adds up to, by one read of it."""
    data = storage.read(storage.join(folder, ledger_name(shard)))
    table = pq.read_table(pa.BufferReader(data), columns=["status"], use_threads=False)
    statuses = collections.Counter(table.column("status").to_pylist())
    return Sums(statuses, tar_sha256(table), hashlib.sha256(data).hexdigest())


def tar_sha256(ledger: pa.Table) -> str:
    """The sha256 that a ledger gives for its tar."""
    return ledger.schema.metadata[b"tar_sha256"].decode()


def shard_is_whole(folder: str, shard: int, deep: bool = False) -> bool:
    """Whether the ledger is there, and the tar with the size that it gives; `deep` compares the tar's sha256 too."""
    ledger = whole_ledger(folder, shard)
    return ledger is not None and (
        not deep or tar_sha256(ledger) == storage.sha256(storage.join(folder, tar_name(shard)))
    )


def whole_ledger(folder: str, shard: int) -> pa.Table | None:
    """The ledger, if it is there, and the tar with the size that it gives."""
    path = storage.join(folder, tar_name(shard))
    ledger = found_ledger(folder, shard)
    if ledger is None or not storage.exists(path):
        return None
    return ledger if ledger.schema.metadata[b"tar_bytes"] == b"%d" % storage.size(path) else None


def found_ledger(folder: str, shard: int) -> pa.Table | None:
    """The ledger, or None where there is none that `_write_ledger` wrote."""
    try:
        data = storage.read(storage.join(folder, ledger_name(shard)))
    except FileNotFoundError:
        return None
    try:
        ledger = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError):  # OSError is what Arrow says of some damage, too
        return None
    return ledger if b"tar_bytes" in (ledger.schema.metadata or {}) else None


def write_sizes(folder: str, sizes: Mapping[str, int]) -> None:
    """Writes sizes.json, the number of samples by tar name, from which open_clip's trainer has a data set's size.

    Shards without samples are in it, with 0.
    """
    storage.write_json(storage.join(folder, "sizes.json"), dict(sorted(sizes.items())))
