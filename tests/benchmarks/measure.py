"""Commands measured as processes: wall time, CPU time and peak memory of all they start, in alternating pairs."""

import concurrent.futures
import contextlib
import os
import pathlib
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from kills import descendants

T = TypeVar("T")

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

#: Seconds between two looks at the processes: a process's CPU time is known to within this.
_LOOK_S = 0.1
_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """What a command cost.

    Attributes:
        cpu_s: user and system time of all its processes.
        one_mb: peak resident memory of its largest process, in 2**20 bytes; pages shared with others count in full.
        all_mb: the most that its processes held together; pages that several share count once.
        output: standard output and standard error.
        first_mb: peak resident memory of the first process, which starts the others.
        others_mb: that of the largest of these.
    """

    wall_s: float
    cpu_s: float
    one_mb: float
    all_mb: float
    output: str
    first_mb: float = 0.0
    others_mb: float = 0.0


class Row(NamedTuple):
    """A line of the table: what was measured, for us and for the peer or floor, and what is asked for.

    Attributes:
        ratio: how much better we are, as `target` counts it.
        target: in words; "" where none is set.
        met: whether the target is met; None where there is none.
        memory: in words: ours, and the other's.
    """

    what: str
    ours: str
    other: str
    ratio: str
    target: str
    met: bool | None
    memory: str = ""


def environment() -> dict[str, str]:
    """Of processes that import this repository, and its tests' modules."""
    return {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"}


def run(command: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = 1800.0) -> Cost:
    """Runs the command in a session of its own, which is how its processes are known, workers of workers included.

    Raises:
        RuntimeError: it failed; its output is in the message.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env={**environment(), **(env or {})}, start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    watch = _Watch(process.pid)
    try:
        output, _ = process.communicate(timeout=timeout_s)
        wall_s = time.perf_counter() - start
    finally:
        watch.stop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{output}")
    first_mb, others_mb, all_mb = (kb / 1024 for kb in (watch.first_kb, watch.others_kb, watch.all_kb))
    return Cost(wall_s, watch.cpu_s(), max(first_mb, others_mb), all_mb, output, first_mb, others_mb)


def on_core(core: int) -> list[str]:
    """What a command begins with that is to stay on that core, with all that it starts."""
    return ["taskset", "--cpu-list", str(core)]


def two_cores(turn: int) -> list[int]:
    """Two cores for what is measured side by side, which change places from turn to turn."""
    return sorted(os.sched_getaffinity(0))[:2][:: -1 if turn % 2 else 1]


def side_by_side(work: Callable[[str, int], T], names: Iterable[str], turn: int) -> list[T]:
    """What `work` gives of each of two names and the core it is to stay on, done at the same time."""
    with concurrent.futures.ThreadPoolExecutor(2) as both:
        return list(both.map(work, names, two_cores(turn)))


class _Watch(threading.Thread):
    """Looks at the processes of a session until it is stopped."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.session, self.ended = session, threading.Event()
        self.ticks: dict[int, int] = {}
        self.first_kb = self.others_kb = self.all_kb = 0
        self.start()

    def run(self) -> None:
        while not self.ended.wait(_LOOK_S):
            self._look()

    def stop(self) -> None:
        self.ended.set()
        self.join()

    def cpu_s(self) -> float:
        return sum(self.ticks.values()) * _TICKS_S

    def _look(self) -> None:
        together = 0
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, IndexError):  # it has ended meanwhile
                if name.isdecimal() and os.getsid(int(name)) == self.session:
                    self.ticks[int(name)] = sum(_ticks(int(name))[:2])
                    peak = _kilobytes(f"/proc/{name}/status", "VmHWM:")
                    if int(name) == self.session:
                        self.first_kb = max(self.first_kb, peak)
                    else:
                        self.others_kb = max(self.others_kb, peak)
                    together += _kilobytes(f"/proc/{name}/smaps_rollup", "Pss:")
        self.all_kb = max(self.all_kb, together)


def _ticks(pid: int) -> list[int]:
    """User and system time of a process, then those of its children that it waited for."""
    return [*map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])]


def _kilobytes(path: str, field: str) -> int:
    return int(pathlib.Path(path).read_text().split(field)[1].split()[0])


def cpu_s(pid: int) -> float:
    """User and system time so far of a process and all that it has started; of those that ended, where it waited."""
    total = 0.0
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            total += sum(_ticks(each)) * _TICKS_S
    return total


class Pairs(NamedTuple):
    """Several runs of two jobs, taken in turns, so that what slows the machine down meets both."""

    ours: list[Cost]
    other: list[Cost]

    def wall_s(self) -> tuple[float, float]:
        """Median wall time of each."""
        return tuple(statistics.median(cost.wall_s for cost in costs) for costs in self)  # type: ignore[return-value]

    def ratio(self) -> float:
        """How many times as long the other took: the median of the pairs' ratios."""
        return statistics.median(b.wall_s / a.wall_s for a, b in zip(*self, strict=True))

    def memory(self) -> str:
        """Peaks, as words for the table."""
        (one, everything), (other_one, other_all) = (
            (max(c.one_mb for c in costs), max(c.all_mb for c in costs)) for costs in self
        )
        return f"{one:,.0f} / {everything:,.0f} MB, other {other_one:,.0f} / {other_all:,.0f} MB"


def pairs(ours: Callable[[], Cost], other: Callable[[], Cost], number: int) -> Pairs:
    """Runs both `number` times: A B, A B, …"""
    measured = [(ours(), other()) for _ in range(number)]
    return Pairs([a for a, _ in measured], [b for _, b in measured])


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in plain text."""
    header = Row("what", "ours", "peer or floor", "ratio", "target", None, "peak memory (largest process / all)")
    marks = {True: " ok", False: " MISSED", None: ""}
    cells = [(r.what, r.ours, r.other, r.ratio, r.target + marks[r.met], r.memory) for r in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
