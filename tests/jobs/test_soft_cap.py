"""Soft cap sampling as users run it: repeated uids, shards with a key for each copy, the same bytes after a kill."""

import collections
import hashlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from demo_runs import seconds

from filters.recipes import RECIPES
from metadata import uids

YAML = """
name: drawn
steps:
  - language: en
  - soft_cap: {weights: {clip_l14_similarity_score: 1.5, clip_b32_similarity_score: 0.5}, samples: 300, seed: 7}
shards: {samples: 50}
"""


def command(out: pathlib.Path, workers: int) -> list[str]:
    (out.parent / "drawn.yaml").write_text(YAML)
    return [sys.executable, "-m", "jobs.cli", "--pool", "demo:400", "--recipe", str(out.parent / "drawn.yaml"),
            "--out", str(out), "--workers", str(workers)]  # fmt: skip


def outputs(run: pathlib.Path) -> dict[str, str]:
    """Every output's sha256 by its name, but for the manifest, which has times."""
    found = [p for p in sorted(run.rglob("*")) if p.is_file() and "work" not in p.parts and p.name != "manifest.json"]
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[pathlib.Path, str]:
    """An undisturbed run on two workers, and what it printed."""
    out = tmp_path_factory.mktemp("soft_cap") / "run"
    done = subprocess.run(command(out, 2), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_every_sample_is_accounted_for(demo):
    import webdataset

    out, printed = demo
    record = json.loads((out / "manifest.json").read_text())
    rows = record["rows"]
    assert rows["samples"] == sum(record["samples"].values()) == 300 > rows["kept"]
    assert rows["in"] == rows["kept"] + sum(step["dropped"] for step in rows["dropped"])
    assert f"rows kept  {rows['kept']:>14,}" in printed
    assert f"samples    {300:>14,}  ({300 / rows['kept']:.2f} of each row kept, on average)" in printed
    subset = uids.text_of(np.load(out / "subset.npy").view(uids.UID_DTYPE))
    ledger = pa.concat_tables(pq.read_table(path) for path in sorted((out / "shards").glob("*.parquet")))
    assert sorted(ledger["uid"].to_pylist()) == subset == sorted(subset)
    assert len(set(ledger["key"].to_pylist())) == 300
    read = [(sample["__key__"], json.loads(sample["json"])["uid"]) for path in sorted((out / "shards").glob("*.tar"))
            for sample in webdataset.WebDataset(str(path), shardshuffle=False)]  # fmt: skip
    lines = zip(*(ledger[name].to_pylist() for name in ("key", "uid", "status")), strict=True)
    assert read == [(key, uid) for key, uid, status in lines if status == "ok"]
    assert max(collections.Counter(uid for _, uid in read).values()) > 2


@pytest.mark.slow
def test_one_worker_writes_the_same_bytes(demo, tmp_path):
    subprocess.run(command(tmp_path / "run", 1), capture_output=True, timeout=120, check=True)
    assert outputs(tmp_path / "run") == outputs(demo[0])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1))
def test_kill_9_and_start_again(demo, tmp_path, seed):
    rng = random.Random(seed)
    for _ in range(3):
        process = subprocess.Popen(command(tmp_path / "run", 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.5, 1 + seconds(demo[0])))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(tmp_path / "run", 2), capture_output=True, timeout=120, check=True)
    assert outputs(tmp_path / "run") == outputs(demo[0])


def test_the_shards_go_into_a_reshard_and_the_runs_into_a_comparison(demo, curate, tmp_path):
    out, _ = demo
    done = curate("reshard", "--shards", out / "shards", "--subset", out / "subset.npy", "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    samples = json.loads((tmp_path / "again/manifest.json").read_text())["samples"]
    assert samples["written"] == samples["in"] == json.loads((out / "manifest.json").read_text())["samples"]["ok"]
    words = np.load(out / "subset.npy")
    np.save(tmp_path / "once.npy", np.unique(words))
    done = curate("compare", out, tmp_path / "once.npy", "--out", tmp_path / "compared")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "compared/compare.json").read_text())
    assert report["overlaps"][0]["jaccard"] == 1.0
    assert [run["subset"]["rows"] for run in report["runs"]] == [300, len(np.unique(words))]


@pytest.mark.parametrize("name", ["m_flyt", "m_flyt_scs"])
def test_m_flyt_by_name(curate, toy_pool, toy_rows, tmp_path, name):
    draw = random.Random(0)
    missing = [name for name in RECIPES["m_flyt"].steps[0].weights if not name.startswith("clip_")]
    columns = {column: [draw.gauss(0, 1) for _ in toy_rows] for column in missing}
    pq.write_table(pa.table({"uid": [row["uid"] for row in toy_rows], **columns}), tmp_path / "scores.parquet")
    done = curate("--pool", toy_pool, "--recipe", name, "--file", f"scores={tmp_path}/scores.parquet", "--select-only",
                  "--out", tmp_path / "run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/manifest.json").read_text())
    assert record["rows"]["samples"] == len(np.load(tmp_path / "run/subset.npy")) == {"m_flyt": 200}.get(name, 1000)
    (fitted,) = record["fitted"][0].values()
    assert fitted["rows_lacking"]["flyt"] == 0 < fitted["rows_lacking"]["clip_b32_similarity_score"]
    done = curate("--pool", toy_pool, "--recipe", name, "--select-only", "--out", tmp_path / "other")
    assert done.returncode == 1
    assert "Give --file scores=PATH" in done.stderr


@pytest.mark.parametrize("command", [[], ["plan"]])
def test_a_score_that_neither_files_nor_pool_have(curate, toy_pool, toy_rows, tmp_path, command):
    weights = RECIPES["m_flyt"].steps[0].weights
    lacking = ("flyt", "hype_eps_t")
    columns = {name: [0.5] * len(toy_rows) for name in weights if name not in lacking and not name.startswith("clip_")}
    pq.write_table(pa.table({"uid": [row["uid"] for row in toy_rows], **columns}), tmp_path / "scores.parquet")
    words = [*command, "--pool", toy_pool, "--recipe", "m_flyt", "--select-only"]
    done = curate(*words, "--file", f"scores={tmp_path}/scores.parquet")
    assert done.returncode == 1
    told = f"fused_score: {tmp_path}/scores.parquet has no column flyt, hype_eps_t, and neither has the pool, but every"
    assert told in done.stderr
    done = curate(*words, "--columns", "clip_l14_similarity_score=none", "--file", f"scores={tmp_path}/scores.parquet")
    assert "unknown column 'none'" in done.stderr
