"""The trainer's command, by scale, against DataComp's table and the flags that its train.py gives."""

import dataclasses
import json
import math
import pathlib
import shlex
import subprocess

import pytest

from metadata.errors import CurateError
from pipeline import training_flags
from pipeline.scales import TRAININGS
from pipeline.training_data import Data
from pipeline.training_flags import Plan

#: Samples seen, model, batch, lr, warm-up, beta2. Source: DataComp (arXiv:2304.14108), its scale_configs.py.
TABLE = {
    "debug": (128_000, "ViT-B-32", 1024, 1e-4, 500, None),
    "small": (12_800_000, "ViT-B-32", 4096, 5e-4, 500, None),
    "medium": (128_000_000, "ViT-B-32", 4096, 5e-4, 500, None),
    "large": (1_280_000_000, "ViT-B-16", 8192, 5e-4, 500, None),
    "xlarge": (12_800_000_000, "ViT-L-14", 90_112, 1e-3, 10_000, 0.95),
}

RUNS = [
    Data("a", 1.0, "/runs/a/shards", {f"{n:08d}.tar": 10_000 for n in range(300)}, "0" * 64),
    Data("b", 2.5, "/runs/b/shards", {f"{n:08d}.tar": 5_000 for n in range(12)}, "1" * 64),
]


def planned(scale: str, data: list[Data], **changed) -> Plan:
    plan = Plan(
        scale=scale, training=TRAININGS[scale], config={}, config_file=None, data=data, seed=7, out="/out/name",
        gpus=8, nodes=1, workers=4, accum=1,
    )  # fmt: skip
    return dataclasses.replace(plan, **changed)


def parsed(flags: list[str]) -> dict[str, str | None]:
    """By name, without dashes; None for those without a value."""
    return {flag.partition("=")[0][2:]: flag.partition("=")[2] or None for flag in flags}


@pytest.mark.parametrize("scale", TABLE)
def test_the_flags_are_datacomps(scale):
    seen, model, batch, lr, warmup, beta2 = TABLE[scale]
    found = parsed(training_flags.flags(planned(scale, RUNS[:1]), "cuda"))
    how_often = int(found.pop("log-every-n-steps"))
    assert 1 <= how_often <= 100
    wanted = {
        "save-frequency": "0",
        "ddp-static-graph": None,
        "local-loss": None,
        "gather-with-grad": None,
        "grad-checkpointing": None,
        "train-data": "/runs/a/shards/{00000000..00000299}.tar",
        "train-num-samples": str(seen // 5),
        "warmup": str(warmup),
        "dataset-type": "webdataset",
        "precision": "amp",
        "workers": "4",
        "model": model,
        "batch-size": str(batch // 8),
        "epochs": "5",
        "lr": str(lr),
        "logs": "/out",
        "name": "name",
        "seed": "7",
        "accum-freq": "1",
        "save-most-recent": None,
        "resume": "latest",
        "dataset-resampled": None,
        "device": "cuda",  # not DataComp's: its trainer's default
    }
    assert found == wanted | ({"beta2": str(beta2)} if beta2 else {})


def test_every_scale_of_the_benchmark_is_there_and_one_for_laptops():
    assert set(TRAININGS) == {*TABLE, "laptop"}
    config = json.loads(pathlib.Path(TRAININGS["laptop"].model).read_text())
    assert config["vision_cfg"]["image_size"] <= 64


def test_runs_are_mixed_by_weight():
    plan = planned("small", RUNS)
    found = parsed(training_flags.flags(plan, "cuda"))
    assert found["train-data"] == "/runs/a/shards/{00000000..00000299}.tar::/runs/b/shards/{00000000..00000011}.tar"
    assert found["train-data-upsampling-factors"] == "1::2.5"
    a, b = (plan.passes(data) for data in RUNS)
    assert b == pytest.approx(2.5 * a)
    assert a * 3_000_000 + b * 60_000 == pytest.approx(plan.samples_seen)


def test_full_precision_on_a_cpu():
    found = parsed(training_flags.flags(planned("debug", RUNS[:1], gpus=1), "cpu"))
    assert (found["precision"], found["device"], found["batch-size"]) == ("fp32", "cpu", "1024")


@pytest.mark.parametrize(("gpus", "nodes", "accum"), [(1, 1, 1), (8, 1, 2), (8, 4, 1)])
def test_the_batch_is_the_scales_on_any_number_of_devices(gpus, nodes, accum):
    plan = planned("large", RUNS[:1], gpus=gpus, nodes=nodes, accum=accum)
    found = parsed(training_flags.flags(plan, "cuda"))
    assert int(found["batch-size"]) * int(found["accum-freq"]) * gpus * nodes == 8192


@pytest.mark.parametrize(("workers", "accum"), [(1, 1), (4, 1), (3, 2)])
def test_samples_seen_are_counted_as_the_trainer_rounds_them(workers, accum):
    plan = planned("small", RUNS[:1], workers=workers, accum=accum)
    # open_clip_train.data.get_wds_dataset, restated
    global_batch = 4096 // 8 // accum * 8
    batches = math.ceil(math.ceil(12_800_000 // 5 / global_batch) / workers) * workers
    assert plan.samples_seen == 5 * batches * global_batch
    assert plan.samples_seen >= 12_800_000


def test_a_training_is_another_where_its_schedule_is():
    plan = planned("small", RUNS[:1])
    now = plan.identity()
    for workers, accum in (8, 2), (2, 1):  # the first is what half the GPUs may need
        assert (planned("small", RUNS[:1], workers=workers, accum=accum).identity() == now) == (workers == 8)


def test_several_gpus_go_through_torchrun():
    words = training_flags.command(planned("small", RUNS[:1]), "cuda")
    launcher = words[1 : words.index("--")]
    assert launcher == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=8", "-m", "pipeline.trainer"]
    alone = training_flags.command(planned("small", RUNS[:1], gpus=1), "cuda")
    assert alone[1 : alone.index("--")] == ["-m", "pipeline.trainer"]


def test_the_slurm_script_starts_a_process_for_each_gpu_and_then_finishes():
    plan = planned("medium", RUNS[:1], nodes=4, out="/out/with space", config_file="/c/my-vit.json")
    script = training_flags.slurm_script(plan, ["--partition=gpu", "--time=24:00:00"], "a")
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    for option in ("--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--partition=gpu", "--time=24:00:00"):
        assert f"#SBATCH {option}" in lines
    (srun,) = (shlex.split(line) for line in lines if line.startswith("srun "))
    flags = parsed(srun[srun.index("--config=/c/my-vit.json") + 1 :])
    assert flags == parsed(training_flags.flags(plan, "cuda"))
    assert int(flags["batch-size"]) * 32 == 4096
    last = shlex.split(lines[-1])
    assert last[1:4] == ["-m", "jobs.cli", "train"]
    assert {"--scale=medium", "--data=a", "--model=/c/my-vit.json", "--out=/out/with space"} <= set(last)
    assert {"--workers=4", "--accum=1"} <= set(last)  # or it would be another training
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("option", ["--x\nrm -rf /", "partition=gpu"])
def test_an_sbatch_option_is_one_line(option):
    with pytest.raises(CurateError, match="no option on one line"):
        training_flags.slurm_script(planned("small", RUNS[:1]), [option], "a")
