"""A run's folder: who it belongs to, and clearing it."""

from typing import Any

from metadata.errors import CurateError
from pipeline import storage

#: Everything a run writes; nothing else in a folder is ever touched.
OUTPUTS = ("run.json", "manifest.json", "subset.npy", "kept", "dropped", "shards", "work")


def claim(folder: str, identity: dict[str, Any], overwrite: bool) -> None:
    """Makes `folder` this run's: new, or a run of the same identity to go on with.

    Args:
        identity: JSON of everything that decides what the outputs are: pool files, recipe, image options.
        overwrite: what another run left there is removed first.

    Raises:
        CurateError: the folder holds another run or something else, or can't be written.
    """
    path = storage.join(folder, "run.json")
    try:
        if overwrite:
            clear(folder)
        if storage.exists(path):
            _check_same(folder, storage.read_json(path), identity)
            return
        foreign = storage.names(folder)
        if foreign:
            raise CurateError(
                f"--out {folder}: holds {', '.join(foreign[:3])}{' …' if len(foreign) > 3 else ''} but no run. "
                f"Give a folder that is new or empty."
            )
        storage.write_json(path, identity)
    except OSError as error:
        raise CurateError(
            f"--out {folder}: {error.strerror or error}, but the run must write there. Give another folder."
        ) from error


def clear(folder: str) -> None:
    """Removes what a run has written. run.json goes last, so that a half-cleared folder is still known for a run's."""
    if storage.exists(storage.join(folder, "run.json")):
        for name in reversed(OUTPUTS):
            storage.remove(storage.join(folder, name))


def _check_same(folder: str, there: dict[str, Any], now: dict[str, Any]) -> None:
    different = [key for key in now if there.get(key) != now[key]]
    if different:
        was = "; ".join(f"{key} was {_short(there.get(key))}, now {_short(now[key])}" for key in different)
        raise CurateError(
            f"--out {folder}: holds another run ({was}), but a folder has one run. "
            f"Give another --out, or --overwrite to replace it."
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "…"
