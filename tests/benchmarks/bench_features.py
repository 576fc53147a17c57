"""Features: nearest centroids, negCLIPLoss against one product of their size, SemDeDup, NormSim, and reading alone."""

import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from inside_features import DIMS, units
from measure import Row, run

HERE = pathlib.Path(__file__).parent
#: What Amazon's guide to S3 counts with for a request: 85 to 90.
STORE_MB_S = 90


def rows(scratch: pathlib.Path, number: int, size: int = 100_000) -> Iterator[Row]:
    """The table's lines, measured one by one.

    Args:
        scratch: a folder for the pool file, which stays.
        number: of alternating runs.
        size: rows of the file; all else is scaled with it.
    """
    file = make_file(scratch, size)
    for vectors, some in ((size // 100, size // 5), (size, size // 100)):
        yield share(f"nearest of {vectors:,} centroids, {some:,} rows", ["nearest", number, some, vectors], some, 0.85)
    some = min(size // 3 // 16 * 16, 32_768)  # the paper's batch
    yield share(f"negCLIPLoss, a batch of {some:,}", ["negcliploss", number, some], some, 0.8)
    yield share(f"SemDeDup, {size:,} rows in {size // 100:,} clusters", ["semdedup", number, size, size // 100], size,
                0.8, "a loop in numpy")  # fmt: skip
    ours, other = measured(["normsim", number, size, file])
    extra = statistics.median(a - b for a, b in zip(ours, other, strict=True))
    yield Row(f"NormSim l2, {size:,} rows", f"{statistics.median(ours):.2f} s",
              f"{statistics.median(other):.2f} s reading", f"+{extra / size * 1e6:.1f} us/row", "", None)  # fmt: skip
    large = make_file(scratch, 5 * size)  # as many rows as a file of CommonPool's
    with store(scratch) as address:
        ours, other = measured(["stored", number, 5 * size, f"{address}/{large.name}"])
    found = statistics.median(b / a for a, b in zip(ours, other, strict=True))
    yield Row(f"the same, {5 * size:,} rows from a store of {STORE_MB_S} MB/s a request",
              f"{statistics.median(ours):.2f} s", f"{statistics.median(other):.2f} s reading", f"{found:.2f}", ">= 0.9",
              found >= 0.9)  # fmt: skip
    ours, other = measured(["read", number, size, file])
    megabytes = size * DIMS * 2 / 1e6
    yield Row(f"reading l14_img, {megabytes:,.0f} MB", f"{megabytes / statistics.median(ours):,.0f} MB/s",
              f"{megabytes / statistics.median(other):,.0f} MB/s plain reads",
              f"{statistics.median(b / a for a, b in zip(ours, other, strict=True)):.2f}", "", None)  # fmt: skip


def share(what: str, args: list, some: int, target: float, than: str = "sgemm") -> Row:
    """Rows a second, and what share they are of those that something else, the product alone, would make."""
    ours, other = measured(args)
    found = statistics.median(b / a for a, b in zip(ours, other, strict=True))
    return Row(what, f"{some / statistics.median(ours):,.0f} rows/s",
               f"{some / statistics.median(other):,.0f} rows/s {than}", f"{found:.2f}", f">= {target:g}",
               found >= target)  # fmt: skip


@contextlib.contextmanager
def store(folder: pathlib.Path) -> Iterator[str]:
    """The folder's address in a store that takes 30 ms to answer."""
    command = [sys.executable, str(HERE / "slow_store.py"), str(folder), str(STORE_MB_S), "0.03"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def measured(args: list) -> tuple[list[float], list[float]]:
    """CPU seconds of ours and of the other, run by run, on one thread, as in a worker."""
    command = [sys.executable, str(HERE / "inside_features.py"), *map(str, args)]
    cost = run(command, dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    ours, other = zip(*json.loads(cost.output.splitlines()[-1]), strict=True)
    return list(ours), list(other)


def make_file(scratch: pathlib.Path, size: int) -> pathlib.Path:
    """A parquet file of that many rows and its npz, made once."""
    file = scratch / f"features-{size}.parquet"
    if not file.exists():
        np.savez(file.with_suffix(".npz"), l14_img=units(size, 0))
        pq.write_table(pa.table({"uid": [f"{i:032x}" for i in range(size)]}), file)
    return file
