"""Does memory grow with the pool? Rows are chosen from pools of three sizes, each ten times the one before.

The pools lie nowhere, see generated_pool.py: 100 million rows that are read, scored, matched, counted and sorted like
any others. `distinct` is with its groups in many files. What is asked: from the first size to the last, the memory of
the largest worker and that of the driver grow by less than a quarter.
"""

import json
import pathlib
import shutil
import sys
from collections.abc import Iterator

from generated_pool import make_template
from measure import Cost, Row, run

HERE = pathlib.Path(__file__).parent


def rows(
    scratch: pathlib.Path, number: int, size: int = 1_000_000, workers: int = 1, each: int = 500_000, sizes: int = 3
) -> Iterator[Row]:
    """The table's lines.

    Args:
        scratch: a folder for the template, which stays, and outputs: about 40 bytes a row.
        number: not used; a size is run once.
        size: rows of the smallest pool, a multiple of `each`.
        each: rows of a file.
        sizes: how many.
    """
    template = make_template(scratch, each)
    recipe = scratch / "distinct.yaml"
    recipe.write_text("{name: distinct, steps: [{distinct: {by: text}}]}")
    for name in ("clip_score_balanced", str(recipe)):
        peaks = []
        for count in (size * 10**power for power in range(sizes)):
            cost = _choose(name, f"generated:/{template}/{count}", workers, scratch / "ours")
            found = json.loads(cost.output.splitlines()[-1])
            peaks.append((cost.first_mb, cost.others_mb))
            yield Row(f"{pathlib.Path(name).stem}, {count:,} rows", f"{found['seconds']:.1f} s", "",
                      f"{count / found['seconds']:,.0f} rows/s", "", None,
                      f"driver {cost.first_mb:,.0f} MB, worker {cost.others_mb:,.0f} MB")  # fmt: skip
        growth = max(last / first for first, last in zip(peaks[0], peaks[-1], strict=True))
        yield Row("  memory from first to last", "", "", f"{growth:.2f}", "<= 1.25 times", growth <= 1.25)


def _choose(recipe: str, pool: str, workers: int, out: pathlib.Path) -> Cost:
    shutil.rmtree(out, ignore_errors=True)
    cost = run([sys.executable, str(HERE / "inside_size.py"), recipe, pool, str(workers), str(out)])
    shutil.rmtree(out)
    return cost
