"""The trainer's command for a planned training: DataComp's flags, and how many processes it is started in."""

import dataclasses
import math
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from metadata.errors import CurateError, printable
from pipeline.scales import Training
from pipeline.training_data import Data


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training, with all that follows from what was asked.

    Attributes:
        training: the scale's, with the model's name and the samples that are to be seen.
        config: the model's.
        config_file: where it is, for a model that open_clip doesn't know; an absolute path.
        out: an absolute path.
        gpus: processes on each of the `nodes`.
        workers: processes that read for each of these.
        accum: parts that a batch is computed in.
    """

    scale: str
    training: Training
    config: dict[str, Any]
    config_file: str | None
    data: list[Data]
    seed: int
    out: str
    gpus: int
    nodes: int
    workers: int
    accum: int

    @property
    def batch(self) -> int:
        return self.training.batch

    @property
    def samples_a_part(self) -> int:
        """Between two checkpoints: the trainer rounds up to whole batches of every worker."""
        once = self.batch // self.accum
        batches = math.ceil(self.training.samples_seen // self.training.checkpoints / once)
        return math.ceil(batches / self.workers) * self.workers * once

    @property
    def samples_seen(self) -> int:
        """In all, in whole batches."""
        return self.samples_a_part * self.training.checkpoints

    def passes(self, data: Data) -> float:
        """How often one of the run's samples is seen, on average: shards are drawn with replacement, by weight."""
        return self.samples_seen * data.weight / sum(one.weight * one.samples for one in self.data)

    def identity(self) -> dict[str, Any]:
        """What decides what is trained; on how many devices and on which is left out.

        Of `workers` and `accum` what the trainer makes of them: it counts its steps, and what it has seen, by the part.
        """
        return {
            "command": "train",
            "scale": self.scale,
            "model": {"name": self.training.model, "config": self.config},
            "training": {k: v for k, v in dataclasses.asdict(self.training).items() if k != "model"},
            "samples_a_part": self.samples_a_part,
            "seed": self.seed,
            "data": [data.record() for data in self.data],
        }


def flags(plan: Plan, device: str) -> list[str]:
    """open_clip_train.main's flags, as DataComp's train.py gives them; full precision on a CPU, where amp is slower."""
    training = plan.training
    found = {
        "model": training.model,
        "train-data": "::".join(data.pattern for data in plan.data),
        "dataset-type": "webdataset",
        "train-num-samples": training.samples_seen // training.checkpoints,
        "epochs": training.checkpoints,
        "batch-size": training.batch // (plan.gpus * plan.nodes * plan.accum),
        "accum-freq": plan.accum,
        "lr": training.lr,
        "warmup": training.warmup,
        "precision": "amp" if device == "cuda" else "fp32",
        "device": device,
        "workers": plan.workers,
        "seed": plan.seed,
        "save-frequency": 0,
        "resume": "latest",
        "log-every-n-steps": max(1, min(100, plan.samples_seen // plan.batch // 200)),
        "logs": os.path.dirname(plan.out),
        "name": os.path.basename(plan.out),
    }
    if training.beta2 is not None:
        found["beta2"] = training.beta2
    if len(plan.data) > 1:
        found["train-data-upsampling-factors"] = "::".join(f"{data.weight:g}" for data in plan.data)
    set_ones = ["dataset-resampled", "save-most-recent", "local-loss", "gather-with-grad", "ddp-static-graph"]
    if training.grad_checkpointing:
        set_ones.append("grad-checkpointing")
    return [*(f"--{name}={value}" for name, value in found.items()), *(f"--{name}" for name in set_ones)]


def command(plan: Plan, device: str) -> list[str]:
    """The trainer on this machine: a process, or as many as GPUs through torchrun."""
    launcher = [sys.executable]
    if plan.gpus > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={plan.gpus}"]
    return [*launcher, *_trainer(plan), "--follow-stdin", *flags(plan, device)]


def _trainer(plan: Plan) -> list[str]:
    return ["-m", "pipeline.trainer", "--", *([f"--config={plan.config_file}"] if plan.config_file else [])]


def slurm_script(plan: Plan, options: Sequence[str], data: str) -> str:
    """What `sbatch` takes: a process for each GPU, then train.json.

    Args:
        options: of sbatch's, such as --partition=gpu.
        data: as it was asked for.

    Raises:
        CurateError: an option would be more than a line.
    """
    for option in options:
        if not option.isprintable() or not option.startswith("-"):
            raise CurateError(f"--sbatch {printable(option)}: is no option on one line, but it becomes one of the "
                              f"script's #SBATCH lines. Give it as --sbatch=--partition=gpu.")  # fmt: skip
    asked = [
        f"--job-name=train-{plan.scale}",
        f"--nodes={plan.nodes}",
        f"--ntasks-per-node={plan.gpus}",
        f"--gpus-per-node={plan.gpus}",
        f"--cpus-per-task={plan.workers + 1}",
        f"--output={shlex.quote(os.path.join(plan.out, 'trainer.log'))}",
        "--open-mode=append",
        *options,
    ]
    again = ["train", f"--scale={plan.scale}", f"--data={data}", f"--model={plan.config_file or plan.training.model}",
             f"--samples-seen={plan.training.samples_seen}", f"--seed={plan.seed}",
             f"--workers={plan.workers}", f"--accum={plan.accum}", f"--out={plan.out}"]  # fmt: skip
    return "\n".join([
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in asked),
        "set -euo pipefail",
        f"cd {shlex.quote(os.getcwd())}",
        'export MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
        "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))",
        shlex.join(["srun", "--kill-on-bad-exit=1", sys.executable, *_trainer(plan), *flags(plan, "cuda")]),
        "# All parts are done, so this only reads the log and writes train.json.",
        shlex.join([sys.executable, "-m", "jobs.cli", *again]),
        "",
    ])  # fmt: skip
