"""manifest.json: what a run was, and the sums that must hold before it may call itself finished."""

import collections
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from metadata.errors import CurateError
from pipeline import ledger, planning, select, storage
from pipeline.pieces import Piece
from pipeline.statuses import OK

_PACKAGES = (
    "clip-curate",
    "apache-beam",
    "pyarrow",
    "numpy",
    "duckdb",
    "fasttext-predict",
    "img2dataset",
    "opencv-python-headless",
    "pillow",
    "aiohttp",
    "webdataset",
)


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Python's and the packages' versions; by default those that can change what a run writes."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def count_rows(
    pieces: Sequence[Piece], step_names: Sequence[str], folder: str, keep_dropped: bool = False
) -> tuple[dict[str, Any], list[int], dict[str, str], list[int]]:
    """Adds up the pieces' counts and checks that every row is accounted for.

    Returns:
        {"in", "kept", "samples", "dropped": [{"step", "in", "dropped"}, …]}, where `samples` are the kept rows, each
        as often as it is taken; samples of each piece, in order; sha256 of the files in kept/ by name; how many rows
        each step dropped for want of a score or features.

    Raises:
        CurateError: the sums don't hold, or a file in kept/ is gone, or one in dropped/ where these are kept.
    """
    kept, samples, hashes = 0, [], {}
    dropped, without_score = [0] * len(step_names), [0] * len(step_names)
    places = ("kept", "dropped") if keep_dropped else ("kept",)
    there = {place: {*storage.names(storage.join(folder, place))} for place in places}
    for piece in pieces:
        found = storage.read_json(select.marker(piece, folder))
        if found["rows"] != piece.rows or found["kept"] + sum(found["dropped"]) != piece.rows:
            raise CurateError(
                f"{piece.path}: {piece.rows} rows went in, but {found['kept']} were kept and "
                f"{sum(found['dropped'])} dropped. This is a defect: please report it."
            )
        for place, names in there.items():
            if f"{piece.name}.parquet" not in names:
                raise CurateError(f"{folder}: {place}/{piece.name}.parquet is gone, but its rows were chosen and "
                                  f"counted. Run the same command again with --overwrite.")  # fmt: skip
        kept += found["kept"]
        samples.append(found["samples"])
        hashes[f"kept/{piece.name}.parquet"] = found["sha256"]
        dropped = [total + n for total, n in zip(dropped, found["dropped"], strict=True)]
        without_score = [total + n for total, n in zip(without_score, found["without_score"], strict=True)]
    left = sum(piece.rows for piece in pieces)
    counts: dict[str, Any] = {"in": left, "kept": kept, "samples": sum(samples), "dropped": []}
    for name, n in zip(step_names, dropped, strict=True):
        counts["dropped"].append({"step": name, "in": left, "dropped": n})
        left -= n
    return counts, samples, hashes, without_score


def check_samples(counts: Mapping[str, Any], fitted: Sequence[Mapping[str, Any]]) -> None:
    """Raises CurateError if the last step says how many `samples` it takes, and took another number."""
    for name, step in (fitted[-1] if fitted else {}).items():
        if step.get("samples", counts["samples"]) != counts["samples"]:
            raise CurateError(
                f"step {name}: took {counts['samples']:,} samples, but {step['samples']:,} were drawn. "
                f"This is a defect: please report it."
            )


def unfinish(out: str) -> None:
    """Before shards change: without its manifest and sizes.json, a run is unfinished for all who look at it."""
    storage.remove(storage.join(out, "manifest.json"))
    storage.remove(storage.join(out, "shards", "sizes.json"))


def add_shards(record: dict[str, Any], plans: Sequence[planning.ShardPlan], out: str) -> None:
    """Adds up the shards' ledgers into the manifest and writes sizes.json, after checking that every sample is there.

    Args:
        record: the manifest; gets `samples`, by status, and the hashes of tars and ledgers.

    Raises:
        CurateError: a shard is missing, or its ledger has another number of rows than was planned.
    """
    folder = storage.join(out, "shards")
    statuses: collections.Counter[str] = collections.Counter()
    sizes = {}

    def checked(plan: planning.ShardPlan) -> ledger.Sums:
        sums = ledger.sums(folder, plan.shard)
        if sums.statuses.total() != plan.rows:
            raise CurateError(
                f"{folder}: shard {plan.shard} has {sums.statuses.total()} rows in its ledger, but {plan.rows} were "
                f"planned. Remove its ledger and run the same command again."
            )
        return sums

    for plan, sums in zip(plans, storage.several_at_once(checked, plans), strict=True):
        statuses += sums.statuses
        tar, own = ledger.tar_name(plan.shard), ledger.ledger_name(plan.shard)
        sizes[tar] = sums.statuses[OK]
        record["sha256"] |= {f"shards/{tar}": sums.tar_sha256, f"shards/{own}": sums.sha256}
    record["samples"] = dict(sorted(statuses.items()))
    ledger.write_sizes(folder, sizes)
    record["sha256"]["shards/sizes.json"] = storage.sha256(storage.join(folder, "sizes.json"))
