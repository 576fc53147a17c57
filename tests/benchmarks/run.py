"""All benchmarks of the project, or those that are named, as one table.

    python tests/benchmarks/run.py [NAME ...] [--pairs 5] [--rows 2000000] [--scratch FOLDER]

Ours and the other are run in turns; a time is the median of its runs, a ratio that of the pairs. Where other work
shares the cores, trust the ratios more than the times.
"""

import argparse
import importlib
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
NAMES = ("choose", "features", "centroids", "images", "reshard", "matching", "balance", "duplicates", "texts", "score",
         "evaluate", "size", "train", "flink")  # fmt: skip


def main() -> int:
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
    from measure import table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all without one")
    parser.add_argument("--pairs", type=int, default=5, help="alternating runs of each (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2_000_000, help="of choosing's pools (default: %(default)s)")
    scratch = pathlib.Path(tempfile.gettempdir(), "clip-curate-benchmarks")
    parser.add_argument("--scratch", type=pathlib.Path, default=scratch,
                        help="for pools and photographs, which stay, and outputs (default: %(default)s)")  # fmt: skip
    args = parser.parse_args()
    if wrong := set(args.names) - set(NAMES):
        parser.error(f"{', '.join(sorted(wrong))}: no such benchmark. There are {', '.join(NAMES)}.")
    args.scratch.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.names or NAMES:
        options = {"size": args.rows} if name in ("choose", "balance", "duplicates", "flink") else {}
        for row in importlib.import_module(f"bench_{name}").rows(args.scratch, args.pairs, **options):
            print(" | ".join(filter(None, map(str, row))), file=sys.stderr, flush=True)
            rows.append(row)
    print(table(rows))
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
