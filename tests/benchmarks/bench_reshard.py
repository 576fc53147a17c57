"""`curate reshard` against DataComp's way of doing it, on 40,000 samples of which 30% are kept.

The input is what img2dataset leaves with DataComp's settings: tars of 10,000 samples by webdataset's TarWriter, with
random bytes for images. The peer is a plain restatement of DataComp's resharder: every sample is read with webdataset,
its uid looked up with np.searchsorted, and what is kept written with TarWriter, by one process for each worker's share
of the tars. It imports what the original does, but for simdjson and cloudpathlib, and gives keys of its own and an
output tar per worker, so only the members are compared.
"""

import hashlib
import importlib
import json
import multiprocessing
import pathlib
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator

import measure
import numpy as np

_WORKERS = 2
_TARS = 4


def make_input(folder: pathlib.Path, samples: int) -> None:
    """Writes `_TARS` tars with `samples` in all, and subset.npy with 30% of their uids."""
    import webdataset

    (folder / "shards").mkdir()
    rng = np.random.default_rng(0)
    uids = []
    for tar in range(_TARS):
        with webdataset.TarWriter(str(folder / "shards" / f"{tar:08d}.tar")) as writer:
            for n in range(samples // _TARS):
                uid, key = rng.bytes(16).hex(), f"{tar:08d}{n:04d}"
                caption = f"a photo of thing {rng.integers(1000)} on a table near the window, number {n}"
                facts = {
                    "uid": uid,
                    "face_bboxes": [],
                    "caption": caption,
                    "url": f"https://images.example.com/photos/{uid}.jpg",
                    "key": key,
                    "status": "success",
                    "error_message": None,
                    "width": 512,
                    "height": 384,
                    "original_width": 1024,
                    "original_height": 768,
                    "exif": "{}",
                    "sha256": hashlib.sha256(uid.encode()).hexdigest(),
                }
                image = rng.bytes(int(rng.integers(32_000, 64_000)))
                writer.write({"__key__": key, "jpg": image, "txt": caption, "json": json.dumps(facts, indent=4)})
                uids.append(uid)
    kept = sorted(uid for uid in uids if rng.random() < 0.3)
    np.save(folder / "subset.npy", np.array([(int(u[:16], 16), int(u[16:], 16)) for u in kept], "u8,u8"))


def peer(shards: str, subset: str, out: str) -> None:
    """DataComp's way: all `shards` shared out to processes, each with output tars of its own."""
    for name in ("cv2", "tqdm", "webdataset", "pyarrow.compute", "pyarrow.parquet", "img2dataset.blurrer"):
        importlib.import_module(name)
    paths = sorted(map(str, pathlib.Path(shards).glob("*.tar")))
    shares = np.array_split(paths, _WORKERS)
    work = [
        multiprocessing.Process(target=_peer_worker, args=(share.tolist(), subset, f"{out}/{n:08d}.tar"))
        for n, share in enumerate(shares)
    ]
    for process in work:
        process.start()
    for process in work:
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)


def _peer_worker(paths: list[str], subset: str, out: str) -> None:
    import webdataset

    uids = np.load(subset, mmap_mode="r")
    with webdataset.TarWriter(out) as writer:
        for sample in webdataset.WebDataset(paths, shardshuffle=False):
            uid = json.loads(sample["json"])["uid"]
            number = np.array([divmod(int(uid, 16), 2**64)], uids.dtype)[0]
            copies = np.searchsorted(uids, number, "right") - np.searchsorted(uids, number, "left")
            for copy in range(copies):
                members = {name: body for name, body in sample.items() if not name.startswith("__")}
                writer.write({"__key__": f"{uid}-{copy}", **members})


def same_members(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether the tars in two folders hold the same members in the same order, whatever their keys."""

    def members(folder: pathlib.Path):
        for path in sorted(folder.glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    yield member.name.partition(".")[2], hashlib.sha256(tar.extractfile(member).read()).digest()

    return list(members(one)) == list(members(other))


def rows(scratch: pathlib.Path, number: int, size: int = 40_000) -> Iterator[measure.Row]:
    """The table's lines.

    Args:
        scratch: where the input and the outputs lie meanwhile.
        number: of alternating runs.
        size: samples of the input.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = pathlib.Path(name)
        make_input(folder, size)
        shards, subset = str(folder / "shards"), str(folder / "subset.npy")
        ours, theirs = folder / "ours", folder / "peer"

        def our_command() -> measure.Cost:
            shutil.rmtree(ours, ignore_errors=True)
            options = {"--shards": shards, "--subset": subset, "--out": str(ours), "--workers": str(_WORKERS)}
            words = (word for pair in options.items() for word in pair)
            return measure.run([sys.executable, "-m", "jobs.cli", "reshard", *words])

        def peers_command() -> measure.Cost:
            shutil.rmtree(theirs, ignore_errors=True)
            theirs.mkdir()
            return measure.run([sys.executable, __file__, shards, subset, str(theirs)])

        measured = measure.pairs(our_command, peers_command, number)
        if not same_members(ours, theirs):
            raise RuntimeError("the two wrote different members.")
    (ours_s, peer_s), ratio = measured.wall_s(), measured.ratio()
    memory = max(cost.all_mb for cost in measured.ours)
    times = f"{ours_s:.2f} s", f"{peer_s:.2f} s DataComp", f"{ratio:.1f}"
    yield measure.Row(f"reshard {size:,} samples, keep 30%", *times,
                      ">= 10 times, < 300 MB", ratio >= 10 and memory < 300, measured.memory())  # fmt: skip


if __name__ == "__main__":
    peer(*sys.argv[1:])
