"""`curate train`: DataComp's training on the shards of runs, by open_clip's trainer."""

import argparse
import shlex
import sys
from typing import Any

from jobs.cli import folder, positive
from metadata.errors import CurateError
from pipeline.scales import SCALES, TRAININGS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which recipe, on what, where to, on which devices."""
    parser.add_argument("--scale", choices=TRAININGS, required=True, help="which model is trained how, for how long")
    parser.add_argument(
        "--data",
        metavar="RUN[,RUN:weight…]",
        required=True,
        help="folders of runs or of shards; a weight is how often their samples are seen, against those of others",
    )
    parser.add_argument("--out", metavar="FOLDER", type=folder, required=True, help="a local path")
    parser.add_argument("--model", metavar="NAME|FILE.json", help="of open_clip, or a config (default: the scale's)")
    parser.add_argument("--samples-seen", metavar="N", type=positive, help="default: the scale's")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="default: 0")
    parser.add_argument("--gpus", metavar="N", type=positive, default=1, help="on each machine (default: 1)")
    parser.add_argument(
        "--accum", metavar="N", type=positive, default=1, help="parts a batch is computed in, where memory is short"
    )
    parser.add_argument("--workers", metavar="N", type=positive, help="that read, a GPU (default: up to 4)")
    parser.add_argument("--slurm", action="store_true", help="write FOLDER/train.sbatch instead, to be submitted")
    parser.add_argument("--nodes", metavar="N", type=positive, default=1, help="of Slurm's, each with --gpus")
    parser.add_argument(
        "--sbatch", metavar="OPTION", action="append", default=[], help="of sbatch's, as --sbatch=--partition=gpu"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, with the trainer's command; tars are not read"
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what another training left in --out")


def run(args: argparse.Namespace) -> int:
    """Trains, and says what came of it; returns the exit code."""
    from pipeline import training, training_flags
    from pipeline.failures import os_sentence

    if args.sbatch and not args.slurm:
        raise CurateError("--sbatch: is given without --slurm, but it goes into that script. Add --slurm.")
    asked = training.Asked(
        scale=args.scale, data=args.data, out=args.out, model=args.model, samples_seen=args.samples_seen,
        seed=args.seed, gpus=args.gpus, nodes=args.nodes, workers=args.workers, accum=args.accum,
        sbatch=tuple(args.sbatch) if args.slurm else None,
    )  # fmt: skip
    try:
        planned = training.plan(asked)
        _announce(planned)
        if args.dry_run:
            device = "cuda" if args.slurm else training.devices()[0]
            print(shlex.join(training_flags.command(planned, device)))
            return 0
        record = training.train(asked, planned, args.overwrite)
    except OSError as error:
        raise CurateError(os_sentence(error)) from error
    if record is None:
        print(f"\nLook at      {asked.out}/train.sbatch, then: sbatch {shlex.quote(asked.out)}/train.sbatch")
        return 0
    _summarise(record, asked.out)
    return 0


def _announce(planned: Any) -> None:
    """What will be trained, for how long, and what a submission wouldn't allow."""
    training = planned.training
    print(f"scale        {planned.scale:>14}")
    print(f"model        {training.model:>14}")
    for data in planned.data:
        print(f"data         {data.samples:>14,}  samples in {len(data.sizes):,} shards of {data.run}, each seen "
              f"{planned.passes(data):,.2f} times on average")  # fmt: skip
    print(f"samples seen {planned.samples_seen:>14,}  {planned.samples_seen // planned.batch:,} steps of "
          f"{planned.batch:,}, {training.checkpoints} checkpoints", flush=True)  # fmt: skip
    warnings = []
    scale = TRAININGS[planned.scale]
    if planned.scale not in SCALES:
        warnings.append(f"{planned.scale} is for trying things: a submission is of {', '.join(SCALES)}")
    else:
        for name, value in ("model", training.model), ("samples_seen", training.samples_seen):
            own = getattr(scale, name)
            if value != own:
                warnings.append(f"{name.replace('_', ' ')} {value} is not the scale's, but a submission needs {own}")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def _summarise(record: dict[str, Any], out: str) -> None:
    if record.get("nothing_to_do"):
        print(f"{out} is finished already: nothing to do (--overwrite to do it again)")
    rate = record["samples_per_second"]
    if rate is not None:
        print(f"samples/s    {rate:>14,.1f}  on {record['device']}, {record['precision']}")
    print(f"loss         {record['loss'][-1][1]:>14.4f}  of the last batch")
    print(f"\nLook at      {out}/train.json, {out}/loss.svg")
