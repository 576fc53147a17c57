"""Comparing finished runs: the rows of each, what they have in common, and how what they keep differs."""

import contextlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from filters.soft_cap import COPIES
from metadata.errors import printable
from pipeline import compare_picture, finished, kept, overlaps, storage, subset
from pipeline.finished import Run
from pipeline.progress import Line

#: Words named of each run of a pair.
_WORDS = 10


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
    runs = finished.open_all(paths)
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


def _about(run: Run) -> dict[str, Any]:
    """What the run says of itself."""
    if run.manifest is None:
        return {"label": run.label, "run": run.path, "recipe": None, "pool": None, "scale": None, "rows": None}
    record = run.manifest
    rows = {"in": record["rows"]["in"], "kept": record["rows"]["kept"], "dropped": finished.steps(record)}
    return {"label": run.label, "run": run.path, "recipe": record["recipe"]["name"], "pool": record["pool"],
            "scale": record["scale"], "rows": rows}  # fmt: skip


def _overlaps(runs: Sequence[Run], abouts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What pairs, and all, have in common; gives each run its subset's figures."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(subset.local_file(run.subset)) for run in runs]
        facts = [finished.check_subset(run, file) for run, file in zip(runs, files, strict=True)]
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


def _look(runs: Sequence[Run]) -> list[kept.Kept | None]:
    """What the kept rows of each run are like; None for a subset file."""
    files = [finished.kept_files(run.path, run.manifest) if run.manifest is not None else None for run in runs]
    line, done = Line("comparing", "rows in 2 passes", 2 * sum(kept.rows(of_run) for of_run in files if of_run)), 0

    def on_rows(rows: int) -> None:
        nonlocal done
        done += rows
        line.show(done)

    with line:
        found = [kept.look(of_run, on_rows) if of_run else None for of_run in files]
    if done:
        line.show(done, last=True)
    return found


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
    if any(finished.pool(manifest) != finished.pool(whole[0][1]) for _, manifest in whole):
        each = ", ".join(f"{label} of {_pool_in_words(manifest)}" for label, manifest in whole)
        notes.append(f"The runs are not of one pool, so they differ not by their recipes alone: {each}.")
    notes += [
        f"{run.label} is a subset file, so only its rows and overlaps are known. Its run's folder would tell the rest."
        for run in runs
        if run.manifest is None
    ]
    read = {run.label: _columns(of_run) for run, of_run in zip(runs, found, strict=True) if of_run is not None}
    every = {"text"}.union(*read.values()) - {COPIES}  # which no pool has
    lacking = [f"{label} of {' and '.join(map(printable, sorted(every - own)))}" for label, own in read.items()
               if every - own]  # fmt: skip
    if lacking:
        notes.append(f"kept/ has the columns that a recipe's steps read, so nothing is known for {', '.join(lacking)}. "
                     f'A step such as `- where: "text is null or true"` reads one and keeps every row.')
    return notes


def _columns(found: kept.Kept) -> set[str]:
    """The columns that were measured."""
    return {"text" if name in kept.OF_CAPTIONS else name for name in found.spreads}


def _pool_in_words(manifest: Mapping[str, Any]) -> str:
    scale = f" {printable(manifest['scale'])}" if manifest["scale"] else ""
    return f"{printable(manifest['pool'])}{scale} ({len(manifest['files']):,} files, {manifest['rows']['in']:,} rows)"
