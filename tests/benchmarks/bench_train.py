"""`curate train --scale laptop` against open_clip's trainer called directly with the same flags.

Both are judged by the samples a second that the trainer's own log gives for each step, which is every line of a
training as short as this: a run's is the median of its steps after the first of the 5 parts. So start-up, which for
ours has the check of the shards besides, warming up, and the pauses at checkpoints are left out, and what is left says
what following the trainer costs it. The input is a drawn demo pool's shards.
"""

import json
import pathlib
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator

import measure

#: The trainer itself, with the argument without which it can't read tars by a webdataset of today.
_DIRECT = """
import functools, sys
import open_clip, open_clip_train.data as data
from open_clip_train.main import main
data.tar_file_expander = functools.partial(data.tar_file_expander, eof_value=None)
open_clip.add_model_config(sys.argv[1])
main(sys.argv[2:])
"""

#: Of a step: the number of its part, and samples a second.
_STEP = re.compile(r"Train Epoch: (\d+) .*?, ([\d.]+)/s, ")


def rate(log: str, first: int) -> float:
    """The median step's samples a second, from the part numbered `first` on."""
    return statistics.median(float(speed) for part, speed in _STEP.findall(log) if int(part) >= first)


def rows(scratch: pathlib.Path, number: int, size: int = 7680, images: int = 400) -> Iterator[measure.Row]:
    """The table's line.

    Args:
        scratch: where the input and the outputs lie meanwhile.
        number: of alternating runs.
        size: samples seen in each.
        images: of the demo pool.
    """
    from pipeline import training, training_flags

    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = pathlib.Path(name)
        (folder / "all.yaml").write_text(f"name: all\nsteps: []\nshards: {{samples: {images // 4}}}\n")
        words = ["--pool", f"demo:{images}", "--recipe", str(folder / "all.yaml"), "--out", str(folder / "run")]
        measure.run([sys.executable, "-m", "jobs.cli", *words])
        out = folder / "out"
        asked = training.Asked("laptop", str(folder / "run"), str(out), samples_seen=size, workers=1)
        planned = training.plan(asked)
        flags = training_flags.flags(planned, training.devices()[0])
        rates: list[float] = []
        steps: list[int] = []

        def measured(command: list[str]) -> measure.Cost:
            shutil.rmtree(out, ignore_errors=True)
            cost = measure.run(command)
            log = (out / "out.log").read_text()
            rates.append(rate(log, first=1))
            steps.append(len(_STEP.findall(log)))
            return cost

        def ours() -> measure.Cost:
            options = {"--scale": "laptop", "--data": asked.data, "--out": str(out), "--workers": "1",
                       "--samples-seen": str(size)}  # fmt: skip
            words = [word for pair in options.items() for word in pair]
            return measured([sys.executable, "-m", "jobs.cli", "train", *words])

        def direct() -> measure.Cost:
            configs = folder / "configs"
            configs.mkdir(exist_ok=True)
            (configs / f"{planned.training.model}.json").write_text(json.dumps(planned.config))
            return measured([sys.executable, "-c", _DIRECT, str(configs), *flags])

        found = measure.pairs(ours, direct, number)
    if set(steps) != {planned.samples_seen // planned.batch}:
        raise RuntimeError(f"the trainings logged {steps} steps, but all steps of each are to be compared.")
    ratio = statistics.median(a / b for a, b in zip(rates[::2], rates[1::2], strict=True))
    one, other = statistics.median(rates[::2]), statistics.median(rates[1::2])
    what, speeds = f"train on {size:,} samples", (f"{one:.0f} samples/s", f"{other:.0f} samples/s open_clip")
    yield measure.Row(what, *speeds, f"{ratio:.2f}", ">= 0.95", ratio >= 0.95, found.memory())
