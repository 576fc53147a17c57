"""The clustering of `curate centroids` against faiss called directly, in turns, in one process.

    python inside_centroids.py RUNS ROWS CENTROIDS

Prints [[ours, other], …] in seconds of wall time an iteration as JSON, after a run of each that isn't counted. Both
begin with the float16 of a pool in a file, which is widened for faiss, and end with as many iterations as the command
makes by default. Ours writes checkpoints.
"""

import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time

import faiss
import numpy as np
from inside_features import DIMS, units

from pipeline import centroids

ITERATIONS = 20


def main(runs: int, rows: int, number: int) -> None:
    taken = []
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        np.save(sample := pathlib.Path(folder, "sample.npy"), units(rows, 0))
        for _ in range(runs + 1):
            for path in pathlib.Path(folder).glob("iteration-*"):
                path.unlink()
            start = time.perf_counter()
            with contextlib.redirect_stderr(nowhere):
                found, _ = centroids._cluster(centroids.Asked("l14_img", number, rows, ITERATIONS, 0), folder)
            ours = time.perf_counter() - start
            start = time.perf_counter()
            wide = np.load(sample).astype(np.float32)
            # Else it stops where its objective stays the same to the last bit, and would be timed for fewer iterations.
            kmeans = faiss.Kmeans(DIMS, number, niter=ITERATIONS, spherical=True, max_points_per_centroid=rows,
                                  early_stop_threshold=-1.0)  # fmt: skip
            kmeans.train(wide, init_centroids=wide[:number])
            taken.append([ours / ITERATIONS, (time.perf_counter() - start) / ITERATIONS])
            assert len(kmeans.iteration_stats) == ITERATIONS
            # Rounding may send a row elsewhere now and then, but the centroids are the same ones.
            assert np.median((found * kmeans.centroids).sum(axis=1)) > 0.999
    print(json.dumps(taken[1:]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
