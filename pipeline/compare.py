"""Comparing finished runs: the rows of each, what they have in common, and how what they keep differs."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from metadata.errors import CurateError, printable, reason
from pipeline import compare_picture, kept, overlaps, storage, subset
from pipeline.progress import Line

#: As many as colours that can be told apart.
MAX_RUNS = 10

#: Words named of each run of a pair.
_WORDS = 10


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


def compare(paths: Sequence[str], out: str) -> dict[str, Any]:
    """Compares runs, and writes compare.json and compare.svg into the folder `out`.

    Args:
        paths: folders of finished runs; also subset files (.npy), of which only rows and overlaps are known.

    Returns:
        What is in compare.json: `runs` (each with `subset`, `rows`, `measures`), `in_all`, `overlaps`, `words`,
        `notes`. What is unknown is null.

    Raises:
        CurateError: fewer than two or more than MAX_RUNS are given, or one twice; one is no finished run, or a file of
            it is not what the run wrote.
    """
    runs = _open_all(paths)
    with storage.atomic(storage.join(out, "compare.json")) as file:  # before anything that takes long
        report: dict[str, Any] = {"runs": [_about(run) for run in runs]}
        report |= _overlaps(runs, report["runs"])
        found = _look(runs)
        for about, of_run in zip(report["runs"], found, strict=True):
            about |= _measures(of_run)
        measured = {name for of_run in found if of_run for name in of_run.spreads}
        report |= {"measured": sorted(measured, key=lambda name: (name not in kept.OF_CAPTIONS, name))}
        report |= {"words": _words(runs, found), "notes": _notes(runs, found)}
        picture = compare_picture.draw(report, [of_run.spreads if of_run else {} for of_run in found])
        storage.write(storage.join(out, "compare.svg"), picture)
        file.write((json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    return report


def _open_all(paths: Sequence[str]) -> list[Run]:
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
    return [_open(label, path) for label, path in zip(string.ascii_uppercase, paths, strict=False)]


def _open(label: str, path: str) -> Run:
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
    return Run(label, path, _read_manifest(manifest))


def _read_manifest(path: str) -> Mapping[str, Any]:
    """A main job's manifest, with all that is read of it in place."""
    try:
        record = storage.read_json(path)
        steps = record["rows"]["dropped"]
        numbers = [record["rows"]["in"], record["rows"]["kept"], *(step[n] for step in steps for n in ("in", "dropped"))]
        texts = [record["recipe"]["name"], record["pool"], record["sha256"]["subset.npy"], record["scale"] or ""]
        _steps(record)
        _pool(record)
        if not all(isinstance(n, int) for n in numbers) or not all(isinstance(text, str) for text in texts):
            raise TypeError("a number or a name is something else")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CurateError(f"{path}: is not what a run of `curate --pool …` writes ({type(error).__name__}: "
                          f"{reason(error)}), but that is needed. Give the folder of such a run, or a subset file "
                          f"(.npy).") from error
    return record


def _about(run: Run) -> dict[str, Any]:
    """What the run says of itself."""
    if run.manifest is None:
        return {"label": run.label, "run": run.path, "recipe": None, "pool": None, "scale": None, "rows": None}
    record = run.manifest
    rows = {"in": record["rows"]["in"], "kept": record["rows"]["kept"], "dropped": _steps(record)}
    return {"label": run.label, "run": run.path, "recipe": record["recipe"]["name"], "pool": record["pool"],
            "scale": record["scale"], "rows": rows}  # fmt: skip


def _steps(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each step dropped, and what it was when its numbers had been fitted."""
    return [
        {"step": str(step["step"]), "in": step["in"], "dropped": step["dropped"], "fitted": dict(fitted[step["step"]])}
        for step, fitted in zip(manifest["rows"]["dropped"], manifest["fitted"], strict=True)
    ]


def _overlaps(runs: Sequence[Run], abouts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What pairs, and all, have in common; gives each run its subset's figures."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(subset.local_file(run.subset)) for run in runs]
        facts = [_checked(run, file) for run, file in zip(runs, files, strict=True)]
        subsets = [subset.load(file) for file in files]
        together = overlaps.count_together(subsets)
        for n, (about, fact, uids) in enumerate(zip(abouts, facts, subsets, strict=True)):
            alone = together.get(1 << n, 0)
            about["subset"] = {"rows": len(uids), "distinct": fact.distinct, "in_no_other": alone}
    pairs = []
    for (i, one), (j, other) in itertools.combinations(enumerate(runs), 2):
        both = 1 << i | 1 << j
        shared = sum(uids for combination, uids in together.items() if combination & both == both)
        either = facts[i].distinct + facts[j].distinct - shared
        pairs.append({"runs": [one.label, other.label], "shared": shared, "jaccard": shared / either,
                      "of_first": shared / facts[i].distinct, "of_second": shared / facts[j].distinct})  # fmt: skip
    return {"in_all": together.get((1 << len(runs)) - 1, 0), "overlaps": pairs}


def _checked(run: Run, file: str) -> subset.Facts:
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


def _look(runs: Sequence[Run]) -> list[kept.Kept | None]:
    """What the kept rows of each run are like; None for a subset file."""
    files = [_kept_files(run.path, run.manifest) if run.manifest is not None else None for run in runs]
    line, done = Line("comparing", "rows in 2 passes", 2 * sum(kept.rows(of_run) for of_run in files if of_run)), 0

    def on_rows(rows: int) -> None:
        nonlocal done
        done += rows
        line.show(done)

    try:
        found = [kept.look(of_run, on_rows) if of_run else None for of_run in files]
    except BaseException:
        line.close()
        raise
    if done:
        line.show(done, last=True)
    return found


def _kept_files(path: str, manifest: Mapping[str, Any]) -> list[str]:
    """The files in kept/, which are what the run wrote."""
    names = sorted(name for name in manifest["sha256"] if re.fullmatch(r"kept/\d+\.parquet", name))
    for name in names or ["kept/"]:
        if not names or not storage.exists(storage.join(path, name)):
            raise _missing(path, name)
        if storage.sha256(storage.join(path, name)) != manifest["sha256"][name]:
            raise _changed(storage.join(path, name))
    return [storage.join(path, name) for name in names]


def _measures(found: kept.Kept | None) -> dict[str, Any]:
    if found is None:
        return {"measures": None, "captions_looked_at": None}
    measures = {
        name: {"values": spread.values, "without": spread.without, "quartiles": spread.quartiles}
        for name, spread in found.spreads.items()
    }
    return {"measures": measures, "captions_looked_at": found.words.captions if found.words else None}


def _words(runs: Sequence[Run], found: Sequence[kept.Kept | None]) -> list[dict[str, Any]]:
    """For each pair of runs with captions, the words that each has more often than the other."""
    known = [(run.label, of_run.words) for run, of_run in zip(runs, found, strict=True) if of_run and of_run.words]
    return [
        {
            "runs": [one, other],
            "more_in_first": kept.differing(first, second, _WORDS),
            "more_in_second": kept.differing(second, first, _WORDS),
        }
        for (one, first), (other, second) in itertools.combinations(known, 2)
    ]


def _notes(runs: Sequence[Run], found: Sequence[kept.Kept | None]) -> list[str]:
    """What to know of the comparison, in sentences."""
    notes = []
    whole = [(run.label, run.manifest) for run in runs if run.manifest is not None]
    if any(_pool(manifest) != _pool(whole[0][1]) for _, manifest in whole):
        each = ", ".join(f"{label} of {_pool_in_words(manifest)}" for label, manifest in whole)
        notes.append(f"The runs are not of one pool, so they differ not by their recipes alone: {each}.")
    notes += [
        f"{run.label} is a subset file, so only its rows and overlaps are known. Its run's folder would tell the rest."
        for run in runs
        if run.manifest is None
    ]
    read = {run.label: _columns(of_run) for run, of_run in zip(runs, found, strict=True) if of_run is not None}
    every = {"text"}.union(*read.values())
    lacking = [f"{label} of {' and '.join(map(printable, sorted(every - own)))}" for label, own in read.items()
               if every - own]  # fmt: skip
    if lacking:
        notes.append(f"kept/ has the columns that a recipe's steps read, so nothing is known for {', '.join(lacking)}. "
                     f'A step such as `- where: "text is null or true"` reads one and keeps every row.')
    return notes


def _columns(found: kept.Kept) -> set[str]:
    """The columns that were measured."""
    return {"text" if name in kept.OF_CAPTIONS else name for name in found.spreads}


def _pool(manifest: Mapping[str, Any]) -> Any:
    """What tells its pool from others: the content of its files, and whether uids are made."""
    return sorted((file["size"], file["etag"]) for file in manifest["files"]), manifest["columns"].get("uid")


def _pool_in_words(manifest: Mapping[str, Any]) -> str:
    scale = f" {printable(manifest['scale'])}" if manifest["scale"] else ""
    return f"{printable(manifest['pool'])}{scale} ({len(manifest['files']):,} files, {manifest['rows']['in']:,} rows)"
