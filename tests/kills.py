"""Kills runs at random points, again and again, and has them end in the bytes of a run that nobody disturbed.

    python tests/kills.py --kills 20 --seed 1              workers, TaskManagers and the driver, on a Flink cluster
    python tests/kills.py --kills 20 --seed 1 --local      workers and the driver of the local runner

A run is killed up to three times. Where it does not go on by itself, the same command is given again; TaskManagers that
were killed are started again only then. What is killed, and when, is drawn by the seed, which is printed.
"""

import argparse
import contextlib
import os
import pathlib
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import job_servers
from demo_runs import outputs

ROOT = pathlib.Path(__file__).parents[1]

RECIPE = """
name: killed
steps:
  - clip_score: {model: l14, fraction: 0.5}
  - distinct: {by: text, at_most: 2, seed: 0}
  - balance: {entries: %s, t: 3, seed: 0}
shards: {samples: 10}
"""

#: A file that says that a step of the run has begun, and the seconds from then in which it is killed.
STAGES = {"choosing": ("run.json", 25.0), "images": ("subset.npy", 12.0)}
LOCAL_STAGES = {"choosing": ("run.json", 1.5), "images": ("subset.npy", 1.0)}


def with_root(environment: Mapping[str, str], *places: str) -> dict[str, str]:
    """The environment of a process that imports from here, and before that from `places`."""
    path = [*places, str(ROOT), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def descendants(pid: int) -> list[int]:
    """The process's children, theirs and so on."""
    children = [int(c) for c in _read(f"/proc/{pid}/task/{pid}/children").split()]
    for thread in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        children += [int(c) for c in _read(str(thread / "children")).split() if int(c) not in children]
    return children + [each for child in children for each in descendants(child)]


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


class Cluster:
    """A Flink of so many TaskManagers.

    Attributes:
        options: those that send a run there.
        environment: of all processes.
    """

    def __init__(
        self, folder: pathlib.Path, port: int, jar: str | None, environment: dict[str, str], size: int = 2
    ) -> None:
        self.folder, self.port, self.environment, self.size = folder, port, environment, size
        self.options = ["--runner", "flink", "--flink_master", f"localhost:{port}"]
        self.options += ["--flink_job_server_jar", jar] if jar else []

    def start(self) -> None:
        """Starts what of it doesn't run."""
        self._do("start", "--taskmanagers", str(self.size), "--port", str(self.port))

    def stop(self) -> None:
        self._do("stop")

    def task_managers(self) -> list[int]:
        """Pids of those that run."""
        found = [int(p.read_text()) for p in sorted((self.folder / "pids").glob("taskmanager-*"))]
        return [pid for pid in found if str(self.folder) in _read(f"/proc/{pid}/cmdline")]

    def workers(self) -> list[int]:
        """Of all TaskManagers."""
        return [each for pid in self.task_managers() for each in descendants(pid)]

    def _do(self, *words: str) -> None:
        command = [sys.executable, "-m", "jobs.launch.flink", words[0], "--dir", str(self.folder), *words[1:]]
        subprocess.run(command, check=True, env=self.environment, stdout=subprocess.DEVNULL)


def command(out: pathlib.Path, recipe: pathlib.Path, options: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", "--pool", "demo:400", "--recipe", str(recipe), "--out", str(out),
            "--connections", "2", *options]  # fmt: skip


def kill_runs(kills: int, seed: int, folder: pathlib.Path, cluster: Cluster | None, say: Callable[[str], None]) -> None:
    """Kills so many times in all; raises AssertionError where a run ends in other bytes, or can't be gone on with.

    Args:
        folder: an empty one for the runs.
    """
    rng = random.Random(seed)
    recipe = folder / "killed.yaml"
    recipe.write_text(RECIPE % (ROOT / "metadata/lists/demo.json"))
    environment = cluster.environment if cluster else with_root(os.environ)
    undisturbed = folder / "undisturbed"
    subprocess.run(command(undisturbed, recipe, []), check=True, env=environment, capture_output=True)
    wanted = outputs(undisturbed)
    number = 0
    while kills:
        out, number, here = folder / f"run-{number}", number + 1, min(kills, rng.randint(1, 3))
        kills -= here
        victims = ["worker", "driver", "taskmanager"] if cluster else ["worker", "driver"]
        plan = [(rng.choice(victims), rng.choice(["choosing", "images"]), rng.random()) for _ in range(here)]
        starts = _one_run(out, recipe, plan, cluster, environment, say)
        assert outputs(out) == wanted, f"{out}: other bytes than {undisturbed} after {plan}, seed {seed}"
        say(f"run {number}: same bytes after {here} kills, the command given {starts} times")


def _one_run(out, recipe, plan, cluster, environment, say) -> int:
    """Runs until it has ended well, killing what is planned; how often the command was given."""
    waiting, starts = list(plan), 0
    while starts < 12:
        if cluster:
            cluster.start()
        starts += 1
        log = out.with_suffix(f".{starts}.log")
        with open(log, "wb") as file:
            options = cluster.options if cluster else ["--workers", "2"]
            process = subprocess.Popen(command(out, recipe, options), stdout=file, stderr=file, env=environment)
        while process.poll() is None and waiting:
            victim, stage, share = waiting[0]
            marker, within_s = (STAGES if cluster else LOCAL_STAGES)[stage]
            while process.poll() is None and not (out / marker).exists():
                time.sleep(0.01)
            end = time.monotonic() + share * within_s
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            if process.poll() is not None:
                break
            if pid := _kill(victim, process.pid, cluster):
                waiting.pop(0)
                say(f"  {victim} {pid} killed, {stage} {share * within_s:.1f} s")
        code = process.wait(timeout=600)
        if code == 0:
            return starts
        text = log.read_text(errors="replace")
        assert code == -signal.SIGKILL or "run the same command again" in text.lower(), f"exit code {code}: {text}"
        assert "Traceback" not in text, text
    raise AssertionError(f"{out}: not finished after {starts} starts")


def _kill(victim: str, driver: int, cluster: Cluster | None) -> int | None:
    """Kills one of that kind; its pid, or None where there is none just now."""
    if victim == "driver":
        found = [driver]
    elif victim == "taskmanager":
        assert cluster is not None
        found = cluster.task_managers()
    else:
        found = cluster.workers() if cluster else descendants(driver)
    for pid in random.sample(found, len(found)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return pid
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--port", type=int, default=8091)
    args = parser.parse_args()
    print(f"--kills {args.kills} --seed {args.seed}{' --local' if args.local else ''}", flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="curate-kills-"))
    jar, places = (None, []) if args.local else job_servers.flink()
    cluster = None if args.local else Cluster(folder / "cluster", args.port, jar, with_root(os.environ, *places))
    try:
        kill_runs(args.kills, args.seed, folder, cluster, lambda line: print(line, flush=True))
    finally:
        if cluster:
            cluster.stop()
    print(f"all runs ended in the same bytes; {folder} has them", flush=True)


if __name__ == "__main__":
    main()
