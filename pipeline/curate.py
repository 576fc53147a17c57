"""The main job on one screen: from a pool to a subset and shards."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from filters import recipes
from filters.base import Fit
from metadata.errors import CurateError
from pipeline import folder, manifest, pieces, planning, progress, select, storage
from pipeline.fetch import FetchPolicy
from pipeline.images import ImageOptions
from pipeline.pools import open_pool

#: Uids of about this many rows are sorted in one go by one worker: 32 MB, a few times over.
_PARTITION_ROWS = 1 << 21


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
    recipe, steps = request.recipe, request.recipe.steps
    wanted = planning.REQUIRED_COLUMNS if not request.select_only else ("uid",)
    found = pieces.inspect(
        pool, (*wanted, *recipes.recipe_columns(recipe)), planning.OPTIONAL_COLUMNS, request.limit_files
    )
    recipes.check(recipe, found.schema)
    identity = {
        "pool": request.pool,
        "scale": request.scale,
        "columns": dict(request.columns),
        "limit_files": request.limit_files,
        "recipe": recipes.describe(recipe),
        "keep_dropped": request.keep_dropped,
        "images": dataclasses.asdict(request.images),
        "files": [dataclasses.asdict(file) for file in found.files],
    }
    folder.claim(request.out, identity, request.overwrite)
    if (done := _finished(request)) is not None:
        return done

    choice = select.Choice(
        folder=request.out,
        checkpoints=tuple(n for n, step in enumerate(steps) if n and isinstance(step, Fit)),
        kept_columns=tuple(c for c in dict.fromkeys(recipes.recipe_columns(recipe)) if c != "uid"),
        partitions=1 << max(3, (found.rows // _PARTITION_ROWS).bit_length()),
        keep_dropped=request.keep_dropped,
    )
    _choose(request, steps, choice, found.pieces)
    counts, kept, hashes = manifest.count_rows(found.pieces, [step.name for step in steps], request.out)
    warnings = _check_kept(counts, request.min_kept)
    hashes["subset.npy"] = select.write_subset(choice, counts["kept"])
    record = {
        "finished": "subset",
        **identity,
        "fitted": storage.read_json(select.fitted_path(request.out)),
        "rows": counts,
        "warnings": warnings,
        "versions": manifest.versions(),
        "sha256": hashes,
    }
    if not request.select_only:
        with pool.serve() as resolve:
            fetch = dataclasses.replace(request.fetch, resolve=resolve)
            columns = (*planning.REQUIRED_COLUMNS, *found.optional)
            step = planning.ImageStep(request.out, columns, recipe.samples_per_shard, fetch, request.images)
            plans = planning.plan_shards([(p.name, n) for p, n in zip(found.pieces, kept, strict=True)], step.samples)
            _make_shards(request, step, found.pieces, plans)
        record |= {"finished": "shards", "image_columns": list(columns)}
        manifest.add_shards(record, plans, request.out)
    record["times"] = {"started": started, "seconds": time.time() - started}
    storage.write_json(storage.join(request.out, "manifest.json"), record)
    return record


def _finished(request: Request) -> dict[str, Any] | None:
    path = storage.join(request.out, "manifest.json")
    if not storage.exists(path):
        return None
    record = storage.read_json(path)
    if record["finished"] == "shards" or request.select_only:
        return record | {"nothing_to_do": True}
    return None


def _choose(request: Request, steps: Sequence, choice: select.Choice, work: list[pieces.Piece]) -> None:
    marks = storage.join(request.out, "work", "select")
    rows = {f"{piece.name}.json": piece.rows for piece in work}

    def measure() -> tuple[int, str]:
        return sum(rows.get(name, 0) for name in storage.names(marks)), ""

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        from pipeline.transforms import ChooseRows

        _ = pipeline | beam.Create(work) | beam.Reshuffle() | ChooseRows(steps, choice, work)

    if len(storage.names(storage.join(request.out, "work", "subset"))) < choice.partitions:
        progress.watch(lambda: request.run(build), measure, sum(rows.values()), "choosing", "rows")


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


def _make_shards(
    request: Request, step: planning.ImageStep, work: list[pieces.Piece], plans: list[planning.ShardPlan]
) -> None:
    def build_plans(pipeline: Any) -> None:
        import apache_beam as beam

        from pipeline.transforms import ForEach

        planned = (
            pipeline | "Pieces" >> beam.Create(work) | "Plan" >> ForEach(planning.plan_piece, step.folder, step.columns)
        )
        after = beam.pvalue.AsList(planned)
        _ = pipeline | "Shards" >> beam.Create(plans) | "MakeShards" >> ForEach(planning.make_shard, step, after)

    measure = planning.ProgressReader(request.out)
    progress.watch(lambda: request.run(build_plans), measure, sum(plan.rows for plan in plans), "images", "samples")
