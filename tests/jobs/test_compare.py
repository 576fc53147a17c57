"""`curate compare` as a user runs it: the table, where the files go, and what goes wrong."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import make_rows, write_rows

ROOT = pathlib.Path(__file__).parents[2]
RECIPES = {
    "basic": '- where: "original_width >= 200"\n  - caption_length: {min_words: 3, min_chars: 6}',
    "fit": '- where: "text is null or true"\n  - clip_score: {model: l14, fraction: 0.3}',
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> pathlib.Path:
    """A folder runs/ with a run of each recipe."""
    folder = tmp_path_factory.mktemp("compare")
    pool = write_rows(folder / "pool", make_rows(1000))
    for name, steps in RECIPES.items():
        (folder / f"{name}.yaml").write_text(f"name: {name}\nsteps:\n  {steps}\n")
        options = ["--pool", pool, "--recipe", folder / f"{name}.yaml", "--out", folder / "runs" / name]
        command = [sys.executable, "-m", "jobs.cli", "--select-only", *map(str, options)]
        subprocess.run(command, check=True, capture_output=True)
    return folder / "runs"


def test_the_table_and_the_files(curate, runs, tmp_path):
    shutil.copy(runs / "fit/subset.npy", tmp_path / "datacomp.npy")
    done = curate("compare", runs / "basic", f"{runs}/fit/", tmp_path / "datacomp.npy", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/compare.json").read_text())
    lines = done.stdout.splitlines()
    assert lines[:3] == [f"A  {runs}/basic", f"B  {runs}/fit", f"C  {tmp_path}/datacomp.npy"]
    assert max(map(len, lines)) <= 120
    cells = [line.split() for line in lines]
    kept = [run["subset"]["rows"] for run in report["runs"]]
    share = [f"{n / 1000:.1%}" for n in kept]
    alone = [str(run["subset"]["in_no_other"]) for run in report["runs"]]
    assert ["A", "basic", "1,000", str(kept[0]), share[0], str(kept[0]), alone[0]] in cells
    assert ["C", "a", "subset", "file", "unknown", str(kept[2]), str(kept[2]), "0"] in cells
    dropped = report["runs"][1]["rows"]["dropped"][1]
    words = ["B", "clip_score", "1,000", str(1000 - kept[1]), f"{(1000 - kept[1]) / 1000:.1%}", "model", "l14,"]
    assert [*words, "threshold", f"{dropped['fitted']['threshold']:.6g},"] in [cell[:9] for cell in cells]
    first = report["overlaps"][0]
    shares = [f"{first['jaccard']:.4f}", f"{first['of_first']:.1%}", f"{first['of_second']:.1%}"]
    assert ["A", "and", "B", str(first["shared"]), *shares] in cells
    assert ["B", "and", "C", str(kept[1]), "1.0000", "100.0%", "100.0%"] in cells
    assert ["all", str(report["in_all"])] in cells
    start = lines.index(next(line for line in lines if line.startswith("caption words")))
    middle = report["runs"][1]["measures"]["caption words"]
    assert cells[start + 2] == ["B", str(middle["without"]), *(f"{n:.0f}" for n in middle["quartiles"].values())]
    assert cells[start + 3] == ["C", "unknown"]
    top = report["words"][0]["more_in_first"][0]
    assert any(row[:3] == [top["word"], f"{top['share']:.2%}", f"{top['other_share']:.2%}"] for row in cells)
    assert "note: C is a subset file, so only its rows and overlaps are known." in done.stdout
    assert lines[-2:] == [
        f"Look at    {tmp_path}/out/compare.json   every number",
        f"           {tmp_path}/out/compare.svg    the picture",
    ]
    assert (tmp_path / "out/compare.svg").read_bytes().startswith(b"<?xml")


def test_copies_are_samples_and_steps_of_one_name_are_numbered(curate, runs, tmp_path):
    steps = ["where: text is null or true", "where: original_width >= 200",
             "soft_cap: {weights: {clip_l14_similarity_score: 1}, samples: 3000}"]  # fmt: skip
    (tmp_path / "capped.yaml").write_text(f"name: capped\nsteps: [{', '.join(f'{{{step}}}' for step in steps)}]\n")
    options = ["--select-only", "--out", tmp_path / "capped"]
    done = curate("--pool", runs.parent / "pool", "--recipe", tmp_path / "capped.yaml", *options)
    assert done.returncode == 0, done.stderr
    cells = [line.split() for line in curate("compare", runs / "basic", tmp_path / "capped", "--out", tmp_path / "out")
             .stdout.splitlines()]  # fmt: skip
    rows = json.loads((tmp_path / "capped/manifest.json").read_text())["rows"]
    kept = str(rows["kept"])
    assert ["rows", "in", "kept", "share", "samples", "distinct", "uids", "in", "no", "other"] in cells
    (line,) = (line for line in cells if line[:2] == ["B", "capped"] and len(line) == 8)
    assert line[2:7] == ["1,000", kept, f"{rows['kept'] / 1000:.1%}", "3,000", kept]
    assert ["B", "where"] in [line[:2] for line in cells]
    assert ["B", "where", "2", "1,000"] in [line[:4] for line in cells]


@pytest.mark.parametrize(("args", "code", "words"), [
    ([], 2, "the following arguments are required: RUN"),
    (["basic"], 1, "curate: compare: 1 run is given, but a comparison needs two or more."),
    (["basic", "basic/"], 1, "basic: is given 2 times, but a run is compared with others."),
    (["basic", "nowhere"], 1, "nowhere: there is no such place, but a run's folder or a subset file (.npy) is needed."),
    (["basic", "."], 1, "holds no run, but a run's folder or a subset file (.npy) is needed."),
    (["basic", "fit", "--outt", "x"], 2, "unknown option '--outt'. Did you mean --out?"),
    (["basic", "fit", "--out", "fit/subset.npy"], 1, "fit/subset.npy: "),
])  # fmt: skip
def test_what_can_be_mended_is_one_sentence(told, runs, args, code, words):
    given, output, errors = told("compare", *(arg if arg.startswith("--") else f"{runs}/{arg}" for arg in args))
    assert (given, output) == (code, "")
    assert words in errors


def test_by_default_it_goes_beside_the_runs(curate, runs):
    done = curate("compare", "runs/basic", "runs/fit/", cwd=runs.parent, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (runs / "compare-basic-fit").iterdir()) == ["compare.json", "compare.svg"]
    assert "Look at    runs/compare-basic-fit/compare.json" in done.stdout
