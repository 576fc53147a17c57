"""Choosing: whole commands against DataComp's way and the floor; rows a second inside; Beam's share; memory."""

import functools
import importlib.util
import json
import pathlib
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from bench_pool import make_pool
from measure import Cost, Pairs, Row, on_core, pairs, run, side_by_side

HERE = pathlib.Path(__file__).parent

#: Our recipe to what the peer calls it, and how many times as fast the whole command has to be.
BASELINES = {
    "no_filter": ("no_filter", None),
    "clip_score_l14_30_percent": ("clip_score", 4.0),
    "basic_filter": ("basic_filter", 2.0),
}
CLIP_SCORE = "clip_score_l14_30_percent"

#: DataComp's code imports torch in each of its processes; where it isn't installed, the restatement can't.
PEER = "DataComp" if importlib.util.find_spec("torch") else "DataComp less torch"


def rows(scratch: pathlib.Path, number: int, size: int = 2_000_000, workers: int = 2) -> Iterator[Row]:
    """The table's lines, measured one by one.

    Args:
        scratch: a folder for pools, which stay, and outputs.
        number: of alternating runs.
        size: rows of the pool.
    """
    pool = make_pool(scratch, size)
    ours = functools.partial(command, pool, scratch / "ours", workers=workers)
    for recipe, (baseline, target) in BASELINES.items():
        peer = functools.partial(script, "peer_datacomp.py", baseline, pool, scratch / "peer.npy", workers)
        yield whole(f"choose {recipe}, {size:,} rows", pairs(functools.partial(ours, recipe), peer, number), target)
        check_equal(scratch / "ours" / "subset.npy", scratch / "peer.npy")
        if baseline != "basic_filter":
            floor = functools.partial(script, "floor_choose.py", baseline, pool, scratch / "floor.npy", workers)
            yield over_floor(recipe, pairs(functools.partial(ours, recipe), floor, number))
            check_equal(scratch / "ours" / "subset.npy", scratch / "floor.npy")
    rate = further_rows(scratch, size, workers, number)
    yield Row(f"  without start-up, {CLIP_SCORE}", f"{rate / 1e6:.1f}M rows/s", "", "", ">= 4M rows/s", rate >= 4e6)
    from filters import recipes
    from pipeline.scales import SCALES

    for recipe in ("basic_filter", recipes.DEFAULT, CLIP_SCORE):
        yield beams_share(scratch, recipe, pool, number)
    yield two_workers(scratch, "basic_filter", pool, number)
    # Half a second of a run by the default recipe is its start and its end, so it takes a pool as people have it.
    yield two_workers(scratch, recipes.DEFAULT, make_pool(scratch, SCALES["small"].pool_rows), number)


def command(pool: pathlib.Path, out: pathlib.Path, recipe: str, workers: int) -> Cost:
    """The whole command, choosing only, into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    return run([sys.executable, "-m", "jobs.cli", "--pool", f"{pool}/", "--recipe", recipe, "--select-only",
                "--workers", str(workers), "--out", str(out)])  # fmt: skip


def script(name: str, *args: object, where: Sequence[str] = ()) -> Cost:
    """A script beside this file, as a process whose command begins with `where`."""
    return run([*where, sys.executable, str(HERE / name), *map(str, args)])


def whole(what: str, measured: Pairs, target: float | None) -> Row:
    """A whole command against the peer's; a worker's memory has a target too."""
    (ours, other), ratio = measured.wall_s(), measured.ratio()
    words = f">= {target:g} times, < 600 MB" if target else "< 600 MB"
    met = (target is None or ratio >= target) and max(cost.one_mb for cost in measured.ours) < 600
    return Row(what, f"{ours:.1f} s", f"{other:.1f} s {PEER}", f"{ratio:.1f}", words, met, measured.memory())


def over_floor(recipe: str, measured: Pairs) -> Row:
    ours, floor = measured.wall_s()
    target = "within 3 s" if recipe == CLIP_SCORE else ""
    met = ours - floor <= 3 if target else None
    return Row("  over the floor", f"{ours:.1f} s", f"{floor:.1f} s DuckDB", f"+{ours - floor:.1f} s", target, met,
               measured.memory())  # fmt: skip


def further_rows(scratch: pathlib.Path, size: int, workers: int, number: int) -> float:
    """Rows a second without start-up: what the second half of a pool adds to runs that are warm."""
    pools = make_pool(scratch, size), make_pool(scratch, size // 2)
    whole, half = (inside(scratch, "beam", CLIP_SCORE, pool, workers, 2 * number) for pool in pools)
    return (size - size // 2) / max(whole - half, 1e-9)


def inside(
    scratch: pathlib.Path, kind: str, recipe: str, pool: pathlib.Path, workers: int, number: int,
    where: Sequence[str] = (),
) -> float:  # fmt: skip
    """Median seconds of a run without start-up, see inside.py, whose command begins with `where`."""
    folder = scratch / f"inside-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    cost = script("inside.py", kind, recipe, f"{pool}/", workers, number, folder, where=where)
    return statistics.median(json.loads(cost.output.splitlines()[-1]))


def beams_share(scratch: pathlib.Path, recipe: str, pool: pathlib.Path, number: int) -> Row:
    """One worker under Beam against the same functions in a loop, both without start-up.

    Both at the same time, each on a core of its own, and they change cores from pair to pair, as in bench_images: so
    what slows the machine down slows both. Beam's driver and its worker share their core. The loop's process is a plain
    one: with the allocator as workers set it, see pipeline.workers, the loop would take a tenth less itself.
    """

    def timed(kind: str, core: int) -> float:
        return inside(scratch, kind, recipe, pool, 1, 1, on_core(core))

    taken = [side_by_side(timed, ("beam", "loop"), turn) for turn in range(number)]
    ours, loop = (statistics.median(times) for times in zip(*taken, strict=True))
    share = statistics.median(a / b - 1 for a, b in taken)
    return Row(f"  Beam's share, {recipe}, 1 worker", f"{ours:.2f} s", f"{loop:.2f} s loop", f"{share:+.0%}", "<= 15%",
               share <= 0.15)  # fmt: skip


def two_workers(scratch: pathlib.Path, recipe: str, pool: pathlib.Path, number: int) -> Row:
    """Two local workers against one, without start-up, in turns."""
    taken = [[inside(scratch, "beam", recipe, pool, workers, 1) for workers in (2, 1)] for _ in range(number)]
    two, one = (statistics.median(times) for times in zip(*taken, strict=True))
    ratio = statistics.median(b / a for a, b in taken)
    return Row(f"  2 workers against 1, {recipe}", f"{two:.2f} s", f"{one:.2f} s one worker", f"{ratio:.2f}",
               ">= 1.7 times", ratio >= 1.7)  # fmt: skip


def check_equal(ours: pathlib.Path, other: pathlib.Path) -> None:
    """Raises unless both subsets are the same, in order."""
    if not np.array_equal(np.load(ours), np.load(other)):
        raise RuntimeError(f"{ours} and {other} differ: what is compared does not do the same.")
