"""Folders of shards: where those of a run are, and whether all are there."""

import posixpath
from collections.abc import Sequence

from metadata.errors import CurateError, printable, reason
from pipeline import storage

#: How the names of compressed tars end.
_COMPRESSED = (".tgz", *(f".tar.{kind}" for kind in ("gz", "bz2", "xz", "zst", "lz4")))


def tar_folder(given: str) -> str:
    """Where the tars are of a run's folder, or of a folder of tars."""
    inside = storage.join(given, "shards")
    return inside if "shards" in storage.names(given) and has_shards(inside) else given


def has_shards(folder: str) -> bool:
    """Whether tars lie there, or what names them."""
    return any(name == "sizes.json" or name.endswith(".tar") for name in storage.names(folder))


def tar_names(shards: str) -> list[str]:
    """The tars of the folder, sorted.

    Raises:
        CurateError: there is none, or one is compressed, whose samples would be missing.
    """
    found = storage.names(shards)
    if packed := [name for name in found if name.lower().endswith(_COMPRESSED)]:
        raise CurateError(f"--shards {printable(shards)}: {shown(packed)} compressed, but only plain tars are read. "
                          f"Unpack {_them(packed)} to .tar, or take {_them(packed)} out of the folder.")  # fmt: skip
    names = [name for name in found if name.endswith(".tar")]
    if not names:
        raise CurateError(
            f"--shards {shards}: no tars there, but a folder with .tar files is needed. Look at the path."
        )
    return names


def open_whole(shards: str) -> tuple[str, list[str]]:
    """The folder of the tars and their names.

    Args:
        shards: as the user gave it: a folder of tars, or of a run.

    Raises:
        CurateError: there is no tar, or a run, or sizes.json, has more.
    """
    folder = tar_folder(shards)
    names = tar_names(folder)
    if is_run(folder, f"--shards {printable(shards)}") or "sizes.json" in storage.names(folder):
        read_sizes(folder)
    return folder, names


def home(folder: str) -> str:
    """The folder of the run that the tars in `folder` are of, if any; a reshard's may be called `shards`."""
    path = folder.rstrip("/")
    if posixpath.basename(path) != "shards" or storage.exists(storage.join(folder, "run.json")):
        return folder
    return posixpath.dirname(path)


def is_run(folder: str, option: str) -> bool:
    """Whether the tars in `folder` are of a run.

    Args:
        option: with what the user gave, for the error: as in `--shards runs/mine`.

    Raises:
        CurateError: they are of one that is unfinished.
    """
    run = storage.exists(storage.join(home(folder), "run.json"))
    if run and not storage.exists(storage.join(home(folder), "manifest.json")):
        raise CurateError(f"{option}: its run is unfinished, but shards are read when all are there. Run its command "
                          f"again to finish it.")  # fmt: skip
    return run


def read_sizes(folder: str) -> dict[str, int]:
    """sizes.json, which agrees with the tars that lie beside it: samples by tar, in order.

    Raises:
        CurateError: it is missing or can't be read, or names other tars than are there.
    """
    path = storage.join(folder, "sizes.json")
    if not storage.exists(path):
        raise CurateError(f"{path}: is missing, but without it nobody knows whether the shards are whole. "
                          f"`curate` and `curate reshard` write it.")  # fmt: skip
    try:
        sizes = storage.read_json(path)
        if not all(isinstance(n, int) and n >= 0 for n in sizes.values()):
            raise ValueError("a size is no whole number")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CurateError(f"{path}: can't be read ({reason(error)}), but it says how many samples each tar has. "
                          f"Run the run's command again with --overwrite.") from error  # fmt: skip
    there = {name for name in storage.names(folder) if name.endswith(".tar")}
    if missing := sorted(set(sizes) - there):
        raise CurateError(f"{folder}: {shown(missing)} missing, but sizes.json names {_them(missing)}. Get "
                          f"{_them(missing)} again: run the run's command again with --overwrite.")  # fmt: skip
    if unknown := sorted(there - set(sizes)):
        raise CurateError(f"{folder}: {shown(unknown)} not in sizes.json, but every tar is, with its samples. Take "
                          f"{_them(unknown)} out of the folder.")  # fmt: skip
    return dict(sorted(sizes.items()))


def shown(names: Sequence[str]) -> str:
    """Names and a verb, for an error.

    >>> shown(["a.tar"]), shown(["a.tar", "b.tar", "c.tar", "d.tar"])
    ('a.tar is', 'a.tar, b.tar, c.tar and 1 more are')
    """
    some = ", ".join(printable(name) for name in names[:3]) + (f" and {len(names) - 3:,} more" if names[3:] else "")
    return f"{some} {'is' if len(names) == 1 else 'are'}"


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"
