"""Progress on any runner: the driver counts the files that work leaves behind, and says so."""

import sys
import threading
import time
from collections.abc import Callable

#: Seconds between two looks, and between two lines where the output is no terminal.
_LOOK_S, _LINE_S = 0.5, 10.0


def watch(work: Callable[[], None], measure: Callable[[], tuple[int, str]], total: int, label: str, unit: str) -> None:
    """Does `work` in a thread and reports on standard error until it ends; raises what it raises.

    Args:
        measure: how much of `total` is done by now, and a word on it ("" for none).
        label: what is being done, as in "choosing".
        unit: what is counted, as in "rows".

    On a terminal one line is kept up to date; elsewhere a line is written now and then.
    """
    failure: list[BaseException] = []
    idle = threading.Event()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)
        finally:
            idle.set()

    line = Line(label, unit, total, measure()[0])
    threading.Thread(target=run, daemon=True, name=label).start()
    while not idle.wait(_LOOK_S):
        line.show(*measure())
    if failure:
        line.close()
        raise failure[0]
    line.show(*measure(), last=True)


class Line:
    """The line of a job under way: what is done, at what rate, and how long the rest will take.

    As a context it goes on to the next line where the block fails. A total of 0 is one that nobody knows.
    """

    def __init__(self, label: str, unit: str, total: int, already: int = 0) -> None:
        self.label, self.unit, self.total, self.already = label, unit, total, already
        self.start = self.shown = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.width = 0

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed:
            self.close()

    def show(self, done: int, note: str = "", last: bool = False) -> None:
        """Brings the line up to date; `last` ends it."""
        now = time.monotonic()
        if not (last or self.terminal or now - self.shown >= _LINE_S):
            return
        self.shown = now
        rate = (done - self.already) / max(now - self.start, 1e-9)
        total = self.total and max(self.total, done)  # a shard that proves damaged is done again as a whole
        of, share = (f" of {total:,}", f" ({done / total:.0%})") if total else ("", "")
        text = f"{self.label}: {done:,}{of} {self.unit}{share}, {rate:,.0f}/s"
        if last:
            text += f", took {duration(now - self.start)}"
        elif total and done > self.already:
            text += f", {duration((total - done) / rate)} left"
        self._write(text + (f", {note}" if note else ""), last)

    def close(self) -> None:
        """Leaves the line as it is and goes to the next one."""
        if self.terminal and self.width:
            print(file=sys.stderr)

    def _write(self, text: str, last: bool) -> None:
        if not self.terminal:
            print(text, file=sys.stderr, flush=True)
            return
        print("\r" + text.ljust(self.width), end="\n" if last else "", file=sys.stderr, flush=True)
        self.width = len(text)


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3 min 20 s, 5 h 02 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
