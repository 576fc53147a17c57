"""`curate submit`: a finished run, its model and its results as a submission to DataComp."""

import argparse
import sys
from typing import Any

from jobs.cli import folder
from metadata.errors import CurateError, printable

#: The names of pipeline.submission.TRACKS, here without what that imports.
_TRACKS = ("filtering", "byod")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what, by whom, where to."""
    parser.add_argument(
        "--run", metavar="RUN", type=folder, action="append", required=True,
        help="that was trained on (repeatable, for a mixture)",
    )  # fmt: skip
    parser.add_argument("--train", metavar="FOLDER", type=folder, required=True, help="of `curate train`")
    parser.add_argument("--results", metavar="FILE.jsonl", required=True, help="of `curate evaluate`")
    who: Any = {"type": _not_blank, "required": True}
    parser.add_argument("--method", metavar="NAME", **who, help="shown to all, like the author and write-up")
    parser.add_argument("--author", metavar="NAME", **who)
    parser.add_argument("--email", **who, help="kept in the bundle's submission.json; it is not sent")
    parser.add_argument("--track", choices=_TRACKS, required=True, help="CommonPool filtered, or bring your own data")
    parser.add_argument("--writeup", metavar="URL")
    parser.add_argument("--checkpoint", action="store_true", help="add the weights")
    parser.add_argument("--partial", action="store_true", help="bundle what is no submission yet, and say why")
    parser.add_argument("--out", metavar="FOLDER", type=folder, required=True, help="the bundle: a local path")
    parser.add_argument(
        "--push", metavar="USER/REPO", help="send it to this model repo of the Hub, which must be there"
    )
    parser.add_argument("--yes", action="store_true", help="send without asking")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is given, but DataComp lists submissions by it: it can't be blank")
    return text


def run(args: argparse.Namespace) -> int:
    """Bundles, shows what would be sent, and sends it if that is wanted; returns the exit code."""
    from pipeline import submission
    from pipeline.failures import os_sentence

    asked = submission.Asked(
        runs=tuple(args.run), train=args.train, results=args.results, out=args.out, method=args.method,
        author=args.author, email=args.email, track=args.track, writeup=args.writeup, checkpoint=args.checkpoint,
        partial=args.partial,
    )  # fmt: skip
    try:
        record, lacks = submission.bundle(asked)
    except OSError as error:
        raise CurateError(os_sentence(error)) from error
    for lack in lacks:
        print(f"warning: no submission yet: {lack}", file=sys.stderr)
    if left_out := record["left_out"]:
        print(f"warning: left out of results.jsonl, for they are no tasks of DataComp's: "
              f"{printable(', '.join(left_out))}", file=sys.stderr)  # fmt: skip
    sizes = submission.files(asked.out, record["scale"])
    print(f"{'to be sent' if args.push else 'bundled'}{f' to {args.push}' if args.push else ''}:")
    for name, size in sizes:
        print(f"  {size:>15,} bytes  {name}")
    print(f"\nLook at {asked.out}/submission.json", flush=True)
    if args.push:
        if not args.yes and not _agreed(args.push):
            raise CurateError(f"--push {args.push}: is given without --yes, and nobody said yes, so nothing was sent. "
                              f"Look at the list, then add --yes.")  # fmt: skip
        print(f"sent: {submission.push(asked.out, args.push, record['scale'])}")
    return 0


def _agreed(repo: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return input(f"Send these files to {repo}? [y/N] ").strip().lower() in ("y", "yes")
