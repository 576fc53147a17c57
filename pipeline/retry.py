"""Fetching again what failed in a finished run."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

from metadata.errors import CurateError
from pipeline import finished, folder, ledger, manifest, planning, progress, storage
from pipeline.options import FetchPolicy, ImageOptions
from pipeline.pools import open_pool

Statuses = collections.Counter[str]


def retry(
    out: str, statuses: frozenset[str], fetch: FetchPolicy, run: Callable[[Callable[[Any], None]], None]
) -> tuple[Statuses, Statuses]:
    """Fetches again the samples of a run that ended as one of `statuses`; only shards that this changes are rewritten.

    Meanwhile the run has no manifest, so it is unfinished for all who look at it: one that is stopped is gone on with,
    or else finished by the run's own command.

    Args:
        out: the run's folder.
        run: hands a function that builds a Beam pipeline to a runner and waits.

    Returns:
        Samples by status, before and after.

    Raises:
        CurateError: the folder holds no run with shards, or not all that a retry goes by, or none of its samples ended
            so.
    """
    path, begun = storage.join(out, "manifest.json"), storage.join(out, "work", "retried.json")
    record = _with_shards(path)
    stopped = record is None
    record = record or _with_shards(begun)
    if record is None:
        raise CurateError(
            f"{out}: holds no run whose shards are finished, but a retry needs one. Finish the run first."
        )
    before: Statuses = collections.Counter(record["samples"])
    plans = planned(out, record)
    pool = open_pool(record["pool"], record["scale"], record["columns"])
    with folder.alone(out), pool.serve() as resolve:
        step = planning.ImageStep(
            out,
            tuple(record["image_columns"]),
            record["recipe"]["shards"]["samples"],
            dataclasses.replace(fetch, resolve=resolve),
            ImageOptions(**record["images"]),
        )
        counts = _count(plans, out, statuses)
        if any(counts):
            storage.write_json(begun, record)
            manifest.unfinish(out)
            _run(plans, counts, step, statuses, run)
        elif not stopped:
            raise CurateError(
                f"{out}: no sample ended as {' or '.join(sorted(statuses))}. Its statuses: "
                f"{', '.join(f'{status} {n:,}' for status, n in before.items())}."
            )
        manifest.add_shards(record, plans, out)
        storage.write_json(path, record)
        storage.remove(begun)
    return before, collections.Counter(record["samples"])


def _with_shards(path: str) -> dict[str, Any] | None:
    """The manifest there, if it is of a run whose shards are finished."""
    record = finished.read_manifest(path) if storage.exists(path) else None
    return record if record and record["finished"] == "shards" else None


def planned(out: str, record: dict[str, Any]) -> list[planning.ShardPlan]:
    """The shards of a finished run.

    Raises:
        CurateError: the samples that work/ plans are not as many as the run has.
    """
    folder = storage.join(out, "work", "select")
    samples = [
        (name.removesuffix(".json"), storage.read_json(storage.join(folder, name))["samples"])
        for name in storage.names(folder)
    ]
    if (found := sum(n for _, n in samples)) != (needed := record["rows"]["samples"]):
        raise CurateError(
            f"{out}/work: plans {found:,} samples, but the run has {needed:,}, and a retry goes by that plan. Put back "
            f"what was in work/, or run the run's command again with --overwrite."
        )
    return planning.plan_shards(samples, record["recipe"]["shards"]["samples"])


def to_fetch(plan: planning.ShardPlan, folder: str, statuses: frozenset[str]) -> int:
    """How many samples of a shard are to be fetched: those that ended as one of `statuses`; all if it isn't whole."""
    if (whole := ledger.whole_ledger(folder, plan.shard)) is None:
        return plan.rows
    return sum(status in statuses for status in whole.column("status").to_pylist())


def retry_planned(plan: planning.ShardPlan, step: planning.ImageStep, statuses: frozenset[str]) -> None:
    """Fetches again what of one shard ended as one of `statuses`."""
    from pipeline import shards  # workers alone need it, and what it brings

    report = planning.progress_writer(step.folder, plan.shard)
    fetched: Statuses = collections.Counter()

    def on_progress(so_far: Statuses) -> None:
        nonlocal fetched
        fetched = so_far
        report(so_far)

    shards.retry_shard(
        plan.shard,
        planning.read_plan(plan, step.folder),
        storage.join(step.folder, "shards"),
        step.fetch,
        step.images,
        step.samples,
        statuses,
        on_progress,
    )
    report(fetched, last=True)


def _count(plans: list[planning.ShardPlan], out: str, statuses: frozenset[str]) -> list[int]:
    """How many samples of each shard are to be fetched."""
    folder = storage.join(out, "shards")
    return list(storage.several_at_once(lambda plan: to_fetch(plan, folder, statuses), plans))


def _run(
    plans: list[planning.ShardPlan],
    counts: list[int],
    step: planning.ImageStep,
    statuses: frozenset[str],
    run: Callable[[Callable[[Any], None]], None],
) -> None:
    left = [plan for plan, n in zip(plans, counts, strict=True) if n]

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        from pipeline.transforms import ForEach, Spread

        _ = pipeline | beam.Impulse() | Spread(left) | ForEach(retry_planned, step, statuses)

    storage.remove(storage.join(step.folder, "work", "progress"))
    progress.watch(lambda: run(build), planning.ProgressReader(step.folder), sum(counts), "retrying", "samples")
