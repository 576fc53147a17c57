"""The demo pool as a small study: so far its evaluation sets (`python -m jobs.mini eval-sets --out FOLDER`)."""

from collections.abc import Sequence

from jobs.cli import Parser, as_command, positive


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the sets and says where; returns the exit code."""
    parser = Parser(prog="python -m jobs.mini", description="Writes evaluation sets that need no download.")
    parser.add_argument("step", choices=["eval-sets"])
    parser.add_argument("--out", metavar="FOLDER", required=True, help="gets a folder a task and tasklist.yml")
    parser.add_argument("--per-concept", metavar="N", type=positive, default=2,
                        help="pictures of each of the 400 concepts in a task (default: 2)")  # fmt: skip
    args = parser.parse_args(argv)
    from pipeline import made_tasks

    path = made_tasks.write(args.out, args.per_concept)
    print(f"curate evaluate --tasks {path} --data {args.out} --model …")
    return 0


if __name__ == "__main__":
    as_command(main)
