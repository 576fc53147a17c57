"""One run that chooses rows of a generated pool, see generated_pool.py.

    python inside_size.py RECIPE POOL WORKERS FOLDER

Prints rows kept and seconds, as JSON.
"""

import json
import sys
import time

import generated_pool  # noqa: F401  before workers are forked, which then have it too


def main(recipe: str, pool: str, workers: str, folder: str) -> int:
    from jobs import engines

    engines.warm_up(images=False)
    from filters.recipes import open_recipe
    from pipeline.curate import Request, curate

    start = time.perf_counter()
    run = engines.run_with("local", int(workers), [])
    record = curate(Request(pool, None, open_recipe(recipe), folder, run, select_only=True))
    seconds = time.perf_counter() - start
    print(json.dumps({"kept": record["rows"]["kept"], "seconds": seconds}))
    return 0


if __name__ == "__main__":
    from jobs.cli import as_command

    as_command(lambda: main(*sys.argv[1:]))
