"""Runs without their start-up: in one process, after a first run has imported everything and found the files.

    python inside.py beam RECIPE POOL WORKERS RUNS FOLDER          whole runs, choosing only
    python inside.py loop RECIPE POOL 1 RUNS FOLDER                the same, with the plain functions in Beam's place
    python inside.py images RECIPE POOL WORKERS RUNS FOLDER HOST   whole runs, images and all
    python inside.py resize FILES WORKERS RUNS                     img2dataset's resizer alone on the files' bytes

Prints the seconds of each run but the first, as JSON. A run begins with its pool's address and ends with its manifest;
what comes before, and is left out, is the interpreter, imports, and the start of the process that workers are forked
from. Each run still builds its own Beam pipeline and forks its own workers.
"""

import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Callable

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"


def timed(work: Callable[[int], object], runs: int) -> list[float]:
    """Seconds of `runs` runs, after one that isn't counted."""
    seconds = []
    for number in range(runs + 1):
        start = time.perf_counter()
        work(number)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def curate_runs(kind: str, recipe: str, pool: str, workers: int, runs: int, folder: str, host: str = "") -> list[float]:
    """Whole runs; with a host, images are fetched from it; a `loop` has the plain functions in Beam's place."""
    from jobs import engines

    engines.warm_up(images=bool(host))
    from filters.recipes import open_recipe
    from pipeline.curate import Request, curate
    from pipeline.options import FetchPolicy

    sys.path.append(str(pathlib.Path(__file__).parents[1]))
    import choosing

    def work(number: int) -> None:
        out, chosen, fetch = f"{folder}/{number}", open_recipe(recipe), FetchPolicy(allow_hosts=frozenset({host}))

        def loop(_build: object) -> None:
            """In a fork, as Beam's workers are: what one run has loaded, such as a matcher, no other run finds."""
            plan = choosing.plan(chosen, pathlib.Path(pool), pathlib.Path(out))
            worker = multiprocessing.get_context("fork").Process(target=choosing.choose_in_a_loop, args=(chosen, *plan))
            worker.start()
            worker.join()
            if worker.exitcode:
                raise RuntimeError(f"the loop ended with {worker.exitcode}")

        run = loop if kind == "loop" else engines.run_with("local", workers, [])
        curate(Request(pool, None, chosen, out, run, select_only=not host, fetch=fetch))

    return timed(work, runs)


def resize_runs(files: str, workers: int, runs: int) -> list[float]:
    """Every one of the files ten times, divided among the processes, each of which has the bytes in memory."""
    names = sorted(str(path) for path in pathlib.Path(files).glob("*.jpg")) * 10
    with multiprocessing.get_context("spawn").Pool(workers, _load_resizer) as processes:
        return timed(lambda _: processes.map(_resize, names, chunksize=10), runs)


def _load_resizer() -> None:
    global resizer, body
    import functools

    from img2dataset.resizer import Resizer

    resizer = Resizer(image_size=512, resize_mode="keep_ratio_largest", resize_only_if_bigger=True)
    body = functools.cache(lambda name: pathlib.Path(name).read_bytes())


def _resize(name: str) -> int:
    import io

    return len(resizer(io.BytesIO(body(name)))[0])


def main(kind: str, *args: str) -> int:
    if kind == "resize":
        seconds = resize_runs(args[0], *map(int, args[1:]))
    else:
        if kind == "loop":
            import pyarrow as pa

            pa.set_cpu_count(1)  # as in a worker
        seconds = curate_runs(kind, args[0], args[1], int(args[2]), int(args[3]), *args[4:])
    print(json.dumps(seconds))
    return 0


if __name__ == "__main__":
    from jobs.cli import as_command

    as_command(lambda: main(*sys.argv[1:]))
