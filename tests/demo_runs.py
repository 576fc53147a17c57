"""Runs of a small demo pool as commands, which tests disturb, and what they leave."""

import json
import pathlib
import subprocess
import sys


def command(out: pathlib.Path, workers: str) -> list[str]:
    """A run with two fits, one of which takes two passes, and 4 shards."""
    recipe = out.parent / "recipe.yaml"
    steps = "  - clip_score: {model: l14, fraction: 0.7}\n  - balance: {target: 150}\n"
    recipe.write_text(f"name: half\nsteps:\n{steps}shards: {{samples: 40}}\n")
    args = ["--pool", "demo:400", "--recipe", str(recipe), "--out", str(out), "--workers", workers]
    return [sys.executable, "-m", "jobs.cli", *args]


def run(out: pathlib.Path, workers: str = "2", **options) -> subprocess.CompletedProcess:
    """The finished process."""
    return subprocess.run(command(out, workers), capture_output=True, text=True, timeout=300, **options)


def seconds(run: pathlib.Path) -> float:
    """How long a finished run took, but for the start of its process."""
    return json.loads((run / "manifest.json").read_text())["times"]["seconds"]


def outputs(run: pathlib.Path) -> dict[str, bytes]:
    """Every output by name; the manifest without its times."""
    found = {
        str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file() and "work" not in p.parts
    }
    record = json.loads(found["manifest.json"])
    del record["times"]
    found["manifest.json"] = json.dumps(record).encode()
    return found
