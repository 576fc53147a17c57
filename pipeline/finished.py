"""Finished runs, opened for reading: a run's folder, or a subset file that stands for one."""

import collections
import dataclasses
import os
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metadata.errors import CurateError, printable, reason
from pipeline import folder, storage, subset

#: As many as colours that can be told apart.
MAX_RUNS = 10


@dataclasses.dataclass(frozen=True)
class Run:
    """One of the runs.

    Attributes:
        label: A, B, ….
        path: as the user gave it: the run's folder, or a subset file.
        manifest: the run's; None for a subset file alone.
    """

    label: str
    path: str
    manifest: Mapping[str, Any] | None

    @property
    def subset(self) -> str:
        return self.path if self.manifest is None else storage.join(self.path, "subset.npy")


def open_all(paths: Sequence[str]) -> list[Run]:
    """The runs in those places, to be compared.

    Raises:
        CurateError: fewer than two or more than MAX_RUNS are given, or one twice; or one is no finished run.
    """
    if len(paths) < 2:
        raise CurateError(f"compare: {len(paths)} run is given, but a comparison needs two or more. Give another run's "
                          f"folder, or a subset file (.npy).")
    if len(paths) > MAX_RUNS:
        raise CurateError(f"compare: {len(paths)} runs are given, but at most {MAX_RUNS} can be told apart. "
                          f"Compare fewer at a time.")
    places = [os.path.realpath(path) if storage.is_local(path) else path.rstrip("/") for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise CurateError(f"{path}: is given {places.count(place)} times, but a run is compared with others. "
                              f"Give each run once.")
    return [open_run(path, label) for label, path in zip(string.ascii_uppercase, paths, strict=False)]


def open_run(path: str, label: str = "") -> Run:
    """The finished run in that place, or what its subset file stands for."""
    if not storage.exists(path):
        raise CurateError(f"{path}: there is no such place, but a run's folder or a subset file (.npy) is needed. "
                          f"Check the path.")
    if path.endswith(".npy"):
        return Run(label, path, None)
    manifest = storage.join(path, "manifest.json")
    if not storage.exists(manifest):
        if storage.exists(storage.join(path, "run.json")):
            raise CurateError(f"{path}: its run is unfinished, but a comparison needs finished ones. Run its command "
                              f"again to finish it.")
        raise CurateError(f"{path}: holds no run, but a run's folder or a subset file (.npy) is needed. Give the --out "
                          f"of a `curate --pool …`.")
    if (command := folder.command_of(path)) not in (None, folder.MAIN):
        raise CurateError(f"{path}: holds what `curate {printable(command)}` wrote, but a run that chose rows is "
                          f"needed. Give the --out of the `curate --pool …` that it came from.")  # fmt: skip
    return Run(label, path, read_manifest(manifest))


def read_manifest(path: str) -> dict[str, Any]:
    """A main job's manifest, with all that is read of it in place.

    Raises:
        CurateError: it is something else, or damaged.
    """
    try:
        record = storage.read_json(path)
        numbers = [record["rows"][name] for name in ("in", "kept", "samples")]
        numbers += [step[name] for step in steps(record) for name in ("in", "dropped")]
        texts = [record["recipe"]["name"], record["pool"], record["scale"] or ""]
        texts += [record["sha256"]["subset.npy"], record["finished"]]
        pool(record)
        if not all(isinstance(n, int) for n in numbers) or not all(isinstance(text, str) for text in texts):
            raise TypeError("a number or a name is something else")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CurateError(f"{path}: is not what a run of `curate --pool …` writes ({type(error).__name__}: "
                          f"{reason(error)}), but that is needed. Give the folder of such a run; if it is one, "
                          f"remove this file and run its command again.") from error
    return record


def steps(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each step dropped, and what it was when its numbers had been fitted."""
    return [
        {"step": str(step["step"]), "in": step["in"], "dropped": step["dropped"], "fitted": dict(fitted[step["step"]])}
        for step, fitted in zip(manifest["rows"]["dropped"], manifest["fitted"], strict=True)
    ]


def numbered(names: Iterable[str]) -> list[str]:
    """A recipe's steps told apart: a name that is there again has its number, such as `where`, `where 2`."""
    seen: collections.Counter[str] = collections.Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return found


def pool(manifest: Mapping[str, Any]) -> Any:
    """What tells its pool from others: the content of its files, and whether uids are made."""
    return sorted((file["size"], file["etag"]) for file in manifest["files"]), manifest["columns"].get("uid")


def check_subset(run: Run, file: str) -> subset.Facts:
    """What is known of the run's subset, which is in the local file, after a check that the run wrote it.

    Raises:
        CurateError: it is missing, is no subset, or is not what the run wrote.
    """
    if not os.path.exists(file):
        raise _missing(run.path, "subset.npy")
    facts = subset.check(file, run.subset)
    if run.manifest is not None and facts.sha256 != run.manifest["sha256"]["subset.npy"]:
        raise _changed(run.subset)
    return facts


def _changed(path: str) -> CurateError:
    return CurateError(f"{path}: is not what its run wrote (another sha256), but what the run wrote is compared. Run "
                       f"the run's command again with --overwrite.")


def _missing(path: str, name: str) -> CurateError:
    instead = "" if name == "subset.npy" else ", or give its subset.npy to compare rows alone"
    return CurateError(f"{path}: {name} is missing, but its manifest names it. Run the run's command again with "
                       f"--overwrite{instead}.")


def kept_files(path: str, manifest: Mapping[str, Any]) -> list[str]:
    """The files in kept/, after a check that the run wrote them.

    Raises:
        CurateError: one is missing, or is not what the run wrote.
    """
    names = sorted(name for name in manifest["sha256"] if re.fullmatch(r"kept/\d+\.parquet", name))
    for name in names or ["kept/"]:
        if not names or not storage.exists(storage.join(path, name)):
            raise _missing(path, name)
        if storage.sha256(storage.join(path, name)) != manifest["sha256"][name]:
            raise _changed(storage.join(path, name))
    return [storage.join(path, name) for name in names]
