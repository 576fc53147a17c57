"""The least work that gives clip_score's or no_filter's subset: DuckDB and numpy, in one process.

    python floor_choose.py no_filter|clip_score POOL OUT.npy THREADS
"""

import binascii
import sys

import duckdb
import numpy as np
import pyarrow as pa

SCORE = "clip_l14_similarity_score"
FRACTION = 0.3


def main(baseline: str, pool: str, out: str, threads: int) -> None:
    database = duckdb.connect(config={"threads": threads})
    files = f"read_parquet('{pool}/*.parquet')"
    where = ""
    if baseline == "clip_score":
        scores = database.sql(f"select {SCORE} from {files}").to_arrow_table()[SCORE].to_numpy()
        place = len(scores) - 1 - int(len(scores) * FRACTION)
        where = f"where {SCORE} >= {float(np.partition(scores, place)[place])!r}::float"
    uids = database.sql(f"select uid from {files} {where}").to_arrow_table()["uid"]
    np.save(out, numbers(uids))


def numbers(uids: pa.ChunkedArray) -> np.ndarray:
    """Uids as pairs of numbers, sorted by the first, which is enough where no two share it."""
    text = b"".join(bytes(chunk.cast(pa.binary(32)).buffers()[1]) for chunk in uids.chunks)
    words = np.frombuffer(binascii.unhexlify(text), ">u8").astype("<u8").view("u8,u8")
    return words[np.argsort(words["f0"])]


if __name__ == "__main__":
    main(*sys.argv[1:4], threads=int(sys.argv[4]))
