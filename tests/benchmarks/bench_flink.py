"""Two of Flink's TaskManagers against one, each with its Beam worker pinned to a core: choosing, and images.

Starting is taken out: this process is every run's driver and keeps its job servers, and a rate is that of the rows, or
images, that a run has more than one of a quarter the size. Where there are just two cores, what is pinned to neither
takes from them: JobManager, job server, driver, the server of the images. So CPU time is told, too, and the ratio that
it leaves when nothing else runs: that of the TaskManagers which compute longest.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import bench_images
import job_servers
import photographs
from bench_pool import make_pool
from kills import Cluster, with_root
from measure import Row, cpu_s

RECIPE = "basic_filter"
#: Files, or shards, of the whole. The smaller runs have a quarter of them.
PARTS = 16
TARGET = 1.7


def rows(scratch: pathlib.Path, number: int, size: int = 2_000_000, images: int = 2000) -> Iterator[Row]:
    """The table's lines, measured one by one; one that says so where no Flink is to be had.

    Args:
        scratch: a folder for the pool and photographs, which stay, and outputs.
        number: of alternating runs.
        size: rows of the pool.
        images: that are fetched.
    """
    try:
        parts = job_servers.flink()
    except job_servers.MissingError as error:
        yield Row("2 TaskManagers against 1", "not measured", str(error), "", "", None)
        return
    pool = make_pool(scratch, size, -(-size // PARTS))
    photos = scratch / f"photographs-{photographs.DISTINCT}"
    photographs.make(photos)
    recipe = scratch / "everything-flink.yaml"
    recipe.write_text(f"name: everything\nsteps: []\nshards: {{samples: {-(-images // PARTS)}}}\n")
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(pinned(scratch / f"flink-{n}", n, *parts)) for n in (1, 2)]
        runs = [Run(RECIPE, f"{pool}/", size // 4, PARTS // 4), Run(RECIPE, f"{pool}/", size, None)]
        yield from against_one(f"{RECIPE}, {size:,} rows", "rows", engines, runs, scratch, number)
        host = stack.enter_context(bench_images.server(photos))
        runs = [
            Run(str(recipe), f"{bench_images.make_pool(scratch / name, f'http://{host}', photos, count)}/", count, None,
                host)
            for name, count in (("pool-quarter", images // 4), ("pool-images", images))
        ]  # fmt: skip
        yield from against_one(f"{images:,} images", "images", engines, runs, scratch, number)


class Engine(NamedTuple):
    """A cluster that is running, and what hands it a pipeline."""

    cluster: Cluster
    hand: Callable[[Callable[[Any], None]], None]


class Run(NamedTuple):
    """What is run: with a host, all images are fetched from it."""

    recipe: str
    pool: str
    size: int
    limit_files: int | None
    host: str = ""


class Spent(NamedTuple):
    """Seconds: of the clock, CPU time of each TaskManager with its worker, and CPU time of all else."""

    wall_s: float
    managers_s: tuple[float, ...]
    else_s: float


@contextlib.contextmanager
def pinned(folder: pathlib.Path, size: int, jar: str | None, places: Sequence[str]) -> Iterator[Engine]:
    """A cluster of so many TaskManagers, each on a core of its own, until the block ends."""
    from jobs import engines

    shutil.rmtree(folder, ignore_errors=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    cluster = Cluster(folder, port, jar, with_root(os.environ, *places), size)
    try:
        cluster.start()
        for manager, core in zip(cluster.task_managers(), sorted(os.sched_getaffinity(0)), strict=False):
            for thread in os.listdir(f"/proc/{manager}/task"):  # what they start, workers too, inherits it
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread), {core})
        yield Engine(cluster, engines.run_with("flink", 1, cluster.options[2:], str(folder)))
    finally:
        cluster.stop()


def against_one(
    what: str, unit: str, engines: Sequence[Engine], runs: Sequence[Run], scratch: pathlib.Path, number: int
) -> Iterator[Row]:
    """Two lines for two engines and a smaller and a larger run: by the clock, and by CPU time."""
    for engine in engines:
        spent(engine, runs[1], scratch)  # workers start, and Java compiles
    taken = [[[spent(engine, run, scratch) for run in runs] for engine in engines] for _ in range(number)]
    one, two = (further(*zip(*(turn[n] for turn in taken), strict=True)) for n in range(2))
    more = runs[1].size - runs[0].size
    if min(one.wall_s, two.wall_s, *one.managers_s, *two.managers_s) <= 0:
        raise RuntimeError(f"{what}: of {runs} the larger took no longer. Take more of them, or leave the cores alone.")
    rates, ratio = [f"{more / each.wall_s:,.0f} {unit}/s" for each in (two, one)], one.wall_s / two.wall_s
    yield Row(f"2 TaskManagers against 1, {what}", *rates, f"{ratio:.2f}", f">= {TARGET:g} times", ratio >= TARGET)
    ratio = max(one.managers_s) / max(two.managers_s)
    yield Row(f"  CPU time of {more:,} {unit}", told(two), told(one), f"{ratio:.2f}", "", None)


def spent(engine: Engine, run: Run, scratch: pathlib.Path) -> Spent:
    """What the run costs on that cluster."""
    from filters.recipes import open_recipe
    from pipeline.curate import Request, curate
    from pipeline.options import FetchPolicy

    out = scratch / "ours-flink"
    shutil.rmtree(out, ignore_errors=True)
    request = Request(run.pool, None, open_recipe(run.recipe), str(out), engine.hand, limit_files=run.limit_files,
                      select_only=not run.host, fetch=FetchPolicy(allow_hosts=frozenset({run.host})))  # fmt: skip
    before, start = computed(engine), time.perf_counter()
    found = curate(request)
    wall_s, after = time.perf_counter() - start, computed(engine)
    if found["rows"]["in"] != run.size or (run.host and found["samples"]["ok"] != run.size):
        raise RuntimeError(f"{run}: of {found['rows']} and {found['samples']} not all were there.")
    *managers_s, else_s = (b - a for a, b in zip(before, after, strict=True))
    return Spent(wall_s, tuple(managers_s), else_s)


def computed(engine: Engine) -> list[float]:
    """CPU time so far of each TaskManager with its worker, and of all else: JobManager, job servers, driver, server."""
    job_manager = int((engine.cluster.folder / "pids/jobmanager").read_text())
    return [*map(cpu_s, engine.cluster.task_managers()), cpu_s(os.getpid()) + cpu_s(job_manager)]


def further(small: Sequence[Spent], large: Sequence[Spent]) -> Spent:
    """What the larger run takes more, by medians."""

    def more(seconds: Callable[[Spent], float]) -> float:
        return statistics.median(map(seconds, large)) - statistics.median(map(seconds, small))

    managers = range(len(small[0].managers_s))
    managers_s = tuple(more(lambda s, n=n: s.managers_s[n]) for n in managers)
    return Spent(more(lambda s: s.wall_s), managers_s, more(lambda s: s.else_s))


def told(spent: Spent) -> str:
    return f"{' + '.join(f'{s:.1f}' for s in spent.managers_s)} s, else {spent.else_s:.1f} s"
