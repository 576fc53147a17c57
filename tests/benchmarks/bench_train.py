"""`curate train --scale laptop` against open_clip's trainer called directly with the same flags.

Both train at the same time, each on a core of its own, and change cores from pair to pair: on a machine whose speed
comes and goes, two trainings one after the other differ by more than what is to be measured. They are judged by the
samples a second that the trainer's own log gives for each step, which is every line of a training as short as this: a
run's is the median of its steps after the first of the 5 parts. So start-up, which for ours has the check of the shards
besides, warming up, and the pauses at checkpoints are left out, and what is left says what following the trainer costs
it. The input is a drawn demo pool's shards.
"""

import dataclasses
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
        number: of pairs of runs.
        size: samples seen in each.
        images: of the demo pool.
    """
    from pipeline import training, training_flags

    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = pathlib.Path(name)
        (folder / "all.yaml").write_text(f"name: all\nsteps: []\nshards: {{samples: {images // 4}}}\n")
        words = ["--pool", f"demo:{images}", "--recipe", str(folder / "all.yaml"), "--out", str(folder / "run")]
        measure.run([sys.executable, "-m", "jobs.cli", *words])
        asked = training.Asked("laptop", str(folder / "run"), str(folder / "ours"), samples_seen=size, workers=1)
        planned = training.plan(asked)
        configs = folder / "configs"
        configs.mkdir()
        (configs / f"{planned.training.model}.json").write_text(json.dumps(planned.config))
        direct_plan = dataclasses.replace(planned, out=str(folder / "direct"))
        commands = {
            "ours": [sys.executable, "-m", "jobs.cli", "train", "--scale=laptop", f"--data={asked.data}",
                     f"--out={asked.out}", "--workers=1", f"--samples-seen={size}"],
            "direct": [sys.executable, "-c", _DIRECT, str(configs), *training_flags.flags(direct_plan, "cpu")],
        }  # fmt: skip
        found: dict[str, list[tuple[float, measure.Cost]]] = {"ours": [], "direct": []}

        def trained(name: str, core: int) -> None:
            cost = measure.run([*measure.on_core(core), *commands[name]], {"CUDA_VISIBLE_DEVICES": ""})
            log = (folder / name / "out.log").read_text()
            if (steps := len(_STEP.findall(log))) != planned.samples_seen // planned.batch:
                raise RuntimeError(f"{name}: logged {steps} steps, but all steps are to be compared.")
            found[name].append((rate(log, first=1), cost))

        for each in range(number):
            measure.side_by_side(trained, found, each)
            for name in found:
                shutil.rmtree(folder / name)
    rates = {name: [rate for rate, _ in runs] for name, runs in found.items()}
    costs = measure.Pairs(*([cost for _, cost in runs] for runs in found.values()))
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["direct"], strict=True))
    one, other = (statistics.median(values) for values in rates.values())
    what, speeds = f"train on {size:,} samples", (f"{one:.0f} samples/s", f"{other:.0f} samples/s open_clip")
    yield measure.Row(what, *speeds, f"{ratio:.2f}", ">= 0.95", ratio >= 0.95, costs.memory())
