"""open_clip's own trainer takes a few steps on the shards of a run."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("open_clip_train", reason="needs the extra: pip install '.[train]'")

#: A tower small enough for a few steps on a CPU.
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}

#: With webdataset >= 0.2.96 the trainer stops at KeyError 'fname' without the argument that is filled in here.
TRAIN = """
import functools, sys
import open_clip, open_clip_train.data as data
from open_clip_train.main import main
data.tar_file_expander = functools.partial(data.tar_file_expander, eof_value=None)
open_clip.add_model_config(sys.argv[1])
main(sys.argv[2:])
"""


@pytest.mark.slow
def test_the_trainer_trains_on_the_demo_pools_shards(curate, tmp_path):
    recipe = tmp_path / "all.yaml"
    recipe.write_text("name: all\nsteps: []\nshards: {samples: 100}\n")
    done = curate("--pool", "demo:400", "--recipe", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    samples = sum(json.loads((tmp_path / "run/shards/sizes.json").read_text()).values())
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/tiny.json").write_text(json.dumps(TINY))
    losses = train(tmp_path / "run/shards/{00000000..00000003}.tar", samples, tmp_path)
    assert len(losses) >= 2  # one line an epoch
    assert all(0 < loss < 10 for loss in losses)


def train(shards: pathlib.Path, samples: int, folder: pathlib.Path) -> list[float]:
    """Trains for two passes over the samples; the losses that the trainer logs."""
    command = [
        sys.executable,
        "-c",
        TRAIN,
        folder / "configs",
        "--model",
        "tiny",
        "--train-data",
        shards,
        "--dataset-type",
        "webdataset",
        "--train-num-samples",
        str(samples),
        "--batch-size",
        "32",
        "--epochs",
        "2",
        "--workers",
        "1",
        "--precision",
        "fp32",
        "--warmup",
        "2",
        "--lr",
        "1e-3",
        "--logs",
        folder / "logs",
        "--name",
        "few-steps",
        "--log-every-n-steps",
        "1",
    ]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return [float(loss) for loss in re.findall(r"Contrastive_loss: ([\d.]+)", done.stderr + done.stdout)]
