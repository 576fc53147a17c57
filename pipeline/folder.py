"""A run's folder: who it belongs to, and clearing it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import Any

from metadata.errors import CurateError
from pipeline import storage

#: Everything a run writes beside run.json; nothing else in a folder is ever touched.
OUTPUTS = (
    "manifest.json", "subset.npy", "kept", "dropped", "shards", "work", "entry_counts.parquet", "balance.svg",
    "train.json", "model.json", "checkpoints", "out.log", "params.txt", "trainer.log", "loss.svg", "train.sbatch",
    "metadata", "scores.json",
)  # fmt: skip


@contextlib.contextmanager
def claim(folder: str, identity: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """Makes `folder` this run's while the block lasts: new, or a run of the same identity to go on with.

    Args:
        identity: JSON of everything that decides what the outputs are. A part that the run there does not have yet,
            such as image options after a run that only chose rows, is added.
        overwrite: what another run left there is removed first.

    Raises:
        CurateError: the folder holds another run or something else, can't be written, or is at work already.
    """
    path = storage.join(folder, "run.json")
    try:
        if not storage.exists(path):
            _refuse_foreign(folder)
            storage.write_json(path, identity)
    except OSError as error:
        raise CurateError(
            f"--out {folder}: {error.strerror or error}, but the run must write there. Give another folder."
        ) from error
    with alone(folder):
        if overwrite:
            clear(folder)
        else:
            identity = storage.read_json(path) | _checked(folder, storage.read_json(path), identity)
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
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        storage.sweep(folder)
        yield
    except BlockingIOError:
        raise CurateError(f"{folder}: another process is at work on this run. Wait for it, or stop it.") from None
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


def _checked(folder: str, there: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    different = [key for key in now if key in there and there[key] != now[key]]
    if different:
        was = "; ".join(f"{key} was {_short(there[key])}, now {_short(now[key])}" for key in different)
        raise CurateError(
            f"--out {folder}: holds another run ({was}), but a folder has one run. "
            f"Give another --out, or --overwrite to replace it."
        )
    return now


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "…"
