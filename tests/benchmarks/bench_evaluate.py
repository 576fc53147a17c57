"""Evaluating on the demo world's classification tasks: the command against clip-benchmark's way, both as processes."""

import json
import pathlib
import sys
from collections.abc import Iterator

import tiny_model
from measure import Row, pairs, run

HERE = pathlib.Path(__file__).parent
KEYS = ("demo/objects", "demo/colours", "demo/concepts")


def rows(scratch: pathlib.Path, number: int, size: int = 4000) -> Iterator[Row]:
    """The table's line: whole commands, start-up included.

    Args:
        scratch: a folder for the sets and the model, which stay.
        number: of alternating runs.
        size: images of each of the three tasks, a multiple of 400.
    """
    model, sets = make(scratch, size)
    out = scratch / "evaluate.jsonl"
    ours = [sys.executable, "-m", "jobs.cli", "evaluate", "--model", str(model), "--tasks", str(sets / "three.yml"),
            "--data", str(sets), "--out", str(out), "--overwrite"]  # fmt: skip
    peer = [sys.executable, str(HERE / "peer_clip_benchmark.py"), str(model), str(sets), *KEYS]
    found = pairs(lambda: run(ours), lambda: run(peer), number)
    check_equal(out, found.other[-1].output)
    (a, b), images = found.wall_s(), len(KEYS) * size
    yield Row(f"evaluate 3 tasks, {images:,} images", f"{a:.1f} s, {images / a:,.0f} images/s",
              f"{b:.1f} s clip-benchmark's way", f"{found.ratio():.2f}", ">= 1", found.ratio() >= 1,
              found.memory())  # fmt: skip


def make(scratch: pathlib.Path, size: int) -> tuple[pathlib.Path, pathlib.Path]:
    """The folders of a small model and of the sets, made once."""
    import yaml

    from pipeline import made_tasks

    model, sets = scratch / "tiny-model", scratch / f"eval-sets-{size}"
    if not model.exists():
        tiny_model.write(model)
    if not (sets / "three.yml").exists():
        listed = yaml.safe_load(pathlib.Path(made_tasks.write(str(sets), size // 400)).read_text())
        (sets / "three.yml").write_text(yaml.safe_dump({key: listed[key] for key in KEYS}))
    return model, sets


def check_equal(out: pathlib.Path, printed: str) -> None:
    """Raises unless both found the same metrics."""
    other = json.loads(printed.splitlines()[-1])
    for line in out.read_text().splitlines():
        task = json.loads(line)
        for name, value in other[task["key"]].items():
            if abs(task["metrics"][name] - value) > 1e-9:
                raise RuntimeError(f"{task['key']}: {name} is {task['metrics'][name]}, but the peer has {value}")
