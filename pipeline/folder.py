"""A run's folder: who it belongs to, and clearing it."""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from typing import Any

from metadata.errors import CurateError, printable
from pipeline import storage

#: The main job's "command" in its run.json.
MAIN = "curate"

#: What a run writes beside run.json, but for `curate reshard`'s tars, which it replaces by itself; nothing else in a
#: folder is ever touched. What calls a run finished comes first.
OUTPUTS = (
    "manifest.json", "train.json", "scores.json", "work", "subset.npy", "kept", "dropped", "shards",
    "entry_counts.parquet", "balance.svg", "model.json", "checkpoints", "out.log", "params.txt", "trainer.log",
    "loss.svg", "train.sbatch", "metadata", "sizes.json",
)  # fmt: skip

#: Parts of an identity that may list thousands of files, and by what these are known.
_FILES = {"files": "path", "shards": "name", "pool": "name"}

#: Parts of an identity that are no option themselves, and what to do where they differ.
_MENDED = {"samples_a_part": "give --workers N and --accum N as before"}


@contextlib.contextmanager
def claim(folder: str, identity: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """Makes `folder` this run's while the block lasts: new, or a run of the same identity to go on with.

    Args:
        identity: JSON of everything that decides what the outputs are, the "command" among it. A part that the run
            there does not have yet, such as image options after a run that only chose rows, is added.
        overwrite: what another run of the same command left there is removed first.

    Raises:
        CurateError: the folder holds another run or something else, can't be written, or is at work already.
    """
    only_command = {"command": identity["command"]}
    path = storage.join(folder, "run.json")
    try:
        if not storage.exists(path):
            _refuse_foreign(folder)
            storage.write_json(path, identity)
    except OSError as error:
        raise CurateError(
            f"--out {folder}: {error.strerror or error}, but the run must write there. Give another folder."
        ) from error
    _refuse_other(folder, identity["command"])
    with alone(folder):
        there = storage.read_json(path)
        # Where only the command is known, clearing was stopped: what it left is nothing to go on from.
        if overwrite or there == only_command:
            storage.write_json(path, only_command)
            clear(folder)
        else:
            identity = there | _checked(folder, there, identity)
        storage.write_json(path, identity)
        yield


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Keeps other processes from working on the run in `folder` while the block lasts, where it is a local one.

    Raises:
        CurateError: another one is at work.
    """
    if not storage.is_local(folder):
        yield
        return
    # The folder itself is locked: run.json is replaced while the lock is held.
    with _locked(os.open(folder, os.O_RDONLY), folder):
        storage.sweep(folder)
        yield


@contextlib.contextmanager
def alone_on(file: str) -> Iterator[None]:
    """Keeps other processes from working on a local file while the block lasts; it need not be there yet.

    Raises:
        CurateError: another one is at work.
    """
    place, name = os.path.split(os.path.abspath(file))
    os.makedirs(place, exist_ok=True)
    # An empty file beside it is locked, and stays: the file itself is replaced while the lock is held.
    with _locked(os.open(os.path.join(place, f".{name}.lock"), os.O_RDONLY | os.O_CREAT, 0o666), file):
        yield


@contextlib.contextmanager
def _locked(handle: int, path: str) -> Iterator[None]:
    """Locks what is opened while the block lasts, and closes it; `path` is for the error."""
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CurateError(f"{path}: another process is at work on this run. Wait for it, or stop it.") from None
        yield
    finally:
        os.close(handle)


def clear(folder: str) -> None:
    """Removes what a run has written but for run.json, by which the folder is still known for a run's."""
    for name in OUTPUTS:
        storage.remove(storage.join(folder, name))


def _refuse_foreign(folder: str) -> None:
    foreign = storage.names(folder)
    if foreign:
        shown = ", ".join(foreign[:3]) + (" …" if len(foreign) > 3 else "")
        raise CurateError(f"--out {folder}: holds {shown} but no run. Give a folder that is new or empty.")


def command_of(folder: str) -> str | None:
    """The command whose run is in `folder`; None where there is no run.json, or one that isn't ours."""
    try:
        found = storage.read_json(storage.join(folder, "run.json"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return found.get("command") if isinstance(found, dict) else None


def refuse_other_record(path: str, command: str, keys: Iterable[str]) -> None:
    """Raises CurateError where the JSON file that a command is to write beside its --out is there and not its own.

    Args:
        keys: all of them are in what the command writes, and in nobody else's.
    """
    try:
        found = storage.read_json(path)
    except FileNotFoundError:
        return
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(key in found for key in keys):
        raise CurateError(f"{path}: is none that `curate {command}` wrote, but it is to write what its results are of "
                          f"there. Give another --out, or move that away.")  # fmt: skip


def _refuse_other(folder: str, command: str) -> None:
    there = command_of(folder)
    if there is None:
        raise CurateError(f"--out {folder}: its run.json is not one that this version of curate writes, but a folder "
                          f"is needed that is new or empty, or has a run of this command. Give another, or remove it.")
    if there != command:
        raise CurateError(f"--out {folder}: holds another run (command was {printable(there)}, now {command}), but a "
                          f"folder has one command's runs. Give another --out.")  # fmt: skip


def _checked(folder: str, there: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    different = [key for key in now if key in there and there[key] != now[key]]
    if different:
        was = "; ".join(_difference(key, there[key], now[key]) for key in different)
        raise CurateError(
            f"--out {folder}: holds another run ({was}), but a folder has one run. "
            f"Give another --out, or --overwrite to replace it."
        )
    return now


def _difference(key: str, was: Any, now: Any) -> str:
    """What differs, in words; of files the first that does."""
    if key in _FILES and isinstance(was, list) and isinstance(now, list):
        before, after = ({file[_FILES[key]]: file for file in files} for files in (was, now))
        name = next(name for name in sorted(before | after) if before.get(name) != after.get(name))
        how = "is gone" if name not in after else "is new" if name not in before else "has changed"
        return f"of its {key} {printable(name, 300)} {how}"
    return f"{key} was {_short(was)}, now {_short(now)}" + (f": {_MENDED[key]}" if key in _MENDED else "")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "…"


def refuse_inside(out: str, option: str, paths: Iterable[str]) -> None:
    """Raises CurateError where one of `paths`, which an option gives to be read, is in the folder to be written."""
    root = _place(out)
    for path in paths:
        if _is_inside(_place(path), root):
            raise CurateError(f"{option} {path}: lies in --out {out}, but what is read must not be written over. Give "
                              f"another --out.")  # fmt: skip


def is_inside(path: str, directory: str) -> bool:
    """Whether `path` is the directory or lies in it."""
    return _is_inside(_place(path), _place(directory))


def _is_inside(place: tuple[str, str], root: tuple[str, str]) -> bool:
    return place[0] == root[0] and (place[1].rstrip("/") + "/").startswith(root[1].rstrip("/") + "/")


def _place(path: str) -> tuple[str, str]:
    """Where that is, however it is written: the kind of file system, and the path there, of this machine's without
    links."""
    if not storage.is_local(path):
        scheme = path.partition("://")[0]
        if scheme not in ("file", "local"):
            return scheme, path.partition("://")[2].lstrip("/")
        path = storage.filesystem(path)[1]
    return "", os.path.realpath(path)
