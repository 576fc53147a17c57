"""`curate train --scale laptop` against open_clip's trainer called directly with the same flags.

Both are judged by the samples a second in the trainer's own logs, from the first line to the last: start-up, which for
ours has the check of the shards besides, is left out. So this says what following the trainer costs it. The input is a
drawn demo pool's shards.
"""

import json
import pathlib
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


def rows(scratch: pathlib.Path, number: int, size: int = 20_480, images: int = 1000) -> Iterator[measure.Row]:
    """The table's line.

    Args:
        scratch: where the input and the outputs lie meanwhile.
        number: of alternating runs.
        size: samples seen in each.
        images: of the demo pool.
    """
    from pipeline import training, training_flags
    from pipeline.trainer_log import Log

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
        losses: list[int] = []

        def measured(command: list[str]) -> measure.Cost:
            shutil.rmtree(out, ignore_errors=True)
            cost = measure.run(command)
            log = Log(str(out / "out.log"))
            rates.append(log.speed()[0] or 0.0)
            losses.append(len(log.entries))
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
    if len(set(losses)) != 1:
        raise RuntimeError(f"the trainings logged {losses} lines, but they are to be the same.")
    ratio = statistics.median(a / b if b else 1.0 for a, b in zip(rates[::2], rates[1::2], strict=True))
    one, other = statistics.median(rates[::2]), statistics.median(rates[1::2])
    what, speeds = f"train on {size:,} samples", (f"{one:.0f} samples/s", f"{other:.0f} samples/s open_clip")
    yield measure.Row(what, *speeds, f"{ratio:.2f}", ">= 0.95", ratio >= 0.95, found.memory())
