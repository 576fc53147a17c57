"""The shards that a model is trained on, looked at before the start.

open_clip's trainer goes on where it can't read a shard, with a warning among thousands of lines: what it then trains on
is not what was asked for. So every tar is read here, header to header, and its samples are counted.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

from metadata.errors import CurateError, printable, reason
from pipeline import storage, tars
from pipeline.reshard import follow, worker_processes

#: A process of its own for every so many tars, as far as cores go.
_TARS_A_PROCESS = 16


@dataclasses.dataclass(frozen=True)
class Data:
    """One of the runs that a model is trained on.

    Attributes:
        run: its folder, as the user gave it.
        weight: how often one of its samples is seen, against one of another run.
        folder: of its shards: an absolute path.
        sizes: samples by tar, in order.
        sha256: of the manifest beside them, or else of sizes.json.
    """

    run: str
    weight: float
    folder: str
    sizes: dict[str, int]
    sha256: str

    @property
    def samples(self) -> int:
        return sum(self.sizes.values())

    @property
    def pattern(self) -> str:
        """All its tars in braces, as the trainer takes them."""
        first, last = (name.removesuffix(".tar") for name in (min(self.sizes), max(self.sizes)))
        return f"{self.folder}/{{{first}..{last}}}.tar"

    def record(self) -> dict[str, Any]:
        """What it is, wherever it lies."""
        return {"weight": self.weight, "samples": self.samples, "shards": len(self.sizes), "sha256": self.sha256}


def open_all(given: str) -> list[Data]:
    """The runs of `RUN[,RUN:weight…]`; their tars are not looked into yet, see `check`.

    Raises:
        CurateError: one is no finished run with shards and their sizes.json, or tars are missing from it.
    """
    found = [_open(*_weighed(part)) for part in given.split(",")]
    folders = [data.folder for data in found]
    for data in found:
        if folders.count(data.folder) > 1:
            raise CurateError(f"--data {printable(data.run)}: is given twice, but a run counts once, by its weight. "
                              f"Give it once, as RUN:2.")  # fmt: skip
    return found


def _weighed(part: str) -> tuple[str, float]:
    """RUN or RUN:weight. What follows a colon and is no number belongs to the path."""
    run, colon, weight = part.rpartition(":")
    if not colon or not re.fullmatch(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", weight):
        return part, 1.0
    if not 0 < float(weight) < 1e9:
        raise CurateError(f"--data {printable(part)}: the weight is {weight}, but one above 0 is needed. Give RUN:2 "
                          f"for a run whose samples are to be seen twice as often.")  # fmt: skip
    return run, float(weight)


def _open(run: str, weight: float) -> Data:
    if not storage.is_local(run) or re.search(r"[{}$\\]|::", os.path.abspath(run)):
        raise CurateError(f"--data {printable(run)}: is an address, or has one of {{ }} $ \\ :: in its path, but the "
                          f"trainer reads plain local paths. Copy or link it to one.")  # fmt: skip
    if not os.path.isdir(run):
        raise CurateError(f"--data {printable(run)}: is no folder, but a run's is needed. Look at the path.")
    below = os.path.join(os.path.abspath(run), "shards")
    folder = below if os.path.isdir(below) else os.path.abspath(run)
    home = run if os.path.isdir(below) else folder
    if os.path.exists(os.path.join(home, "run.json")) and not os.path.exists(os.path.join(home, "manifest.json")):
        raise CurateError(f"--data {printable(run)}: its run is unfinished, but shards are trained on when all are "
                          f"there. Run its command again to finish it.")  # fmt: skip
    sizes = _sizes(run, folder)
    about = os.path.join(home, "manifest.json")
    known = about if os.path.exists(about) else os.path.join(folder, "sizes.json")
    return Data(run, weight, folder, sizes, storage.sha256(known))


def _sizes(run: str, folder: str) -> dict[str, int]:
    """sizes.json, which agrees with the tars that lie beside it."""
    path = os.path.join(folder, "sizes.json")
    tars_there = {name for name in storage.names(folder) if name.endswith(".tar")}
    if not tars_there and not os.path.exists(path):
        raise CurateError(f"--data {printable(run)}: has no shards, but a model is trained on them. Run its command "
                          f"without --select-only.")  # fmt: skip
    if not os.path.exists(path):
        raise CurateError(f"{path}: is missing, but without it nobody knows whether the shards are whole. "
                          f"`curate` and `curate reshard` write it.")  # fmt: skip
    try:
        sizes = storage.read_json(path)
        if not all(isinstance(n, int) and n >= 0 for n in sizes.values()):
            raise ValueError("a size is no whole number")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CurateError(f"{path}: can't be read ({reason(error)}), but it says how many samples each tar has. "
                          f"Run the run's command again with --overwrite.") from error  # fmt: skip
    _check_names(folder, sizes, tars_there)
    if not any(sizes.values()):
        raise CurateError(f"--data {printable(run)}: its shards have no samples, but a model is trained on them. Look "
                          f"at its ledgers.")  # fmt: skip
    return dict(sorted(sizes.items()))


def _check_names(folder: str, sizes: dict[str, int], there: set[str]) -> None:
    if missing := sorted(set(sizes) - there):
        raise CurateError(f"{folder}: {_shown(missing)} missing, but sizes.json names {_them(missing)}. Get "
                          f"{_them(missing)} again: run the run's command again with --overwrite.")  # fmt: skip
    if unknown := sorted(there - set(sizes)):
        raise CurateError(f"{folder}: {_shown(unknown)} not in sizes.json, but every tar is, with its samples. Take "
                          f"{_them(unknown)} out of the folder.")  # fmt: skip
    width = len(min(sizes))
    gaps = [name for n in range(len(sizes)) if (name := f"{n:0{width - 4}d}.tar") not in sizes]
    if gaps:
        raise CurateError(f"{folder}: has {len(sizes):,} tars, but {_shown(gaps)} not among them: the trainer wants "
                          f"numbers from 0 without a gap. Let `curate reshard` write them anew.")  # fmt: skip


def _shown(names: Sequence[str]) -> str:
    some = ", ".join(printable(name) for name in names[:3]) + (f" and {len(names) - 3:,} more" if names[3:] else "")
    return f"{some} {'is' if len(names) == 1 else 'are'}"


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def check(found: Sequence[Data]) -> None:
    """Reads every tar's headers.

    Raises:
        CurateError: one is cut off or damaged, or has another number of samples than sizes.json says.
    """
    names = [(os.path.join(data.folder, name), samples) for data in found for name, samples in data.sizes.items()]
    processes = min(os.cpu_count() or 1, 1 + len(names) // _TARS_A_PROCESS)
    with worker_processes(processes, threads=False) as each:
        counts = follow("checking", each(_count, [path for path, _ in names]), len(names))
    for (path, samples), count in zip(names, counts, strict=True):
        if count != samples:
            raise CurateError(f"{path}: has {count:,} samples with an image and a caption, but sizes.json says "
                              f"{samples:,}. Run the run's command again with --overwrite.")  # fmt: skip


def _count(path: str) -> int:
    """Samples of a tar that the trainer can use."""
    with tars.opened(path) as tar:
        return sum("txt" in sample.members and sample.image is not None for sample in tars.samples(tar))
