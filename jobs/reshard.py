"""`curate reshard`: the shards of a subset, from a pool that is already downloaded."""

import argparse
import os
from typing import Any

from jobs.cli import folder, positive
from metadata.errors import CurateError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where from, which, where to."""
    parser.add_argument(
        "--shards",
        metavar="FOLDER",
        type=folder,
        required=True,
        help="webdataset tars, or a run's, whose json members have a uid; a path or address",
    )
    parser.add_argument(
        "--subset", metavar="FILE.npy", required=True, help="the uids to keep, as `curate` and DataComp write them"
    )
    parser.add_argument(
        "--out", metavar="FOLDER", type=folder, required=True, help="where the new tars go; a path or address"
    )
    parser.add_argument(
        "--remove",
        metavar="FILE",
        action="append",
        default=[],
        help="leave out the samples on this list: parquet, .csv, or text with one a line (repeatable, each with --by)",
    )
    parser.add_argument(
        "--by",
        metavar="uid|sha256|url|domain",
        action="append",
        default=[],
        help="what the list of the --remove before it has, looked for in the json members",
    )
    parser.add_argument(
        "--samples", metavar="N", type=positive, default=10_000, help="in each tar but the last (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive,
        default=os.cpu_count() or 1,
        help="processes (default: the number of cores, %(default)s here)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what another subset or other shards left in --out"
    )


def run(args: argparse.Namespace) -> int:
    """Reshards, and says what came of it; returns the exit code."""
    # Before numpy is imported: nothing is multiplied here, and processes are forked, which threads don't survive.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from pipeline.failures import os_sentence
    from pipeline.reshard import reshard

    if len(args.remove) != len(args.by):
        raise CurateError(
            f"--remove is given {len(args.remove)} times, but --by {len(args.by)} times. Give each --remove FILE its "
            f"--by uid, sha256, url or domain."
        )
    remove = tuple(zip(args.by, args.remove, strict=True))
    try:
        manifest = reshard(args.shards, args.subset, args.out, args.samples, args.workers, args.overwrite, remove)
    except OSError as error:
        raise CurateError(os_sentence(error)) from error
    _summarise(manifest, args.out)
    return 0


def _summarise(manifest: dict[str, Any], out: str) -> None:
    if manifest.get("nothing_to_do"):
        print(f"{out} is finished already: nothing to do (--overwrite to do it again)")
    samples, subset = manifest["samples"], manifest["subset"]
    print(f"samples in   {samples['in']:>14,}  in {len(manifest['shards']):,} tars")
    if manifest["removals"]:
        print(f"removed      {samples['removed']:>14,}  of them that are in the subset and on a list")
    print(f"kept         {samples['kept']:>14,}  ({samples['kept'] / samples['in']:.1%})")
    print(f"copies       {samples['copies']:>14,}  more of them, for uids that the subset repeats")
    print(f"written      {samples['written']:>14,}  in {len(manifest['outputs']):,} tars")
    print(f"not found    {subset['missing']:>14,}  of the subset's {subset['uids']:,} uids (dead links)")
    print(f"\nLook at      {out}/manifest.json")
