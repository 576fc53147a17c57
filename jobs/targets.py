"""`curate targets`: features of a benchmark's images, which steps compare rows with."""

import argparse
import sys

from jobs.cli import add_model_arguments, positive
from metadata.errors import CurateError, printable

#: Images left out that are named on the terminal.
_NAMED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which images, by which model, where to."""
    parser.add_argument("--images", metavar="FOLDER", required=True, help="of images or of webdataset tars")
    add_model_arguments(parser)
    parser.add_argument("--batch", metavar="N", type=positive, default=256, help="images at a time (default: 256)")
    parser.add_argument("--out", metavar="FILE.npy", required=True, help="a local path; replaced if it is there")


def run(args: argparse.Namespace) -> int:
    """Encodes, and names what was left out; returns the exit code."""
    from pipeline import targets
    from pipeline.failures import os_sentence

    try:
        record = targets.make(args.images, args.model, args.pretrained, args.out, args.batch)
    except OSError as error:
        raise CurateError(os_sentence(error)) from error
    left_out = record["left_out"]
    for name in left_out[:_NAMED]:
        print(f"curate: {printable(name, 300)}: is left out, for it can't be read as an image.", file=sys.stderr)
    for kind, names in record["passed_over"].items():
        print(f"curate: {printable(names[0], 300)} and {len(names) - 1:,} others: left out, for "
              f"{targets.REASONS[kind]}.", file=sys.stderr)  # fmt: skip
    passed_over = sum(map(len, record["passed_over"].values()))
    print(f"images       {record['images']:>14,}  on {record['device']}")
    print(f"left out     {len(left_out):>14,}  that can't be read; their names are in the .json beside --out")
    if passed_over:
        print(f"             {passed_over:>14,}  that end as images do, but aren't taken; their names are there")
    print(f"\nLook at      {args.out}")
    return 0
