"""Parts of a pool through `curate score`'s worker against a plain loop of the same model over decoded batches.

    python inside_score.py RUNS ROWS

Prints [[ours, other], …] in seconds as JSON, in turns, in one process, after a turn that isn't counted. Start-up and
the opening of the model are left out on both sides. Both have one core, which is what a worker has by default: the
plain loop calls open_clip on batches of pixels that are in memory and on their captions; ours reads tars, decodes,
scores and writes on that core besides. The model is ViT-B-32 with weights that were drawn, the smallest of those that
CommonPool has scores of; a smaller one takes less time than the decoding of its images does.

Then the peak memory in MB after ROWS, and after 5 times as many.
"""

import hashlib
import io
import json
import os
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
from bench_pool import table
from photographs import photograph
from PIL import Image

from pipeline import encoding, models, pieces, shard_index
from pipeline.options import FetchPolicy
from pipeline.pools import open_pool

MODEL, DIMS, BATCH = "ViT-B-32", 512, 32


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def captions(rows: int) -> list[str]:
    """Of that many rows: 0 to 14 words each, some in scripts that take several tokens a word."""
    return table(0, rows)["text"].to_pylist()


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
    pool = pa.table({"uid": uids, "url": uids, "text": captions(rows)})
    pq.write_table(pool, folder / "p.parquet")
    return images


def ours(model: models.Model, folder: pathlib.Path) -> float:
    """Seconds to score the pool in `folder`, without indexing its tar."""
    out, shards = tempfile.mkdtemp(dir=folder), str(folder / "shards")
    shard_index.index_tar((0, "0.tar"), shards, out)
    shard_index.merge(["0.tar"], out)
    (piece,) = pieces.inspect(open_pool(str(folder / "p.parquet"), None, {}), ["uid", "text"]).pieces
    job = encoding.EncodeJob(out, "", None, "", {}, ("uid", "text"), BATCH, 1, FetchPolicy(), False, DIMS, shards)
    size = encoding.PART_ROWS
    cuts = [(start, min(piece.rows, start + size)) for start in range(0, piece.rows, size)]
    start = time.perf_counter()
    encoding.encode_parts([encoding.Part(n, piece, *cut) for n, cut in enumerate(cuts)], model, job)
    return time.perf_counter() - start


def plain(model: models.Model, images: list[bytes], rows: int) -> float:
    """Seconds to encode as many rows that are decoded already."""
    pixels = [torch.stack([model.transform(Image.open(io.BytesIO(image)).convert("RGB")) for image in images])] * 4
    batch, texts = torch.cat(pixels), captions(rows)
    start = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, rows, BATCH):
            some = texts[first : first + BATCH]
            model.network.encode_image(batch[: len(some)], normalize=True)
            model.network.encode_text(model.tokenize(some), normalize=True)
    return time.perf_counter() - start


def main(runs: int, rows: int) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        torch.save(open_clip.create_model(MODEL).state_dict(), folder / "w.pt")
        model = models.open_model(MODEL, str(folder / "w.pt"))
        images = made(folder / "few", rows)
        made(folder / "many", 5 * rows)
        taken = [[ours(model, folder / "few"), plain(model, images, rows)] for _ in range(runs + 1)]
        few = peak_mb()
        ours(model, folder / "many")
        print(json.dumps({"seconds": taken[1:], "peak_mb": [few, peak_mb()]}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
