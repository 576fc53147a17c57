"""`curate train`: real trainings of a tiny model on a demo pool's shards, and what is refused before one begins."""

import hashlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tiny_model

pytest.importorskip("open_clip_train", reason="needs the extra: pip install '.[train]'")

pytestmark = pytest.mark.slow  # the environment of the fast tests has no extras

#: Of a training that is killed now and then: a few steps in each of its 5 parts.
SAMPLES = 3840

OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", "train", *map(str, args)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A finished run of the demo pool, in 4 shards."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "all.yaml").write_text("name: all\nsteps: []\nshards: {samples: 40}\n")
    (folder / "tiny-vit.json").write_text(json.dumps(tiny_model.TO_TRAIN))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "jobs.cli",
            "--pool",
            "demo:160",
            "--recipe",
            folder / "all.yaml",
            "--out",
            folder / "run",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def train(run, tmp_path):
    """train(*args) -> the finished process, of a tiny model on `run` into tmp_path/out."""

    def start(*args: object, data: object = run, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            command(*usual(run, tmp_path, data), *args),
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | OFFLINE | (env or {}),
        )

    return start


def usual(run: pathlib.Path, folder: pathlib.Path, data: object) -> list[object]:
    model = run.parent / "tiny-vit.json"
    return ["--scale", "laptop", "--model", model, "--samples-seen", 640, "--workers", 1, "--data", data,
            "--out", folder / "out"]  # fmt: skip


def record_of(folder: pathlib.Path) -> dict:
    return json.loads((folder / "out/train.json").read_text())


def test_a_training_leaves_a_model_that_opens_and_a_record(run, train, tmp_path):
    done = train("--seed", 3, data=os.path.relpath(run))  # and the record has where that is, from everywhere
    assert done.returncode == 0, done.stderr
    samples = sum(json.loads((run / "shards/sizes.json").read_text()).values())
    assert f"each seen {640 / samples:,.2f} times" in done.stdout
    assert "warning: laptop is for trying things" in done.stderr
    record = record_of(tmp_path)
    weights = tmp_path / "out/checkpoints/epoch_latest.pt"
    assert record["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    wanted = {
        "scale": "laptop", "model": "tiny-vit", "samples_seen": 640, "samples_seen_in_whole_batches": 640,
        "batch": 128, "lr": 3e-3, "warmup": 100, "beta2": 0.98, "precision": "fp32", "checkpoints": 5, "seed": 3,
        "device": "cpu", "processes": 1, "workers": 1, "finished": True,
    }  # fmt: skip
    assert {name: record[name] for name in wanted} == wanted
    manifest = hashlib.sha256((run / "manifest.json").read_bytes()).hexdigest()
    assert record["data"] == [{"run": str(run), "weight": 1.0, "samples": samples, "shards": 4, "sha256": manifest}]
    steps, losses = zip(*record["loss"], strict=True)
    assert steps == (1, 2, 3, 4, 5)
    assert all(0 < loss < 10 for loss in losses)
    assert b"contrastive loss" in (tmp_path / "out/loss.svg").read_bytes()
    check_opens(tmp_path / "out", weights)
    before = weights.stat().st_mtime_ns
    again = train("--seed", 3)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert weights.stat().st_mtime_ns == before
    other = train("--seed", 4)
    assert other.returncode == 1
    assert "holds another run (seed was 3, now 4)" in other.stderr


def check_opens(folder: pathlib.Path, weights: pathlib.Path) -> None:
    """The folder opens as a model, and its weights are the trained ones."""
    import torch

    from pipeline.models import open_model

    model = open_model(str(folder))
    trained = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    opened = model.network.state_dict()
    assert trained.keys() == opened.keys()
    assert all(torch.equal(trained[name], opened[name]) for name in trained)
    assert model.encode_texts(["a cat"]).shape == (1, 32)


def start_until(tmp_path: pathlib.Path, run: pathlib.Path, *, epoch: int) -> subprocess.Popen:
    """A training under way, that has written to its log in that part."""
    args = [*usual(run, tmp_path, run), "--samples-seen", SAMPLES]
    log = tmp_path / "out/out.log"
    before = log.stat().st_size if log.exists() else 0
    process = subprocess.Popen(
        command(*args), env=os.environ | OFFLINE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + 200
    while not (log.exists() and f"Train Epoch: {epoch} [" in log.read_text()[before:]):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


def trainers(folder: pathlib.Path) -> list[int]:
    """Processes that train into that folder."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"pipeline.trainer" in words and f"--logs={folder}".encode() in words:
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes in /proc")
def test_a_killed_training_goes_on_from_its_last_checkpoint(run, train, tmp_path):
    process = start_until(tmp_path, run, epoch=1)
    for pid in trainers(tmp_path):
        os.kill(pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the trainer was killed by SIGKILL, but the training is not done" in said
    process = start_until(tmp_path, run, epoch=2)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    assert not trainers(tmp_path)
    process = start_until(tmp_path, run, epoch=2)
    process.kill()  # the command itself: its trainer ends with it
    process.communicate(timeout=60)
    end = time.monotonic() + 30
    while trainers(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.05)
    done = train("--samples-seen", SAMPLES)
    assert done.returncode == 0, done.stderr
    steps = [step for step, _ in record_of(tmp_path)["loss"]]
    assert steps == list(range(1, SAMPLES // 128 + 1))
    log = (tmp_path / "out/out.log").read_text()
    assert log.count("=> resuming checkpoint") == 3


def test_two_processes_train_through_torchrun_and_runs_are_mixed(run, train, tmp_path):
    done = train("--gpus", 2, "--accum", 2, data=f"{run}:3,{run}/shards")
    assert done.returncode == 1
    assert "given twice" in done.stderr
    (tmp_path / "other").symlink_to(run)
    done = train("--gpus", 2, data=f"{run}:3,{tmp_path}/other")
    assert done.returncode == 0, done.stderr
    record = record_of(tmp_path)
    assert (record["processes"], record["batch"]) == (2, 128)
    assert [data["weight"] for data in record["data"]] == [3.0, 1.0]
    assert [step for step, _ in record["loss"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("planted", ["garbage", "another model's"])
def test_a_checkpoint_that_doesnt_fit_is_never_passed_over(train, tmp_path, planted):
    import torch

    assert train("--slurm").returncode == 0  # makes the folder a training's
    weights = tmp_path / "out/checkpoints/epoch_latest.pt"
    weights.parent.mkdir()
    if planted == "garbage":
        weights.write_bytes(b"garbage")
    else:
        torch.save({"epoch": 2, "state_dict": {"visual.proj": torch.zeros(1)}, "optimizer": {}}, weights)
    done = train()
    assert done.returncode == 1
    if planted == "garbage":
        assert "can't be read" in done.stderr
    else:  # what the trainer says is handed on
        assert "the trainer ended with exit code 1, but the training is not done" in done.stderr
        assert "\n    RuntimeError: Error(s) in loading state_dict for CLIP:\n        Missing key(s) in" in done.stderr
        assert "TorchDynamo" not in (tmp_path / "out/trainer.log").read_text()
    assert not (tmp_path / "out/train.json").exists()


def test_a_training_that_went_wrong_is_not_finished_by_asking_again(train, tmp_path):
    import torch

    assert train("--slurm").returncode == 0  # makes the folder a training's
    weights = tmp_path / "out/checkpoints/epoch_latest.pt"
    weights.parent.mkdir()
    torch.save({"epoch": 5, "state_dict": {"visual.proj": torch.full((1,), torch.nan)}}, weights)
    line = "2026-01-01,00:00:00 | INFO | Train Epoch: 4 [128/128 (100%)] Data (t): 0.1 Loss: nan (nan)\n"
    (tmp_path / "out/out.log").write_text(line)
    done = train()
    assert done.returncode == 1
    assert "the loss is no number any more at step 5" in done.stderr
    assert not (tmp_path / "out/train.json").exists()


@pytest.mark.parametrize("text", ["{", "{}", "[]", "[" * 100_000, '{"loss": []}'])
def test_a_damaged_record_is_named(said, tmp_path, text):
    assert said("--slurm")[0] == 0  # makes the folder a training's
    (tmp_path / "out/train.json").write_text(text)
    code, _, err = said()
    assert code == 1
    assert f"{tmp_path}/out/train.json: is not what `curate train` writes (" in err


def test_a_training_whose_log_is_gone_is_not_called_finished(said, tmp_path):
    import torch

    assert said("--slurm")[0] == 0  # makes the folder a training's
    weights = tmp_path / "out/checkpoints/epoch_latest.pt"
    weights.parent.mkdir()
    torch.save({"epoch": 5, "state_dict": {}}, weights)
    for _ in range(2):
        code, _, err = said()
        assert code == 1
        assert f"{tmp_path}/out/out.log: is gone or has no losses, but" in err
        assert not (tmp_path / "out/train.json").exists()


@pytest.mark.parametrize("text", [b"", b"beta2: 0.98\n", b"\xff", b"beta2: x\nprecision: fp32"])
def test_damaged_parameters_of_the_trainer_are_named(said, tmp_path, text):
    import torch

    assert said("--slurm")[0] == 0  # makes the folder a training's
    weights = tmp_path / "out/checkpoints/epoch_latest.pt"
    weights.parent.mkdir()
    torch.save({"epoch": 5, "state_dict": {}}, weights)
    line = "2026-01-01,00:00:00 | INFO | Train Epoch: 4 [128/128 (100%)] Data (t): 0.1 Loss: 4.8 (4.8)\n"
    (tmp_path / "out/out.log").write_text(line)
    (tmp_path / "out/params.txt").write_bytes(text)
    code, _, err = said()
    assert code == 1
    assert f"{tmp_path}/out/params.txt: is not what the trainer writes (" in err
    assert not (tmp_path / "out/train.json").exists()


def test_fewer_shards_than_workers_are_refused(said):
    code, _, err = said("--workers", 5)
    assert code == 1
    assert "--workers 5: is given, but of the 4 shards each worker of each GPU reads others" in err


def test_a_dry_run_prints_the_command_and_writes_nothing(run, train, tmp_path):
    done = train("--dry-run", "--scale", "small", "--samples-seen", 12_800_000, "--workers", 4)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[1:4] == ["-m", "pipeline.trainer", "--"]
    assert {"--train-num-samples=2560000", "--epochs=5", "--lr=0.0005", "--warmup=500", "--workers=4"} <= set(words)
    assert "warning: model tiny-vit is not the scale's, but a submission needs ViT-B-32" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def said(run, tmp_path, told):
    """said(*args) -> as `told` has it, of a training on `run` into tmp_path/out."""
    return lambda *args: told("train", *usual(run, tmp_path, run), *args)


@pytest.mark.parametrize("name", ["ViTamin-L", "MobileCLIP2-S0"])
def test_any_model_of_open_clips_can_be_trained(said, tmp_path, name):
    code, _, err = said("--slurm", "--model", name)
    assert code == 0, err
    assert f"--model={name} " in (tmp_path / "out/train.sbatch").read_text()
    assert "timm_model_name" in (tmp_path / "out/model.json").read_text()


def test_a_slurm_script_is_written_and_nothing_is_trained(said, tmp_path):
    code, out, err = said("--slurm", "--nodes", 2, "--gpus", 2, "--sbatch=--partition=gpu")
    assert code == 0, err
    assert "#SBATCH --nodes=2" in (tmp_path / "out/train.sbatch").read_text()
    assert f"sbatch {tmp_path}/out/train.sbatch" in out
    assert not (tmp_path / "out/out.log").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "ViT-B-33"], "unknown model 'ViT-B-33'. Did you mean 'ViT-B-32'?"),
        (["--model", "nowhere.json"], "is no file, but a model's config is needed"),
        (["--gpus", "3"], "its batch of 128 can't be cut into 3"),
        (["--gpus", "8"], "has 4 shards, but each of 8 GPUs reads others"),
        (["--nodes", "2"], "--nodes 2: is given without --slurm"),
        (["--sbatch=--x"], "--sbatch: is given without --slurm"),
        (["--seed", "-1"], "--seed -1: lies outside"),
        (["--samples-seen", "4"], "--samples-seen 4: is too few, but each of the scale's 5 parts has a step of 128."),
        (["--out", "s3://bucket/out"], "is an address, but the trainer writes to a local folder"),
    ],
)
def test_what_cant_be_is_said_before_anything_is_written(said, tmp_path, args, words):
    code, _, err = said(*args)
    assert code == 1
    assert words in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "words"), [("{", "is no JSON"), ("[]", "lacks"), ('{"embed_dim": 3}', "lacks")])
def test_a_config_that_is_no_models(said, tmp_path, text, words):
    (tmp_path / "my-vit.json").write_text(text)
    code, _, err = said("--model", tmp_path / "my-vit.json")
    assert code == 1
    assert words in err


def test_a_cut_shard_is_named_and_nothing_is_trained(said, run, tmp_path):
    shutil.copytree(run, tmp_path / "cut")
    tar = tmp_path / "cut/shards/00000002.tar"
    tar.write_bytes(tar.read_bytes()[:-1024])
    code, _, err = said("--data", tmp_path / "cut")
    assert code == 1
    assert "00000002.tar" in err
    assert "cut off" in err
    assert not (tmp_path / "out/out.log").exists()


def test_a_foreign_folder_stays_as_it_is(said, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    code, _, err = said("--overwrite")
    assert code == 1
    assert "holds mine.txt but no run" in err


def test_another_training_is_replaced_only_when_asked(said, tmp_path):
    assert said("--slurm")[0] == 0
    code, _, err = said("--slurm", "--seed", 1)
    assert code == 1
    assert "holds another run (seed was 0, now 1)" in err
    code, _, err = said("--slurm", "--workers", 2)
    assert code == 1
    assert "holds another run (samples_a_part was 128, now 256: give --workers N and --accum N as before)" in err
    assert said("--slurm", "--seed", 1, "--overwrite")[0] == 0
    assert "--seed=1 " in (tmp_path / "out/train.sbatch").read_text()
