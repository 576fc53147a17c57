"""Parts of a pool through `curate score`'s worker against a plain loop of the same model over decoded batches.

    python inside_score.py RUNS ROWS

Prints [[ours, other], …] in seconds as JSON, in turns, in one process, on one thread each; ours reads tars, decodes and
writes besides. Then the peak memory in MB after ROWS, and after 5 times as many.
"""

import hashlib
import io
import json
import pathlib
import resource
import sys
import tarfile
import tempfile
import time

import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from photographs import photograph

from pipeline import encoding, models, pieces, shard_index
from pipeline.options import FetchPolicy
from pipeline.pools import open_pool

BATCH = 32
CONFIG = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 224, "layers": 6, "width": 384, "patch_size": 32, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4},
}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def made(folder: pathlib.Path, rows: int) -> list[bytes]:
    """A pool of that many rows, whose images, 8 photographs again and again, are in one tar; gives these."""
    images = [photograph(number) for number in range(8)]
    uids = [hashlib.md5(str(row).encode()).hexdigest() for row in range(rows)]
    (folder / "shards").mkdir(parents=True)
    with tarfile.open(folder / "shards/0.tar", "w") as tar:
        for row, uid in enumerate(uids):
            for name, data in (("jpg", images[row % 8]), ("json", json.dumps({"uid": uid}).encode())):
                entry = tarfile.TarInfo(f"{uid}.{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    table = pa.table({"uid": uids, "url": uids, "text": [f"caption {row}" for row in range(rows)]})
    pq.write_table(table, folder / "p.parquet")
    return images


def ours(model: models.Model, folder: pathlib.Path) -> float:
    """Seconds to score the pool in `folder`, without indexing its tar."""
    out, shards = tempfile.mkdtemp(dir=folder), str(folder / "shards")
    shard_index.index_tar((0, "0.tar"), shards, out)
    shard_index.merge(["0.tar"], out)
    (piece,) = pieces.inspect(open_pool(str(folder / "p.parquet"), None, {}), ["uid", "text"]).pieces
    job = encoding.EncodeJob(out, "", None, ("uid", "text"), BATCH, 1, FetchPolicy(), False, 256, shards)
    size = encoding.PART_ROWS
    cuts = [(start, min(piece.rows, start + size)) for start in range(0, piece.rows, size)]
    start = time.perf_counter()
    encoding.encode_parts([encoding.Part(n, piece, *cut) for n, cut in enumerate(cuts)], model, job)
    return time.perf_counter() - start


def plain(model: models.Model, images: list[bytes], rows: int) -> float:
    """Seconds to encode as many rows that are decoded already."""
    pixels = [model.prepare(image) for image in images] * (BATCH // 8)
    start = time.perf_counter()
    for first in range(0, rows, BATCH):
        model.encode_images(pixels[: rows - first])
        model.encode_texts([f"caption {row}" for row in range(first, min(first + BATCH, rows))])
    return time.perf_counter() - start


def main(runs: int, rows: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "bench-score.json").write_text(json.dumps(CONFIG))
        open_clip.add_model_config(folder / "bench-score.json")
        torch.save(open_clip.create_model("bench-score").state_dict(), folder / "w.pt")
        model = models.open_model("bench-score", str(folder / "w.pt"))
        images = made(folder / "few", rows)
        made(folder / "many", 5 * rows)
        taken = [[ours(model, folder / "few"), plain(model, images, rows)] for _ in range(runs + 1)]
        few = peak_mb()
        ours(model, folder / "many")
        print(json.dumps({"seconds": taken[1:], "peak_mb": [few, peak_mb()]}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
