"""`curate evaluate` as a user runs it."""

import json

import pytest
import tiny_model


def test_mistakes(curate, tmp_path):
    (tmp_path / "data").mkdir()
    for options, told in [
        (["--tasks", "imagenet"], "curate: --tasks: unknown task 'imagenet'. Did you mean 'imagenet"),
        (
            ["--tasks", "cifar10"],
            f"curate: {tmp_path}/data/wds_cifar10_test: has neither test/nshards.txt nor a parquet",
        ),
        (["--out", "x.json"], "curate: --out x.json: is no local path that ends in .jsonl, but"),
        (["--data", "nowhere"], "curate: --data nowhere: is no folder, but"),
    ]:
        done = curate("evaluate", "--model", "ViT-B-32", "--data", tmp_path / "data", *options, cwd=tmp_path,
                      env={"PATH": "", "PYTHONPATH": __file__.rsplit("/tests/", 1)[0]})  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(told)


@pytest.mark.slow
def test_the_demo_worlds_sets(curate, tmp_path):
    """Made by the script and evaluated by the command, in processes of their own."""
    import subprocess
    import sys

    pytest.importorskip("open_clip")
    model, sets = tiny_model.write(tmp_path / "model"), tmp_path / "sets"
    command = [sys.executable, "-m", "jobs.mini", "eval-sets", "--out", str(sets), "--per-concept", "1"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith(f"curate evaluate --tasks {sets}/tasklist.yml --data {sets} --model")
    done = curate("evaluate", "--tasks", sets / "tasklist.yml", "--data", sets, "--model", model)
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    results = [json.loads(line) for line in (model / "results.jsonl").read_text().splitlines()]
    assert [line["key"] for line in results][:4] == ["demo/objects", "demo/colours", "demo/concepts", "demo/captions"]
    for row, line in zip(table[1:5], results, strict=False):
        assert row == [*line["dataset"].split(), row[2], f"{line['metrics']['main_metric']:.4f}"]
    assert table[-3][:5] == ["own", "tasks", "mean", "of", str(len(results))]
    assert "images (100%)" in done.stderr
