"""CommonPool read from a Hub: the same choice as from local files, few bytes, and patience with a Hub that falters."""

import json
import os
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_rows, write_rows
from fake_hub import REVISION, FakeHub, serving

NPZ = b"embeddings" * 1000

#: Reads a pool without Beam, as a command of its own: where it is, its files' rows, and the sum of a column.
READ = """
import json, sys
from jobs.cli import as_command

def main():
    from pipeline import pieces
    from pipeline.pools import open_pool
    name, scale, limit = json.loads(sys.argv[1])
    pool = open_pool(name, scale, {})
    found = pieces.inspect(pool, ["uid", "original_width"], limit=limit)
    batches = [batch for piece in found.pieces for batch in pieces.batches(piece, ["original_width"])]
    print(json.dumps({
        "address": pool.address, "files": {file.path: file.rows for file in found.files},
        "sum": sum(sum(batch.column(0).to_pylist()) for batch in batches),
    }))
    return 0

as_command(main)
"""


#: The pools here have no captions to balance by.
CLIP_SCORE = ("--recipe", "clip_score_l14_30_percent")


def served(folder: pathlib.Path, prefix: str = "") -> dict[str, bytes]:
    """A pool's files as the Hub has them: an npz beside every parquet, and a page about it."""
    files = {"README.md": b"# CommonPool", ".gitattributes": b""}
    for path in sorted(folder.iterdir()):
        files[f"{prefix}{path.name}"] = path.read_bytes()
        files[f"{prefix}{path.stem}.npz"] = NPZ
    return files


def on_the_hub(url: str) -> dict[str, str]:
    """The environment of a process that takes `url` for the Hub."""
    return os.environ | {
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }


def read(url: str, name: str, scale: str | None = None, limit: int | None = None) -> dict:
    done = subprocess.run([sys.executable, "-c", READ, json.dumps([name, scale, limit])], env=on_the_hub(url),
                          capture_output=True, text=True, timeout=100)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def hub_of(name: str, files: dict[str, bytes]) -> FakeHub:
    return FakeHub({f"mlfoundations/{name}": files}, page=5)


@pytest.fixture(scope="module")
def large_pool(tmp_path_factory) -> pathlib.Path:
    """2 files of 20,000 rows and 9 MB, most of it in columns that choosing by a score does not need."""
    folder = tmp_path_factory.mktemp("large")
    rng = random.Random(0)
    for _ in range(2):
        n = 20_000
        table = {
            "uid": [rng.randbytes(16).hex() for _ in range(n)],
            "url": [rng.randbytes(150).hex() for _ in range(n)],
            "text": [rng.randbytes(150).hex() for _ in range(n)],
            "clip_l14_similarity_score": np.array([rng.random() for _ in range(n)], np.float32),
        }
        pq.write_table(pa.table(table), folder / f"{rng.randbytes(16).hex()}.parquet")
    return folder


def chosen(out: pathlib.Path) -> dict[str, bytes]:
    """What a choice leaves."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in [out / "subset.npy", *sorted((out / "kept").iterdir())]
    }


def test_the_command_chooses_from_the_hub_what_it_chooses_from_files(curate, large_pool, tmp_path):
    files = served(large_pool)
    local, remote = tmp_path / "local", tmp_path / "remote"
    assert curate("--pool", large_pool, *CLIP_SCORE, "--select-only", "--out", local).returncode == 0
    with serving(hub_of("datacomp_small", files)) as hub:
        pool = ("--pool", "commoncrawl", "--scale", "small")
        done = curate(*pool, *CLIP_SCORE, "--select-only", "--out", remote, env=on_the_hub(hub.url))
    assert done.returncode == 0, done.stderr
    assert chosen(remote) == chosen(local)
    assert len(np.load(remote / "subset.npy")) == 12_001
    # The revision is what is read and what is recorded.
    for name in ("run.json", "manifest.json"):
        paths = [file["path"] for file in json.loads((remote / name).read_text())["files"]]
        assert paths == [
            f"hf://datasets/mlfoundations/datacomp_small@{REVISION}/{path.name}"
            for path in sorted(large_pool.iterdir())
        ]
    assert all(REVISION in path for _, kind, path in hub.requests if kind in ("tree", "resolve"))
    parquets = {name: len(data) for name, data in files.items() if name.endswith(".parquet")}
    assert set(hub.sent) == set(parquets)
    for name, size in parquets.items():
        assert hub.sent[name] < 0.25 * size
    # The footer to inspect; footer and score in each of two passes of the fit; footer, uid and score to select.
    assert hub.kinds()["resolve"] == 2 * (1 + 2 + 2 + 3)
    assert hub.kinds()["info"] <= 6


@pytest.mark.slow
def test_the_command_outlasts_a_hub_that_falters(curate, large_pool, tmp_path):
    files = served(large_pool)
    local, remote = tmp_path / "local", tmp_path / "remote"
    assert curate("--pool", large_pool, *CLIP_SCORE, "--select-only", "--out", local).returncode == 0
    faults = {("info", 0): 503, ("tree", 1): 429, ("tree", 3): "drop", ("resolve", 2): 503, ("resolve", 5): 500,
              ("file", 1): "drop", ("file", 4): 429, ("file", 6): "drop", ("info", 3): "drop"}  # fmt: skip
    with serving(hub_of("datacomp_small", files)) as hub:
        hub.misbehave = lambda kind, number: faults.get((kind, number))
        pool = ("--pool", "commoncrawl", "--scale", "small")
        done = curate(*pool, *CLIP_SCORE, "--select-only", "--out", remote, env=on_the_hub(hub.url))
    assert done.returncode == 0, done.stderr
    assert chosen(remote) == chosen(local)


def test_a_hub_that_falters_is_asked_again(toy_pool):
    faults = {("info", 0): 503, ("tree", 0): 503, ("file", 0): "drop", ("resolve", 4): 429}
    with serving(hub_of("datacomp_small", served(toy_pool))) as hub:
        quiet = read(hub.url, "commoncrawl", "small")
        hub.requests.clear()
        hub.misbehave = lambda kind, number: faults.get((kind, number))
        assert read(hub.url, "commoncrawl", "small") == quiet
        assert sum(quiet["files"].values()) == 1000


def test_xlarge_has_its_files_in_parts(tmp_path):
    rows = make_rows(600)
    files: dict[str, bytes] = {}
    for part in range(12):
        folder = write_rows(tmp_path / str(part), rows[part * 50 : (part + 1) * 50], files=2)
        files |= served(folder, f"part_{part}/")
    with serving(hub_of("datacomp_xlarge", files)) as hub:
        found = read(hub.url, "commoncrawl", "xlarge")
        part = read(hub.url, "commoncrawl", "xlarge", limit=3)
    root = f"hf://datasets/mlfoundations/datacomp_xlarge@{REVISION}"
    assert found["address"] == root
    assert list(found["files"]) == sorted(f"{root}/{name}" for name in files if name.endswith(".parquet"))
    assert found["sum"] == sum(row["original_width"] for row in rows)
    assert list(part["files"]) == list(found["files"])[:3]
    assert hub.kinds()["tree"] > 10  # it came by pages


def test_datacomp_1b(toy_pool, toy_rows):
    with serving(hub_of("datacomp_1b", served(toy_pool))) as hub:
        found = read(hub.url, "datacomp_1b")
    assert found["sum"] == sum(row["original_width"] for row in toy_rows)
    assert list(found["files"]) == sorted(found["files"])


def ends_with_one_sentence(curate, url: str, *args: str, within_s: float = 30) -> str:
    started = time.monotonic()
    done = curate(*args, "--select-only", env=on_the_hub(url))
    assert time.monotonic() - started < within_s
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = (
        line for line in done.stderr.splitlines() if line.startswith("curate: ") and not line.startswith("curate: pool")
    )
    return line


@pytest.mark.parametrize("status", [404, 401, 403, pytest.param(503, marks=pytest.mark.slow)])
def test_a_hub_that_refuses_ends_the_command_with_a_sentence(curate, status):
    with serving(hub_of("datacomp_medium", {})) as hub:
        hub.misbehave = lambda kind, number: status
        line = ends_with_one_sentence(curate, hub.url, "--pool", "commoncrawl", "--scale", "medium")
    assert line.startswith(f"curate: {hub.url}/datasets/mlfoundations/datacomp_medium: can't be read (")
    assert str(status) in line
    assert "HF_ENDPOINT" in line
    assert len(hub.requests) == 1 or status == 503


def test_a_repo_that_the_hub_does_not_have(curate):
    with serving(hub_of("datacomp_small", {})) as hub:
        line = ends_with_one_sentence(curate, hub.url, "--pool", "datacomp_1b")
    assert "/datasets/mlfoundations/datacomp_1b: can't be read (404 Client Error" in line


@pytest.mark.slow
def test_a_hub_that_is_down(curate):
    line = ends_with_one_sentence(curate, "http://127.0.0.1:9", "--pool", "commoncrawl", "--scale", "small")
    assert line.startswith(
        "curate: http://127.0.0.1:9/datasets/mlfoundations/datacomp_small: can't be read ([Errno 111]"
    )
    assert "`hf auth login`" in line


def test_a_repo_without_parquet_files(curate):
    with serving(hub_of("datacomp_small", {"README.md": b""})) as hub:
        line = ends_with_one_sentence(curate, hub.url, "--pool", "commoncrawl", "--scale", "small")
    assert f"datacomp_small@{REVISION}: there is no parquet file" in line


@pytest.mark.slow
def test_a_hub_that_refuses_in_the_middle(curate, toy_pool, tmp_path):
    with serving(hub_of("datacomp_small", served(toy_pool))) as hub:
        hub.misbehave = lambda kind, number: 403 if kind == "file" and number >= 5 else None
        line = ends_with_one_sentence(
            curate, hub.url, "--pool", "commoncrawl", "--scale", "small", "--out", str(tmp_path / "r")
        )
    assert f"datacomp_small@{REVISION}/" in line
    assert "403" in line
