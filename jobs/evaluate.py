"""`curate evaluate`: a model's scores on DataComp's tasks, or on one's own in the same format."""

import argparse
import os
from typing import Any

from jobs.cli import add_model_arguments, positive
from metadata.errors import CurateError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which model, on which tasks, where they are, where to."""
    add_model_arguments(parser)
    parser.add_argument(
        "--tasks", metavar="datacomp|KEY[,KEY]|FILE.yml", default="datacomp", help="all 38 of DataComp, some by their "
        "keys, or a file as its tasklist.yml (default: datacomp)"
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="FOLDER", help="with a folder wds_…_test a task, as DataComp downloads them (default: the "
        "Hub, whose files stay in the cache of its client)"
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FILE.jsonl", help="the results, gone on with if it is there (default: results.jsonl, in the "
        "model's folder if it is one)"
    )  # fmt: skip
    parser.add_argument("--batch", metavar="N", type=positive, default=128, help="images at a time (default: 128)")
    parser.add_argument("--overwrite", action="store_true", help="do all again, and drop what is at --out")


def run(args: argparse.Namespace) -> int:
    """Evaluates, and prints a table; returns the exit code."""
    from pipeline import evaluate
    from pipeline.failures import os_sentence

    out = args.out or os.path.join(args.model if os.path.isdir(args.model) else "", "results.jsonl")
    if not out.endswith(".jsonl") or "://" in out:
        raise CurateError(f"--out {printable(out)}: is no local path that ends in .jsonl, but results go there, and "
                          f"what they are of into the .json beside it. Give one.")  # fmt: skip
    wanted = asked_tasks(args)
    try:
        record = evaluate.run(wanted, args.data, args.model, args.pretrained, out, args.batch, args.overwrite)
    except OSError as error:
        raise CurateError(os_sentence(error)) from error
    _summarise(record, wanted, out)
    return 0


def asked_tasks(args: argparse.Namespace) -> list:
    """The tasks, after a look at where they are to be.

    Raises:
        CurateError: there is no such folder or task.
    """
    from pipeline import tasks

    if args.data is not None and not os.path.isdir(args.data):
        raise CurateError(f"--data {printable(args.data)}: is no folder, but the tasks' folders are to be there. Look "
                          f"at the path.")  # fmt: skip
    return tasks.named(args.tasks)


def _summarise(record: dict[str, Any], wanted: list, out: str) -> None:
    print(f"{'task':40}  {'main metric':24}  score")
    for task in wanted:
        size = record["tasks"].get(task.key, {}).get("size", task.size)
        odd = f"  of {size:,}; {task.size:,} were expected" if task.size not in (None, size) else ""
        score = record["results"][task.key]["metrics"]["main_metric"]
        print(f"{printable(task.name, 40):40}  {printable(task.main_metric, 24):24}  {score:.4f}{odd}")
    print()
    for group, mean in record["means"].items():
        of = f"{mean['tasks']} of {mean['of']}" if mean["tasks"] < mean["of"] else f"{mean['of']}"
        print(f"{group:40}  {f'mean of {of}' if mean['of'] > 1 else 'one task':24}  {mean['score']:.4f}")
    print(f"\nLook at {out}")
