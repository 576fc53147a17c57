"""Centroids: faiss' own k-means, of a sample that depends on the rows alone; killed anywhere, the same bytes."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters.vectors import Vectors
from metadata.balancing import row_hashes
from metadata.errors import CurateError
from metadata.uids import UID_DTYPE
from pipeline import centroids, storage
from pipeline.centroids import Asked
from pipeline.pools import Pool

ROWS, DIMS = 900, 768
RNG = np.random.default_rng(0)


def units(rows: int, seed: int = 0, dims: int = DIMS) -> np.ndarray:
    """float32 of unit length, in a dozen heaps that overlap."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((12, dims))[rng.integers(0, 12, rows)] + 2 * rng.standard_normal((rows, dims))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


UIDS = [hashlib.md5(str(i).encode()).hexdigest() for i in range(ROWS)]
FEATURES = units(ROWS).astype(np.float16)


def write(folder: pathlib.Path, order: np.ndarray, sizes: list[int], features: np.ndarray = FEATURES) -> Pool:
    """A pool of those rows in files of those sizes."""
    folder.mkdir()
    for number, rows in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        pq.write_table(pa.table({"uid": [UIDS[row] for row in rows]}), folder / f"{number}.parquet")
        np.savez(folder / f"{number}.npz", l14_img=features[rows])
    return Pool("pool", str(folder))


def hashes(seed: int) -> np.ndarray:
    words = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in UIDS], UID_DTYPE)
    return row_hashes(words, seed)


def restated(rows: np.ndarray, number: int, iterations: int) -> np.ndarray:
    """Plain spherical k-means from the first rows on; every cluster must have a row."""
    found = rows[:number].astype(np.float64)
    for _ in range(iterations):
        nearest = (rows @ found.T).argmax(axis=1)
        found = np.stack([rows[nearest == cluster].sum(axis=0) for cluster in range(number)])
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def asked(**options) -> Asked:
    return Asked(**{"embedding": "l14_img", "number": 12, "sample": 600, "iterations": 4, "seed": 3} | options)


def refused(*args, **options) -> str:
    with pytest.raises(CurateError) as error:
        centroids.make(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes_are_told_before_anything_is_read(tmp_path):
    pool, out = Pool("pool", str(tmp_path / "none")), str(tmp_path / "c.npy")
    assert "--embedding: unknown embedding 'l14'. Did you mean 'l14_" in refused(pool, asked(embedding="l14"), out)
    assert refused(pool, asked(number=601), out) == (
        "--number 601: --sample is 600 rows, but there must be as many rows as centroids. Ask for fewer centroids."
    )
    for name in (f"{tmp_path}/c.parquet", "s3://bucket/c.npy"):
        assert f"--out {name}: is no path that ends in .npy" in refused(pool, asked(), name)
    assert "--seed -1: lies outside of 0 to 2**64 - 1" in refused(pool, asked(seed=-1), out)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_json_of_something_else_stays_as_it_is(tmp_path, overwrite):
    (tmp_path / "run.json").write_text('{"command": "curate"}')
    pool = write(tmp_path / "pool", np.arange(ROWS), [ROWS])
    told = f"{tmp_path}/run.json: is none that `curate centroids` wrote, but"
    assert refused(pool, asked(), str(tmp_path / "run.npy"), overwrite=overwrite).startswith(told)
    assert (tmp_path / "run.json").read_text() == '{"command": "curate"}'


def test_without_faiss_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert refused(Pool("pool", "x/y"), asked(), str(tmp_path / "c.npy")) == (
        "curate centroids: the package faiss is not installed, but it does the clustering. "
        "Run: pip install 'clip-curate[clusters]'"
    )


@pytest.mark.slow
def test_equal_to_a_plain_restatement(tmp_path):
    pytest.importorskip("faiss")
    out = str(tmp_path / "c.npy")
    record = centroids.make(write(tmp_path / "pool", np.arange(ROWS), [500, 400]), asked(), out)
    rows = FEATURES[np.argsort(hashes(3))[:600]].astype(np.float32)
    found = np.load(out, allow_pickle=False)
    assert found.dtype == np.float32
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6
    expected = restated(rows, 12, 4)
    assert np.abs(found - expected).max() < 1e-5
    cosines = (rows @ restated(rows, 12, 3).T).max(axis=1).mean()
    assert record["mean_cosines"][-1] == pytest.approx(cosines, abs=1e-4)
    assert record["mean_cosines"] == sorted(record["mean_cosines"])
    assert len(Vectors(out, "l14_img", "x")) == 12
    assert record["sha256"] == hashlib.sha256(pathlib.Path(out).read_bytes()).hexdigest()
    assert json.loads((tmp_path / "c.json").read_text()) == record
    assert record["sample_rows"] == 600
    assert record["pool_rows"] == ROWS
    assert record["left_out"] == 0
    assert sorted(os.listdir(tmp_path)) == ["c.json", "c.npy", "pool"]


@pytest.mark.slow
def test_any_order_and_any_cut_of_the_files_gives_the_same_bytes(tmp_path):
    pytest.importorskip("faiss")
    made = []
    for number, sizes in enumerate(([900], [1, 899], [300, 300, 300])):
        order = RNG.permutation(ROWS) if number else np.arange(ROWS)
        out = tmp_path / f"{number}.npy"
        centroids.make(write(tmp_path / f"pool{number}", order, sizes), asked(), str(out))
        made.append(out.read_bytes())
    assert made[0] == made[1] == made[2]
    out = tmp_path / "seed.npy"
    centroids.make(Pool("pool", str(tmp_path / "pool0")), asked(seed=4), str(out))
    assert out.read_bytes() != made[0]


@pytest.mark.slow
def test_a_uid_that_comes_twice_is_put_in_order_by_its_features(tmp_path):
    pytest.importorskip("faiss")
    twice = np.array([*range(ROWS), 5, 5, 5])
    features = np.concatenate([FEATURES, units(3, 9).astype(np.float16)])
    made = set()
    for number in range(3):
        order, folder = RNG.permutation(len(twice)), tmp_path / f"pool{number}"
        folder.mkdir()
        pq.write_table(pa.table({"uid": [UIDS[twice[row]] for row in order]}), folder / "0.parquet")
        np.savez(folder / "0.npz", l14_img=features[order])
        record = centroids.make(Pool("pool", str(folder)), asked(sample=2000), str(tmp_path / f"{number}.npy"))
        assert record["sample_rows"] == ROWS + 3
        made.add(record["sha256"])
    assert len(made) == 1


@pytest.mark.slow
def test_rows_without_features_are_counted_and_left_out(tmp_path):
    pytest.importorskip("faiss")
    features = FEATURES.copy()
    features[10:40], features[40:45, 3] = 0, np.nan
    pool = write(tmp_path / "pool", np.arange(ROWS), [450, 450], features)
    record = centroids.make(pool, asked(sample=ROWS), str(tmp_path / "c.npy"))
    assert (record["sample_rows"], record["left_out"]) == (ROWS - 35, 35)
    assert np.isfinite(np.load(tmp_path / "c.npy")).all()
    features[:] = 0
    features[:11] = FEATURES[:11]
    pool = write(tmp_path / "empty", np.arange(ROWS), [450, 450], features)
    assert "--number 12: of the sample 11 rows have features, but there must be" in refused(
        pool, asked(sample=ROWS), str(tmp_path / "d.npy")
    )
    pool = write(tmp_path / "long", np.arange(ROWS), [450, 450], FEATURES * np.float16(2))
    message = refused(pool, asked(), str(tmp_path / "e.npy"))
    assert f"{tmp_path}/long/0.parquet: l14_img: features that are not of unit length" in message


@pytest.mark.slow
def test_pools_that_do_not_fit(tmp_path):
    pytest.importorskip("faiss")
    pool, out = write(tmp_path / "pool", np.arange(ROWS), [ROWS]), str(tmp_path / "c.npy")
    assert refused(pool, asked(number=901, sample=2000), out) == (
        "--number 901: --pool pool has 900 rows, but there must be as many rows as centroids. Ask for fewer centroids."
    )
    assert "0.npz: unknown array 'b32_img'. Known: l14_img." in refused(pool, asked(embedding="b32_img"), out)
    assert os.listdir(tmp_path) == ["pool"]


@pytest.mark.slow
def test_a_pool_with_names_of_its_own(tmp_path, curate):
    pytest.importorskip("faiss")
    plain, named = write(tmp_path / "plain", np.arange(ROWS), [ROWS]), tmp_path / "named"
    named.mkdir()
    table = pq.read_table(tmp_path / "plain/0.parquet")
    pq.write_table(table.rename_columns(["ID"]), named / "0.parquet")
    np.savez(named / "0.npz", mine=np.load(tmp_path / "plain/0.npz")["l14_img"])
    centroids.make(plain, asked(), str(tmp_path / "c.npy"))
    options = ["--pool", named, "--number", 12, "--sample", 600, "--iterations", 4, "--seed", 3]
    options += ["--out", tmp_path / "d.npy"]
    done = curate("centroids", *options, "--columns", "uid=ID,l14_img=mine")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d.npy").read_bytes() == (tmp_path / "c.npy").read_bytes()
    done = curate("centroids", *options, "--columns", "uid=ID")
    assert done.returncode == 1
    assert "0.npz: unknown array 'l14_img'. Known: mine." in done.stderr


@pytest.mark.slow
def test_features_of_float32(tmp_path):
    pytest.importorskip("faiss")
    features = units(ROWS, dims=256)
    (tmp_path / "pool").mkdir()
    pq.write_table(pa.table({"uid": UIDS}), tmp_path / "pool/0.parquet")
    np.savez(tmp_path / "pool/0.npz", dedup=features)
    centroids.make(Pool("pool", str(tmp_path / "pool")), asked(embedding="dedup"), str(tmp_path / "c.npy"))
    expected = restated(features[np.argsort(hashes(3))[:600]], 12, 4)
    assert np.abs(np.load(tmp_path / "c.npy") - expected).max() < 1e-5


@pytest.mark.slow
def test_a_sample_of_any_size_gives_the_same_bytes(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    pool = write(tmp_path / "pool", np.arange(ROWS), [ROWS])
    centroids.make(pool, asked(), str(tmp_path / "small.npy"))
    monkeypatch.setattr(centroids, "_SMALL", 0)
    centroids.make(pool, asked(), str(tmp_path / "large.npy"))
    monkeypatch.setattr(centroids, "_PACE", 0)
    centroids.make(pool, asked(), str(tmp_path / "slow.npy"))
    assert len({(tmp_path / f"{name}.npy").read_bytes() for name in ("small", "large", "slow")}) == 1


@pytest.mark.slow
def test_a_cluster_without_rows_gets_a_half_of_a_large_one():
    pytest.importorskip("faiss")
    rows, first = units(200), units(12)
    first[3] = first[2]  # of two that are the same, one has no row
    found, (total,) = centroids.iterate(rows, first, 1)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6
    assert total == pytest.approx(float((rows @ first.T).max(axis=1).sum()), rel=1e-5)
    assert (rows @ found.T).max(axis=1).mean() > (rows @ first.T).max(axis=1).mean()


@pytest.mark.slow
def test_what_is_there_is_found_and_nothing_else_is_written_over(tmp_path):
    pytest.importorskip("faiss")
    pool, out = write(tmp_path / "pool", np.arange(ROWS), [ROWS]), str(tmp_path / "c.npy")
    record = centroids.make(pool, asked(), out)
    assert centroids.make(pool, asked(), out) == record | {"nothing_to_do": True}
    told = f"--out {out}: holds vectors of another number, seed, but only the same command may find its own there."
    assert told in refused(pool, asked(number=13, seed=9), out)
    np.save(out, FEATURES)
    assert "holds vectors that are not known, but" in refused(pool, asked(), out)
    assert centroids.make(pool, asked(), out, overwrite=True) == record


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["run.json", "work/sample.npy", "work"])
def test_what_a_command_that_was_killed_as_it_tidied_up_has_left_goes(tmp_path, monkeypatch, gone):
    pytest.importorskip("faiss")
    pool, out = write(tmp_path / "pool", np.arange(ROWS), [ROWS]), str(tmp_path / "c.npy")
    remove = storage.remove

    def stop(path: str) -> None:
        if path == f"{out}.work":
            remove(f"{path}/{gone}")
            raise KeyboardInterrupt
        remove(path)

    with monkeypatch.context() as stopped:
        stopped.setattr(storage, "remove", stop)
        with pytest.raises(KeyboardInterrupt):
            centroids.make(pool, asked(), out)
    made = pathlib.Path(out).stat().st_mtime_ns
    assert centroids.make(pool, asked(), out)["nothing_to_do"]
    assert pathlib.Path(out).stat().st_mtime_ns == made
    assert sorted(os.listdir(tmp_path)) == ["c.json", "c.npy", "pool"]


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_and_gives_the_same_bytes(tmp_path):
    pytest.importorskip("faiss")
    features = units(20_000, 5).astype(np.float16)
    (tmp_path / "pool").mkdir()
    for number in range(4):
        part = range(5000 * number, 5000 * (number + 1))
        names = [hashlib.md5(str(i).encode()).hexdigest() for i in part]
        pq.write_table(pa.table({"uid": names}), tmp_path / f"pool/{number}.parquet")
        np.savez(tmp_path / f"pool/{number}.npz", l14_img=features[part])

    def command(out: str) -> list[str]:
        return [sys.executable, "-m", "jobs.cli", "centroids", "--pool", str(tmp_path / "pool"), "--number", "200",
                "--sample", "15000", "--iterations", "40", "--out", str(tmp_path / out)]  # fmt: skip

    done = subprocess.run(command("whole.npy"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "clustered            15,000  (75.0 a centroid)" in done.stdout
    assert "iteration 40 of 40, mean cosine 0." in done.stderr
    work = tmp_path / "killed.npy.work/work"
    for seen in ("last.json", "pieces/000001.npz", "sample.json", "iteration-018.npz", "iteration-036.npz"):
        process = subprocess.Popen(command("killed.npy"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (work / seen).exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    other = subprocess.run([*command("killed.npy"), "--seed", "1"], capture_output=True, text=True)
    if work.exists():
        assert "holds another run (seed was 0, now 1)" in other.stderr
    done = subprocess.run(command("killed.npy"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert json.loads((tmp_path / "killed.json").read_text()) == json.loads((tmp_path / "whole.json").read_text())
    assert not work.parent.exists()
