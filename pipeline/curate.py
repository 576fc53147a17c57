"""The main job on one screen: from a pool to a subset and shards."""

import collections
import dataclasses
import hashlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from filters import recipes
from filters.base import Filter, Fit, Grouping, Step
from filters.fused_score import Fused
from filters.not_listed import NotListed
from filters.soft_cap import SoftCap
from metadata.errors import CurateError
from metadata.schema import is_feature
from pipeline import finished, folder, groups, manifest, pieces, planning, progress, scores, select, storage
from pipeline.options import FetchPolicy, ImageOptions
from pipeline.pools import Pool, open_pool

#: Of about this many rows, or samples, one worker sorts the uids in one go, or judges the groups: 8 and 20 MB, a few
#: times over. That is less than it takes to choose rows of a file.
_PARTITION_ROWS = 1 << 19


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        columns: our column names to the pool's.
        min_kept: share of the rows that reach a step below which keeping fewer is an error; 0 for none.
        run: hands a function that builds a Beam pipeline to a runner and waits.
    """

    pool: str
    scale: str | None
    recipe: recipes.Recipe
    out: str
    run: Callable[[Callable[[Any], None]], None]
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    limit_files: int | None = None
    select_only: bool = False
    keep_dropped: bool = False
    overwrite: bool = False
    min_kept: float = 0.001
    fetch: FetchPolicy = FetchPolicy()
    images: ImageOptions = ImageOptions()


def curate(request: Request) -> dict[str, Any]:
    """Chooses rows, fetches their images, writes shards; continues where an earlier run of the same command stopped.

    Returns:
        The manifest, as it is in the run's folder.

    Raises:
        CurateError: for anything the user can mend.
    """
    started = time.time()
    pool = open_pool(request.pool, request.scale, request.columns)
    recipe = request.recipe
    try:
        found = pieces.inspect(pool, *asked_columns(recipe, request.select_only), request.limit_files)
    except CurateError:
        check_scores(recipe, pool, pieces.find_files(pool, 1))
        raise
    recipes.check(recipe, found.schema)
    folder.refuse_inside(request.out, "--pool", (file.path for file in found.files))
    identity = {
        "command": folder.MAIN,
        "pool": request.pool,
        "scale": request.scale,
        "columns": dict(request.columns),
        "limit_files": request.limit_files,
        "recipe": recipes.describe(recipe),
        "keep_dropped": request.keep_dropped,
        "files": [dataclasses.asdict(file) for file in found.files],
    }
    if not request.select_only:
        identity["images"] = dataclasses.asdict(request.images)
    with folder.claim(request.out, identity, request.overwrite):
        path = storage.join(request.out, "manifest.json")
        before = finished.read_manifest(path) if storage.exists(path) else None
        if before and _is_whole(before, request):
            return before | {"nothing_to_do": True}
        if before and before["finished"] != "shards":
            before = None
        record, samples = _choose_rows(request, found)
        record = identity | record
        if not request.select_only:
            if before:
                manifest.unfinish(request.out)
            _make_shards(request, pool, found, samples, record)
        elif before and before["sha256"] | record["sha256"] == before["sha256"]:
            record = before  # the choice is what it was, and so are the shards
        record["times"] = {"started": started, "seconds": time.time() - started}
        storage.write_json(path, record)
    return record


def asked_columns(recipe: recipes.Recipe, select_only: bool) -> tuple[set[str], tuple[str, ...]]:
    """The columns that a run reads, and those that it reads where the pool has them."""
    asked = {"uid", *recipes.recipe_columns(recipe)}
    return (asked, ()) if select_only else (asked | {*planning.REQUIRED_COLUMNS}, planning.OPTIONAL_COLUMNS)


def check_scores(recipe: recipes.Recipe, pool: Pool, files: Sequence[tuple[str, int | None]]) -> None:
    """Raises CurateError where a column that the pool's first file lacks is one that files of scores should have."""
    for step in recipe.steps:
        if isinstance(step, Fused) and step.files is not None:
            step.check_columns(pieces.inspect_files(files[:1], pool, ("uid",)).schema)


def choice_of(recipe: recipes.Recipe, rows: int, out: str, keep_dropped: bool = False) -> select.Choice:
    """How so many rows are chosen by the recipe, in the folder `out`."""
    most = max([rows, *(step.samples or 0 for step in recipe.steps if isinstance(step, SoftCap))])
    return select.Choice(
        folder=out,
        checkpoints=select.checkpoints(recipe.steps),
        kept_columns=tuple(c for c in recipes.recipe_columns(recipe) if c != "uid" and not is_feature(c)),
        scorers=recipes.scorers(recipe),
        partitions=1 << min(max(3, (most // _PARTITION_ROWS).bit_length()), select.MAX_PARTITION_BITS),
        keep_dropped=keep_dropped,
    )


def _is_whole(record: dict[str, Any], request: Request) -> bool:
    """Whether all that the request asks for is there, by its name."""
    if record["finished"] != "shards" and not request.select_only:
        return False
    needed = collections.defaultdict(set)
    for path in record["sha256"]:
        place, _, name = path.rpartition("/")
        needed[place].add(name)
    if request.select_only:
        needed.pop("shards", None)
    if request.keep_dropped:
        needed["dropped"] = needed["kept"]
    return all(names <= {*storage.names(storage.join(request.out, place))} for place, names in needed.items())


def _choose_rows(request: Request, found: pieces.Inspection) -> tuple[dict[str, Any], list[int]]:
    """Writes the subset; what the manifest says of it, and the number of samples of each piece."""
    steps = request.recipe.steps
    choice = choice_of(request.recipe, found.rows, request.out, request.keep_dropped)

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        from pipeline.transforms import ChooseRows

        _ = pipeline | beam.Impulse() | ChooseRows(steps, choice, found.pieces)

    rows = {piece.name: piece.rows for piece in found.pieces}
    passes = 1 + sum(step.passes for step in steps)
    work = storage.join(request.out, "work")
    # To compare features takes time, and counts as a pass; other groups are judged at once.
    judging = [number for number, step in enumerate(steps) if isinstance(step, Grouping) and step.carried]

    def measure() -> tuple[int, str]:
        done = [*storage.names(storage.join(work, "passes")), *storage.names(storage.join(work, "select"))]
        judged = [name for number in judging for name in storage.names(groups.judged_folder(number, request.out))]
        seen = sum(rows.get(name.partition(".")[0], 0) for name in done)
        return seen + found.rows * len(judged) // choice.partitions, ""

    scores.build(choice.scorers, request.out)
    if not _is_chosen(choice, steps):
        unit = f"rows in {passes} passes" if passes > 1 else "rows"
        progress.watch(lambda: request.run(build), measure, found.rows * passes, "choosing", unit)
    names = [step.name for step in steps]
    counts, samples, hashes, without_score = manifest.count_rows(
        found.pieces, names, request.out, request.keep_dropped
    )
    warnings = _check_kept(counts, request.min_kept) + _unmatched_lists(counts, steps)
    hashes["subset.npy"] = select.write_subset(choice, counts["samples"])
    fitted = select.fitted(steps, request.out)
    for step, applied, n in zip(steps, fitted, without_score, strict=True):
        if isinstance(step, Filter) and step.by_score:  # a fit has counted them itself, when it saw all rows
            applied[step.name]["rows_without_score"] = n
    manifest.check_samples(counts, fitted)
    record = {
        "finished": "subset",
        "fitted": fitted,
        "rows": counts,
        "warnings": warnings,
        "told": tell(steps, fitted, request.out, hashes),
        "versions": manifest.versions(),
        "sha256": hashes,
    }
    return record, samples


def _is_chosen(choice: select.Choice, steps: Sequence[Step]) -> bool:
    """Whether all that the choice writes is there."""
    files = [select.subset_path(partition, choice.folder) for partition in range(choice.partitions)]
    files += [select.tally_path(number, choice.folder) for number, _ in _telling(steps)]
    return all(map(storage.exists, (*files, *select.fitted_paths(steps, choice.folder).values())))


def _telling(steps: Sequence[Step]) -> list[tuple[int, Fit]]:
    return [(number, step) for number, step in enumerate(steps) if isinstance(step, Fit) and step.tells]


def tell(
    steps: Sequence[Step], fitted: Sequence[Mapping[str, Any]], folder: str, hashes: dict[str, str]
) -> dict[str, Any]:
    """Writes what steps leave beside the choice, and adds the files' hashes; gives what they tell the manifest."""
    records = {}
    for number, step in _telling(steps):
        with np.load(io.BytesIO(storage.read(select.tally_path(number, folder))), allow_pickle=False) as tally:
            told = step.tell(dict(tally), fitted[number][step.name])
        records[step.name] = told.record
        for name, data in told.files.items():
            storage.write(storage.join(folder, name), data)
            hashes[name] = hashlib.sha256(data).hexdigest()
    return records


def _check_kept(counts: Mapping[str, Any], least: float) -> list[str]:
    """Warnings of steps that keep little; an error where nothing is left or where less than `least` is kept."""
    warnings = []
    for step in counts["dropped"]:
        stay = step["in"] - step["dropped"]
        if step["in"] and not stay:
            raise CurateError(
                f"step {step['step']}: keeps none of the {step['in']:,} rows that reach it, but a subset needs "
                f"some. Check its parameters against the pool's values."
            )
        if step["in"] and stay < least * step["in"]:
            raise CurateError(
                f"step {step['step']}: keeps {stay:,} of the {step['in']:,} rows that reach it, less than "
                f"--min-kept {least:g}. Check its parameters, or lower --min-kept if that is meant."
            )
        if stay < 0.01 * step["in"]:
            warnings.append(f"step {step['step']} keeps only {stay:,} of {step['in']:,} rows")
    return warnings


def _unmatched_lists(counts: Mapping[str, Any], steps: Sequence[Step]) -> list[str]:
    """Warnings of removal lists that no row is on: it may be of another pool, or in another form."""
    return [f"step {step.name} drops none of {count['in']:,} rows: none has a {step.by} of its list"
            for count, step in zip(counts["dropped"], steps, strict=True)
            if isinstance(step, NotListed) and not count["dropped"]]  # fmt: skip


def _make_shards(
    request: Request, pool: Pool, found: pieces.Inspection, samples: Sequence[int], record: dict[str, Any]
) -> None:
    """Writes the shards of the samples, so many of each piece, and adds them to the manifest."""
    size = request.recipe.samples_per_shard
    plans = planning.plan_shards([(p.name, n) for p, n in zip(found.pieces, samples, strict=True)], size)
    with pool.serve() as resolve:
        fetch = dataclasses.replace(request.fetch, resolve=resolve)
        columns = (*planning.REQUIRED_COLUMNS, *found.optional)
        step = planning.ImageStep(request.out, columns, size, fetch, request.images)

        def build(pipeline: Any) -> None:
            import apache_beam as beam

            from pipeline.transforms import ForEach, Spread

            once = pipeline | beam.Impulse()
            work = once | "Pieces" >> Spread(found.pieces)
            planned = work | "Plan" >> ForEach(planning.plan_piece, request.out, columns)
            shards = once | "Shards" >> Spread(plans)
            _ = shards | "MakeShards" >> ForEach(planning.make_shard, step, beam.pvalue.AsList(planned))

        measure = planning.ProgressReader(request.out)
        progress.watch(lambda: request.run(build), measure, sum(samples), "images", "samples")
    record |= {"finished": "shards", "image_columns": list(columns)}
    manifest.add_shards(record, plans, request.out)
