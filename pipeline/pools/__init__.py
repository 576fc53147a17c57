"""Sources of image-text pairs: what files a pool has, and their rows, batch by batch.

A pool is a list of parquet files somewhere that fsspec reaches. POOLS names the known ones; any other name is taken as
an address. Files are cut into Pieces, runs of whole row groups that are one unit of work.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from metadata.errors import CurateError, printable, unknown
from pipeline import storage
from pipeline.pools import commonpool
from pipeline.scales import SCALES

#: (host, ip, port) triples that the fetcher answers instead of DNS: a pool that brings its own image server has some.
Resolve = tuple[tuple[str, str, int], ...]

#: Names of DataComp's pools.
ON_THE_HUB = ("commoncrawl", "datacomp_1b")


@dataclasses.dataclass(frozen=True)
class Pool:
    """A source of pairs.

    Attributes:
        name: as the user gave it.
        address: a parquet file, a folder of them or a glob, at any address that fsspec reaches.
        columns: what the pool calls our columns where the names differ; uid mapped to "" means that uids are made from
            url and text.
        hidden: columns of the files that no step may read.
        serve: opened while images are fetched; gives the Resolve of the pool's own server, or of that whose images it
            has.
    """

    name: str
    address: str
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    serve: Callable[[], AbstractContextManager[Resolve]] = lambda: contextlib.nullcontext(())


def open_pool(name: str, scale: str | None, columns: Mapping[str, str]) -> Pool:
    """The pool of that name.

    Args:
        name: `commoncrawl`, `datacomp_1b`, `demo` (or `demo:PAIRS`), or an address with a slash, a dot or a star in it.
        scale: for commoncrawl, a name in SCALES.
        columns: our column names to the pool's own.

    Raises:
        CurateError: unknown pool or scale, a scale missing or out of place, a column mapped to nothing, or the Hub does
            not answer.
    """
    for ours, theirs in columns.items():
        if not theirs and ours != "uid":
            raise CurateError(f"--columns {ours}=: no name is given, but only uid can be made. Name the pool's column.")
    if name == "commoncrawl":
        if scale is None:
            raise CurateError(f"--pool commoncrawl: no --scale was given, but it needs one of {', '.join(SCALES)}.")
        if scale not in SCALES:
            raise unknown("scale", scale, SCALES, "--scale")
        return Pool(name, commonpool.address(f"datacomp_{scale}"), columns)
    if name != "datacomp_1b" and not _is_demo(name) and not _is_address(name):
        error = unknown("pool", name, [*ON_THE_HUB, "demo"], "--pool")
        raise CurateError(f"{error} A path has a slash in it, as in ./{printable(name)}.")
    if scale is not None:
        raise CurateError(f"--scale {scale}: given with --pool {name}, but only commoncrawl has scales. Leave it out.")
    if name == "datacomp_1b":
        return Pool(name, commonpool.address(name), columns)
    if _is_demo(name):
        return _open_demo(name, columns)
    pool = Pool(name, name, columns)
    images = _images_of(name)
    return dataclasses.replace(pool, serve=_open_demo(images, {}).serve) if _is_demo(images) else pool


def entry_lists(name: str) -> Mapping[str, str]:
    """The lists that recipes mean by `default` and `worldwide` on the pool of that name, where it has its own."""
    return {"default": "demo", "worldwide": "demo_worldwide"} if _is_demo(_images_of(name)) else {}


def scored(address: str) -> dict[str, Any] | None:
    """scores.json of the pool at that address, where `curate score` wrote it to a local folder; None of any other.

    A pool by name has none, though a folder here may be called so.
    """
    if not _is_address(address):
        return None
    path = storage.join(address.rstrip("/").removesuffix("/metadata"), "scores.json")
    try:
        record = storage.read_json(path) if storage.is_local(path) else None
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(record, dict) and isinstance(record.get("pool"), str) and "scale" in record
    return record if ours else None  # or it is somebody's own


def _images_of(name: str) -> str:
    """The pool that images are of: where `curate score` added columns, perhaps again and again, the first that it did.
    """
    names = [name]
    while (record := scored(names[-1])) and record["pool"] not in names:
        names.append(record["pool"])
    return names[-1]


def _is_address(name: str) -> bool:
    return any(mark in name for mark in "/.*")


def _is_demo(name: str) -> bool:
    return name.partition(":")[0] == "demo" and "/" not in name


def _open_demo(name: str, columns: Mapping[str, str]) -> Pool:
    size = name.partition(":")[2]
    if size and not (size.isdecimal() and len(size) < 9 and int(size) > 0):
        raise CurateError(f"--pool {printable(name)}: the number of pairs is {printable(size)!r}, but a whole number "
                          f"from 1 to 99,999,999 is needed. Write for example demo:4000.")  # fmt: skip
    from pipeline.pools import demo  # it imports OpenCV, which other pools can do without

    folder = demo.cached(int(size) if size else demo.DEMO_PAIRS)

    @contextlib.contextmanager
    def serve() -> Iterator[Resolve]:
        with demo.serve(folder) as resolve:
            yield resolve

    return Pool(name, f"{folder}/metadata", columns, frozenset({demo.TRUTH_COLUMN}), serve)
