"""DataComp's training of a scale's model, done by open_clip's own trainer in a process of its own.

    OUT/model.json                    the model's open_clip config
    OUT/checkpoints/epoch_latest.pt   its newest weights, and what a killed training goes on from
    OUT/train.json                    what was trained on what, how, and the losses; written last
    OUT/loss.svg                      the losses as a curve
    OUT/out.log, params.txt           the trainer's log and parameters; trainer.log, all that it printed
    OUT/run.json                      what was asked for
    OUT/train.sbatch                  for Slurm: the script to submit

A training that is done again with the same seed is not the same to the last bit, nor is one that was killed and went
on: the first weights and the shards that are drawn are, but the trainer shuffles samples by the clock, and cuts images
out at random.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from metadata.errors import CurateError, printable, reason, unknown
from pipeline import folder, manifest, models, storage, training_data, training_flags
from pipeline.progress import Line
from pipeline.scales import TRAININGS
from pipeline.trainer_log import Log, picture
from pipeline.training_flags import Plan

#: Seconds between two looks at the trainer, and the lines of what it printed that are shown when it fails.
_LOOK_S, _LAST_LINES = 0.5, 12

#: The line with which a printed traceback says what was raised, but for torchrun's, which says that a process failed.
_RAISED = re.compile(r"(\[rank\d+\]: )?(?!torch\.distributed\.elastic\.)[\w.]+(Error|Exception|Interrupt)(:|$)")

#: Bytes that a disk which isn't full has room for.
_ROOM = 1 << 20

_PACKAGES = ("clip-curate", "open_clip_torch", "torch", "torchvision", "timm", "webdataset", "pillow", "numpy")


@dataclasses.dataclass(frozen=True)
class Asked:
    """A training.

    Attributes:
        scale: among TRAININGS.
        data: runs, as `training_data.open_all` takes them.
        out: a local folder.
        model: None for the scale's own.
        samples_seen: None for the scale's own.
        seed: of the first weights and of the shards that are drawn.
        gpus: on each machine, each with a process; without a GPU processes share the cores.
        nodes: machines; more than one only through Slurm.
        workers: processes that read for each of these; None for as many as there are cores and shards, but 4 at most.
        accum: parts that a batch is computed in, to save memory.
        sbatch: None, or options of a Slurm script, which is written instead.
    """

    scale: str
    data: str
    out: str
    model: str | None = None
    samples_seen: int | None = None
    seed: int = 0
    gpus: int = 1
    nodes: int = 1
    workers: int | None = None
    accum: int = 1
    sbatch: tuple[str, ...] | None = None


def plan(asked: Asked) -> Plan:
    """What the training will be; nothing is written, and no tar is read.

    Raises:
        CurateError: an unknown scale or model, data that can't be trained on, or numbers that don't fit together.
    """
    if asked.scale not in TRAININGS:
        raise unknown("scale", asked.scale, TRAININGS, where="--scale")
    if not storage.is_local(asked.out):
        raise CurateError(f"--out {printable(asked.out)}: is an address, but the trainer writes to a local folder. "
                          f"Give one.")  # fmt: skip
    if asked.nodes > 1 and asked.sbatch is None:
        raise CurateError(f"--nodes {asked.nodes}: is given without --slurm, but this machine is one node. Add --slurm "
                          f"for a script that Slurm runs on {asked.nodes}.")  # fmt: skip
    training = TRAININGS[asked.scale]
    given = asked.model or training.model
    name, config, own = model_config(given)
    data = training_data.open_all(asked.data)
    processes, shards = asked.gpus * asked.nodes, sum(len(one.sizes) for one in data)
    if training.batch % (processes * asked.accum):
        raise CurateError(f"--scale {asked.scale}: its batch of {training.batch:,} can't be cut into {processes} "
                          f"times {asked.accum} parts, but it is the scale's. Give fewer --gpus.")  # fmt: skip
    if shards < processes:
        raise CurateError(f"--data: has {shards} shards, but each of {processes} GPUs reads others. Let `curate "
                          f"reshard --samples N` make smaller ones, or give fewer --gpus.")  # fmt: skip
    if shards < processes * (asked.workers or 1):
        raise CurateError(f"--workers {asked.workers}: is given, but of the {shards} shards each worker of each GPU "
                          f"reads others. Give --workers {shards // processes}, or let `curate reshard --samples N` "
                          f"make smaller ones.")  # fmt: skip
    if not 0 <= asked.seed < 1 << 31:
        raise CurateError(f"--seed {asked.seed}: lies outside of 0 to 2**31 - 1, but the trainer's must not. Give 0.")
    training = dataclasses.replace(training, model=name, samples_seen=asked.samples_seen or training.samples_seen)
    workers = asked.workers or min(4, os.cpu_count() or 1, shards // processes)
    made = Plan(
        scale=asked.scale, training=training, config=config, config_file=own, data=data, seed=asked.seed,
        out=os.path.abspath(asked.out), gpus=asked.gpus, nodes=asked.nodes, workers=workers, accum=asked.accum,
    )  # fmt: skip
    if made.samples_a_part < made.batch:
        raise CurateError(f"--samples-seen {training.samples_seen:,}: is too few, but each of the scale's "
                          f"{training.checkpoints} parts has a step of {made.batch:,}. Give "
                          f"{made.batch * training.checkpoints:,} for one each.")  # fmt: skip
    return made


def model_config(given: str) -> tuple[str, dict[str, Any], str | None]:
    """The model's name, its config, and the file that it is in, unless open_clip knows it by its name."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None or importlib.util.find_spec("open_clip_train") is None:
        raise CurateError("curate train: the package open_clip_torch is not installed, but it does the training. "
                          "Run: pip install 'clip-curate[train]'")  # fmt: skip
    configs = os.path.join(os.path.dirname(spec.origin), "model_configs")
    own = os.path.abspath(given) if given.endswith(".json") else None
    name = os.path.basename(given).removesuffix(".json")
    if own is None and f"{given}.json" not in os.listdir(configs):
        raise models.unknown_name(given, [file.removesuffix(".json") for file in storage.names(configs)])
    path = own or os.path.join(configs, f"{given}.json")
    try:
        config = storage.read_json(path)
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(config)
    except FileNotFoundError:
        raise CurateError(f"--model {printable(given)}: is no file, but a model's config is needed. Give its path, "
                          f"or a name of open_clip's.") from None  # fmt: skip
    except (ValueError, TypeError, RecursionError) as error:
        raise CurateError(f"--model {printable(given)}: is no JSON ({reason(error)}), but a model's config is needed. "
                          f"Look at it.") from error  # fmt: skip
    if missing:
        raise CurateError(f"--model {printable(given)}: lacks {', '.join(sorted(missing))}, but a model has embed_dim, "
                          f"vision_cfg and text_cfg. Look at it.")  # fmt: skip
    return name, config, own


def train(asked: Asked, planned: Plan, overwrite: bool = False) -> dict[str, Any] | None:
    """Trains, or goes on where it stopped; gives what train.json says, with "nothing_to_do" if it was there.

    Args:
        overwrite: remove what another training left in the folder.

    Returns:
        None where a Slurm script was written instead.

    Raises:
        CurateError: a shard is cut, damaged or another than sizes.json says; the folder is another training's; the
            trainer failed, or its loss is no number any more; train.json or params.txt is damaged.
    """
    out = planned.out
    with folder.claim(out, planned.identity(), overwrite):
        record = os.path.join(out, "train.json")
        if os.path.exists(record):
            return read_record(record) | {"nothing_to_do": True}
        log = Log(os.path.join(out, "out.log"))
        if _epochs_done(planned) < planned.training.checkpoints:
            training_data.check(planned.data)
            storage.write_json(os.path.join(out, models.CONFIG), planned.config)
            if asked.sbatch is not None:
                script = training_flags.slurm_script(planned, asked.sbatch, asked.data)
                storage.write(os.path.join(out, "train.sbatch"), script.encode())
                return None
            _train(planned, log)
        if not log.entries:
            raise CurateError(f"{log.path}: is gone or has no losses, but without them nobody knows whether the "
                              f"training went well. Put it back, or give --overwrite to begin again.")  # fmt: skip
        _check_loss(planned, log)
        storage.write_json(record, _record(planned, log))
        return storage.read_json(record)


def read_record(path: str) -> dict[str, Any]:
    """A finished training's train.json, with all that is read of it in place.

    Raises:
        CurateError: it is something else, or damaged.
    """
    try:
        record = storage.read_json(path)
        texts = [record[name] for name in ("scale", "model", "weights_sha256", "device", "precision")]
        texts += [data["sha256"] for data in record["data"]]
        float(record["loss"][-1][1]), float(record["samples_per_second"] or 0)
        if not all(isinstance(text, str) for text in texts) or record["finished"] is not True:
            raise TypeError("a name is something else")
        TRAININGS[record["scale"]]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise CurateError(f"{path}: is not what `curate train` writes ({type(error).__name__}: {reason(error)}), but "
                          f"that is needed. Give the folder of a training; if it is one, remove this file and run its "
                          f"command again.") from error  # fmt: skip
    return record


def devices() -> tuple[str, int]:
    """`cuda` and the number of GPUs, or `cpu` and 0."""
    import torch

    count = torch.cuda.device_count()
    return ("cuda", count) if count else ("cpu", 0)


def _epochs_done(planned: Plan) -> int:
    """How many parts of the training the newest checkpoint has behind it."""
    path = os.path.join(planned.out, models.WEIGHTS)
    if not os.path.exists(path):
        return 0
    import torch

    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["epoch"])
    except Exception as error:  # torch raises a dozen kinds on what is no checkpoint
        raise CurateError(f"{path}: can't be read ({reason(error)}), but the training would go on from it. Give "
                          f"--overwrite to begin again.") from error  # fmt: skip


def _train(planned: Plan, log: Log) -> None:
    """Runs the trainer until it is done, and follows its log."""
    device, count = devices()
    if count and planned.gpus > count:
        raise CurateError(f"--gpus {planned.gpus}: this machine has {count}, but each process trains on one of its "
                          f"own. Give --gpus {count}.")  # fmt: skip
    printed = os.path.join(planned.out, "trainer.log")
    with Line("training", "samples", planned.samples_seen, _epochs_done(planned) * planned.samples_a_part) as line:
        with open(printed, "wb") as file, _running(training_flags.command(planned, device), file) as process:
            code = None
            while code is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(_LOOK_S)
                _show(planned, log, line)
        if code or _epochs_done(planned) < planned.training.checkpoints:
            raise _failure(planned, printed, code)
        line.show(planned.samples_seen, last=True)


@contextlib.contextmanager
def _running(command: Sequence[str], printed: Any) -> Any:
    """The trainer while the block lasts: it ends with it, and with this process, however that ends."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=printed, stderr=subprocess.STDOUT, process_group=0
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # checkpoints appear whole or not at all
        process.wait()


def _show(planned: Plan, log: Log, line: Line) -> None:
    if log.read():
        _check_loss(planned, log)
        line.show(log.entries[-1].samples, f"loss {log.entries[-1].loss:.3f}")


def _check_loss(planned: Plan, log: Log) -> None:
    """Raises CurateError if the training has gone wrong; once it has, it doesn't come back."""
    if log.entries and not math.isfinite(log.entries[-1].loss):
        raise CurateError(f"{planned.out}: the loss is no number any more at step "
                          f"{log.entries[-1].samples // planned.batch:,}, but weights are made of it. Give another "
                          f"--seed, and --overwrite.")  # fmt: skip


def _failure(planned: Plan, printed: str, code: int) -> CurateError:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    try:
        with storage.scratch(planned.out) as file:
            file.write(os.urandom(_ROOM))
    except OSError as error:  # of which torch says no more than that a position in a checkpoint is unexpected
        return CurateError(f"{planned.out}: the trainer {how}, and nothing can be written there any more "
                           f"({error.strerror}), but checkpoints must be. Make room, then run the same command again "
                           f"to go on from the last one.")  # fmt: skip
    lines = storage.read(printed).decode("utf-8", "replace").splitlines()
    raised = [number for number, line in enumerate(lines) if _RAISED.match(line)]
    last = lines[raised[-1] :][:_LAST_LINES] if raised else lines[-_LAST_LINES:]
    shown = "\n".join(f"    {printable(line.expandtabs(4), 300)}" for line in last)
    return CurateError(f"{planned.out}: the trainer {how}, but the training is not done. Look at {printed}, which has "
                       f"the following, then run the same command again to go on from the last checkpoint:\n{shown}"
                       )  # fmt: skip


def _record(planned: Plan, log: Log) -> dict[str, Any]:
    """train.json; draws the curve too."""
    losses = [(entry.samples // planned.batch, entry.loss) for entry in log.entries]
    drawn = picture(losses, f"{planned.training.model} on {', '.join(data.run for data in planned.data)}")
    storage.write(os.path.join(planned.out, "loss.svg"), drawn)
    rate, seconds = log.speed()
    return {
        "scale": planned.scale,
        "model": planned.training.model,
        "samples_seen": planned.training.samples_seen,
        "samples_seen_in_whole_batches": planned.samples_seen,
        "batch": planned.batch,
        "lr": planned.training.lr,
        "warmup": planned.training.warmup,
        **_used(planned),
        "checkpoints": planned.training.checkpoints,
        "seed": planned.seed,
        # What was resharded is looked up there again, wherever a submission is made from.
        "data": [{"run": os.path.abspath(data.run) if storage.is_local(data.run) else data.run} | data.record()
                 for data in planned.data],
        "versions": manifest.versions(_PACKAGES),
        "loss": losses,
        "samples_per_second": rate,
        "seconds": seconds,
        "finished": True,
        "weights_sha256": storage.sha256(os.path.join(planned.out, models.WEIGHTS)),
    }


def _used(planned: Plan) -> dict[str, Any]:
    """What the trainer wrote of how it trained."""
    path = os.path.join(planned.out, "params.txt")
    try:
        params = dict(line.partition(": ")[::2] for line in storage.read(path).decode().splitlines())
        return {
            "beta2": float(params["beta2"]),
            "precision": params["precision"],
            "device": params["device"].partition(":")[0],
            "processes": int(params["world_size"]),
            "workers": int(params["workers"]),
        }
    except (ValueError, LookupError) as error:
        raise CurateError(f"{path}: is not what the trainer writes ({type(error).__name__}: {reason(error)}), but it "
                          f"says how the model was trained. Put it back, or give --overwrite to begin again."
                          ) from error  # fmt: skip
