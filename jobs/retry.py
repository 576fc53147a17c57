"""`curate retry RUN --status timeout,…`: fetch again what failed."""

import argparse

from jobs import engines
from jobs.cli import folder
from metadata.errors import CurateError, unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run and the statuses to try again."""
    from jobs.main import add_fetch_arguments, add_running_arguments

    parser.add_argument("run", metavar="RUN", type=folder, help="the folder of a finished run")
    parser.add_argument(
        "--status",
        metavar="STATUS,…",
        required=True,
        help="which failures to try again, as the ledgers name them: timeout,http_5xx,connection_failed",
    )
    add_fetch_arguments(parser)
    add_running_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Fetches again; returns the exit code."""
    engines.warm_up(images=True)
    from jobs.main import fetch_policy
    from pipeline.retry import retry
    from pipeline.statuses import OK, STATUSES

    statuses = args.status.split(",")
    known = [status for status in STATUSES if status != OK]
    for status in statuses:
        if status == OK:
            raise CurateError("--status ok: these images are there. Name failures, such as timeout.")
        if status not in known:
            raise unknown("status", status, known, "--status")
    run_local = engines.run_with("local", args.workers, [])
    before, after = retry(args.run, frozenset(statuses), fetch_policy(args), run_local)
    for status in sorted({*before, *after}, key=lambda s: (s != OK, s)):
        print(f"{status:20} {before[status]:>12,} -> {after[status]:>12,}")
    return 0
