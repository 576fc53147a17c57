"""Runs without their start-up: in one process, after a first run has imported everything and found the files.

    python inside.py beam RECIPE POOL WORKERS RUNS FOLDER   runs, choosing only
    python inside.py loop RECIPE POOL 1 RUNS FOLDER         the same, with the plain functions in Beam's place

Prints the seconds of each run but the first, as JSON. A run begins with its pool's address and ends with its manifest;
what comes before, and is left out, is the interpreter, imports, and the start of the process that workers are forked
from. Each run still builds its own Beam pipeline and forks its own workers.
"""

import functools
import json
import multiprocessing
import pathlib
import sys
import time


def main(kind: str, recipe: str, pool: str, workers: int, runs: int, folder: str) -> int:
    import pyarrow as pa

    from filters.recipes import open_recipe
    from jobs import engines
    from pipeline.curate import Request, curate

    if kind == "loop":
        pa.set_cpu_count(1)  # as in a worker
    engines.warm_up(images=False)
    seconds = []
    for number in range(runs + 1):
        start = time.perf_counter()
        chosen, out = open_recipe(recipe), f"{folder}/{number}"
        loop = functools.partial(in_a_loop, chosen, pool, out)
        run = loop if kind == "loop" else engines.run_with("local", workers, [])
        curate(Request(pool, None, chosen, out, run, select_only=True))
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds[1:]))
    return 0


def in_a_loop(recipe: object, pool: str, out: str, _build: object) -> None:
    """In a fork, as Beam's workers are: what one run has loaded, such as a matcher, no other run finds."""
    import choosing

    plan = choosing.plan(recipe, pathlib.Path(pool), pathlib.Path(out))
    worker = multiprocessing.get_context("fork").Process(target=choosing.choose_in_a_loop, args=(recipe, *plan))
    worker.start()
    worker.join()
    if worker.exitcode:
        raise RuntimeError(f"the loop ended with {worker.exitcode}")


if __name__ == "__main__":
    from jobs.cli import as_command

    kind, recipe, pool, workers, runs, folder = sys.argv[1:]
    as_command(lambda: main(kind, recipe, pool, int(workers), int(runs), folder))
