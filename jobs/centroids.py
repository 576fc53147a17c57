"""`curate centroids`: the clusters of a pool's features, which image_based compares rows by."""

import argparse
from typing import Any

from jobs.cli import add_columns_argument, positive
from metadata.errors import CurateError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what, how many, where to."""
    parser.add_argument(
        "--pool", metavar="NAME|ADDRESS", required=True, help="as of the main job; its features are in an npz beside "
        "each parquet file, or in a column"
    )  # fmt: skip
    parser.add_argument("--scale", metavar="SCALE", help="of commoncrawl: small, medium, large or xlarge")
    add_columns_argument(parser)
    parser.add_argument(
        "--embedding", metavar="NAME", default="l14_img", help="the features, of unit length (default: %(default)s)"
    )
    parser.add_argument("--number", metavar="N", type=positive, default=100_000, help="of centroids (default: 100000)")
    parser.add_argument(
        "--sample", metavar="ROWS", type=positive, help="of the pool, to be clustered; it is kept on disk beside --out "
        "meanwhile, 1.5 KB a row of l14_img (default: 40 for each centroid)"
    )  # fmt: skip
    parser.add_argument("--iterations", metavar="N", type=positive, default=20, help="default: %(default)s")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--out", metavar="FILE.npy", required=True, help="a local path")
    parser.add_argument("--overwrite", action="store_true", help="replace what another command left at --out")


def run(args: argparse.Namespace) -> int:
    """Clusters, and says what came of it; returns the exit code."""
    from pipeline import centroids
    from pipeline.failures import os_sentence
    from pipeline.pools import open_pool

    sample = args.sample or 40 * args.number
    asked = centroids.Asked(args.embedding, args.number, sample, args.iterations, args.seed)
    try:
        record = centroids.make(open_pool(args.pool, args.scale, args.columns), asked, args.out, args.overwrite)
    except OSError as error:
        raise CurateError(os_sentence(error)) from error
    _summarise(record, args.out)
    return 0


def _summarise(record: dict[str, Any], out: str) -> None:
    if record.get("nothing_to_do"):
        print(f"{out} is finished already: nothing to do (--overwrite to do it again)")
    print(f"rows         {record['pool_rows']:>14,}  in the pool")
    print(f"clustered    {record['sample_rows']:>14,}  ({record['sample_rows'] / record['number']:,.1f} a centroid)")
    print(f"left out     {record['left_out']:>14,}  of the sample, for they have no features")
    print(f"centroids    {record['number']:>14,}")
    print(f"mean cosine  {record['mean_cosines'][-1]:>14.4f}  of a row and its centroid, before the last iteration")
    print(f"\nLook at      {out}")
