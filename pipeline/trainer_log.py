"""What the trainer's log says: how far it is, and the loss."""

import datetime
import itertools
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from filters import svg

_LINE = re.compile(
    rb"^(\d+-\d+-\d+,\d+:\d+:\d+) \| INFO \| "
    rb"(?:(Running )|Train Epoch: (\d+) \[ *(\d+)/(\d+) .* Loss: ([-+\w.]+) \()",
    re.MULTILINE,
)

#: Losses of which each is marked, and characters of the title that stand side by side.
_FEW, _LINE_CHARS = 50, 64


class Entry(NamedTuple):
    """A line of the log: samples seen since the very start, a batch's loss, when, and after how many starts."""

    samples: int
    loss: float
    at_s: float
    start: int


class Log:
    """The trainer's out.log, which grows; a training that was resumed goes on in the same file.

    Attributes:
        entries: in order of samples; what was done again after a kill replaces what was done before it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._at = self._starts = 0
        self.read()

    def read(self) -> bool:
        """Takes in what was written since the last time; whether there were entries."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._at)
                text = file.read()
        except FileNotFoundError:
            return False
        text = text[: text.rfind(b"\n") + 1]
        self._at += len(text)
        found = False
        for when, start, epoch, samples, each, loss in _LINE.findall(text):
            if start:
                self._starts += 1
                continue
            at = datetime.datetime.strptime(when.decode(), "%Y-%m-%d,%H:%M:%S").timestamp()
            entry = Entry(int(epoch) * int(each) + int(samples), float(loss), at, self._starts)
            while self.entries and self.entries[-1].samples >= entry.samples:
                self.entries.pop()
            self.entries.append(entry)
            found = True
        return found

    def speed(self) -> tuple[float | None, float]:
        """Samples a second, and seconds, from the first entry of each start to its last; None where it took no time."""
        pairs = [(a, b) for a, b in itertools.pairwise(self.entries) if a.start == b.start]
        seconds = sum(b.at_s - a.at_s for a, b in pairs)
        return (sum(b.samples - a.samples for a, b in pairs) / seconds if seconds > 0 else None), seconds


def picture(losses: Sequence[tuple[int, float]], title: str) -> bytes:
    """The loss over the steps as SVG, the same bytes for the same losses; the title is cut after its second line."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        marker = "." if len(losses) < _FEW else None  # a line needs two to be seen
        axes.plot(*zip(*losses, strict=True), color="#4c78a8", linewidth=1, marker=marker)
        axes.set(xlabel="step", ylabel="contrastive loss of a batch")
        lines = textwrap.wrap(title, _LINE_CHARS, max_lines=2, placeholder=" …")
        axes.set_title("\n".join(lines), loc="left", parse_math=False)

    return svg.drawn("loss", (7, 4), draw, {"font.size": 9})
