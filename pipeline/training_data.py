"""The shards that a model is trained on, looked at before the start.

open_clip's trainer goes on where it can't read a shard, with a warning among thousands of lines: what it then trains on
is not what was asked for. So every tar is read here, header to header, and its samples are counted.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

from metadata.errors import CurateError, printable
from pipeline import shard_folders, storage, tars
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
    names: dict[str, str] = {}
    for data in found:
        if first := names.get(data.folder):
            raise CurateError(f"--data {printable(data.run)}: is given twice, first as {printable(first)}, but a run "
                              f"counts once, by its weight. Give it once, as {printable(first)}:2.")  # fmt: skip
        names[data.folder] = data.run
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
    folder = shard_folders.tar_folder(os.path.abspath(run))
    shard_folders.is_run(folder, f"--data {printable(run)}")
    sizes = _sizes(run, folder)
    about = os.path.join(shard_folders.home(folder), "manifest.json")
    known = about if os.path.exists(about) else os.path.join(folder, "sizes.json")
    return Data(run, weight, folder, sizes, storage.sha256(known))


def _sizes(run: str, folder: str) -> dict[str, int]:
    """sizes.json, of tars that the trainer can be given."""
    if not shard_folders.has_shards(folder):
        raise CurateError(f"--data {printable(run)}: has no shards, but a model is trained on them. Run its command "
                          f"without --select-only.")  # fmt: skip
    sizes = shard_folders.read_sizes(folder)
    if not any(sizes.values()):
        raise CurateError(f"--data {printable(run)}: its shards have no samples, but a model is trained on them. Look "
                          f"at its ledgers.")  # fmt: skip
    width = len(min(sizes))
    gaps = [name for n in range(len(sizes)) if (name := f"{n:0{width - 4}d}.tar") not in sizes]
    if gaps:
        raise CurateError(f"{folder}: has {len(sizes):,} tars, but {shard_folders.shown(gaps)} not among them: the "
                          f"trainer wants numbers from 0 without a gap. Let `curate reshard` write them anew."
                          )  # fmt: skip
    return sizes


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
