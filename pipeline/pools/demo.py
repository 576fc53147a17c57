"""The demo pool: drawn images with captions and the junk a crawl has, in CommonPool's columns, made on this machine.

The two CLIP columns are no model's: they are drawn from what is known of a pair, so that they look like CLIP's (higher
where the caption fits the image, with an overlap that no threshold can undo). The column `truth` says what a pair
really is; no filter may read it. `demo_pairs` has the shares of every kind of junk.
"""

import errno
import os
import shutil
import uuid
from typing import Any

import pyarrow as pa

from metadata.errors import CurateError
from pipeline import progress, storage
from pipeline.pools.demo_pairs import SCHEMA, TRUTH_COLUMN, VERSION, digest, pair
from pipeline.pools.demo_server import Link, serve

__all__ = ["DEMO_PAIRS", "TRUTH_COLUMN", "build", "cached", "serve"]

DEMO_PAIRS = 4000
PAIRS_PER_FILE = 1000

_PARTS, _MARKER = ("images", "links", "metadata"), "pool.json"


def cached(pairs: int = DEMO_PAIRS, seed: int = 0) -> str:
    """The folder of that demo pool in the user's cache ($XDG_CACHE_HOME or ~/.cache), made if it is not there yet.

    Raises:
        CurateError: the folder can't be written.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(home, "clip-curate", f"demo-{VERSION}-{pairs}-{seed}")
    try:
        build(folder, pairs, seed)
    except OSError as error:
        raise CurateError(f"{folder}: {error.strerror or error}, but the demo pool is made there. Make room, mend the "
                          f"permissions or name another place with XDG_CACHE_HOME.") from error  # fmt: skip
    return folder


def build(folder: str, pairs: int = DEMO_PAIRS, seed: int = 0) -> str:
    """Makes the pool under `folder`, a local one, if it is not there already and whole.

    It appears at once when it is complete, so a killed build leaves nothing that could be taken for a pool, and two
    builds at the same time end with one.

    Args:
        folder: gets metadata/ (parquet files of PAIRS_PER_FILE rows, columns of SCHEMA), images/ (the bytes) and
            links/ (what the server sends for each address).
        pairs: how many rows.
        seed: of every choice.

    Returns:
        The folder with the parquet files.

    Raises:
        CurateError: there is something else under that name, or no pairs are asked for.
    """
    if pairs < 1:
        raise CurateError(f"demo pool: {pairs} pairs were asked for, but it needs at least 1. Ask for more.")
    wanted = {"demo_pool_version": VERSION, "pairs": pairs, "seed": seed}
    if not _is_whole(folder, wanted):
        _refuse_others(folder, wanted)
        temporary = f"{folder.rstrip('/')}.{uuid.uuid4().hex[:12]}.tmp"
        line = progress.Line("drawing the demo pool", "pairs", pairs)
        try:
            for number, start in enumerate(range(0, pairs, PAIRS_PER_FILE)):
                line.show(start)
                _write_part(temporary, seed, number, range(start, min(pairs, start + PAIRS_PER_FILE)))
            line.show(pairs, last=True)
            storage.write_json(os.path.join(temporary, _MARKER), {"pool": wanted, "bytes": _sizes(temporary)})
            _put(temporary, folder, wanted)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return os.path.join(folder, "metadata")


def _refuse_others(folder: str, wanted: dict[str, int]) -> None:
    """Raises where the folder has something in it that is not the wanted pool, whole or damaged."""
    found = _marker(folder).get("pool")
    is_free = not os.path.lexists(folder) or (os.path.isdir(folder) and not os.listdir(folder))
    is_unmarked = not found and os.path.isdir(folder) and set(os.listdir(folder)) == {*_PARTS, _MARKER}
    if found != wanted and not is_free and not is_unmarked:
        held = f"holds the demo pool {found}" if found else "holds other files"
        raise CurateError(f"{folder}: {held}, but the pool {wanted} is to be made there. Name another folder.")


def _marker(folder: str) -> dict[str, Any]:
    """What the build says that it made in `folder`; empty where there is no pool, or what it says is damaged."""
    try:
        found = storage.read_json(os.path.join(folder, _MARKER))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_whole(folder: str, wanted: dict[str, int]) -> bool:
    """Whether the wanted pool is there with every file at its size."""
    return _marker(folder) == {"pool": wanted, "bytes": _sizes(folder)}


def _sizes(folder: str) -> dict[str, int]:
    return {
        f"{part}/{name}": os.path.getsize(os.path.join(folder, part, name))
        for part in _PARTS
        for name in storage.names(os.path.join(folder, part))
    }


def _put(temporary: str, folder: str, wanted: dict[str, int]) -> None:
    """Gives the finished pool its name."""
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Another build was first, or this pool had lost files.
        if not _is_whole(folder, wanted):
            shutil.rmtree(folder)
            os.rename(temporary, folder)


def _write_part(folder: str, seed: int, number: int, indices: range) -> None:
    """One metadata file, the images file and the links file of the same name. Equal bytes are stored once."""
    name = digest(seed, number, "file")
    rows, links, offsets = [], [], {}
    with storage.atomic(os.path.join(folder, "images", f"{name}.bin")) as images:
        for index in indices:
            made = pair(seed, index)
            if made.sent not in offsets:
                offsets[made.sent] = images.tell()
                images.write(made.sent)
            rows.append(made.row)
            links.append(Link(made.path, made.kind, offsets[made.sent], len(made.sent), made.content_type))
    table = pa.table(dict(zip(Link._fields, zip(*links, strict=True), strict=True)))
    storage.write_parquet(os.path.join(folder, "links", f"{name}.parquet"), table)
    storage.write_parquet(os.path.join(folder, "metadata", f"{name}.parquet"), pa.Table.from_pylist(rows, SCHEMA))
