"""Every command of the README runs, in its order, from one folder; the Hub is a local stand-in."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.statuses import STATUSES

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Its shell commands, without their comments."""
    return [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A user's folder: the README's recipe, and a pool with LAION's columns."""
    folder = tmp_path_factory.mktemp("readme")
    (recipe,) = blocks("yaml")
    (folder / "mine.yaml").write_text(recipe)
    (folder / "laion").mkdir()
    from conftest import make_rows

    rows = [
        {
            "SAMPLE_ID": n,
            "URL": r["url"],
            "TEXT": r["text"],
            "HEIGHT": 400,
            "WIDTH": 500,
            "LICENSE": "?",
            "NSFW": "UNLIKELY",
            "similarity": 0.3,
        }
        for n, r in enumerate(make_rows(500))
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "laion/part-0.parquet")
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with a small CommonPool, on this machine."""
    from conftest import make_rows, write_rows
    from fake_hub import FakeHub, serving

    pool = write_rows(tmp_path_factory.mktemp("hub"), make_rows(1000))
    with serving(
        FakeHub({"mlfoundations/datacomp_small": {p.name: p.read_bytes() for p in pool.iterdir()}})
    ) as running:
        yield running


@pytest.mark.slow
def test_every_command_of_the_readme(folder, hub):
    shared = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    ran = 0
    for command in commands():
        words = shlex.split(command)
        if words[0] == "make":
            continue
        module = {"curate": ["-m", "jobs.cli"], "python": []}[words[0]]
        done = subprocess.run(
            [sys.executable, *module, *words[1:]],
            cwd=folder,
            env=os.environ | shared,
            capture_output=True,
            text=True,
        )
        ran += 1
        if command == "curate --pool commoncrawl --scale small":
            # The stand-in's rows have links that lead nowhere, so all goes well but for the images.
            assert "images could be had" in done.stderr
            record = json.loads((folder / "runs/commoncrawl-small-clip_score_balanced/manifest.json").read_text())
            assert record["samples"] == {"unknown_host": record["rows"]["kept"]}
        else:
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert ran >= 20


def test_the_two_first_commands_are_what_ci_runs():
    ci = (ROOT / ".ci/run").read_text().splitlines()
    assert commands()[:2] == ["make demo", "make test"]
    assert {"make demo", "make test"} <= set(ci)
    for target in ("demo", "test"):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_status_is_explained():
    assert re.findall(r"^\| `(\w+)` \| .* \|$", README.split("| status |")[1].split("\n\n")[0], re.MULTILINE) == list(
        STATUSES
    )


def test_every_recipe_is_named_with_what_it_is_known_to_have_given():
    from filters.recipes import RECIPES

    assert all(f"`{name}`" in README for name in RECIPES)
    rows = re.findall(r"^\| `(\w+)`(?: \(default\))? \| .* \| (.*) \| (.*) \|$", README, re.MULTILINE)
    table = {name: dict(zip(("small", "medium"), cells, strict=True)) for name, *cells in rows if name in RECIPES}
    assert set(table) == set(RECIPES)
    for name, cells in table.items():
        published = {r.scale: f"{r.imagenet:.3f} / {r.mean:.3f}".replace("0.", ".") for r in RECIPES[name].expected}
        assert {scale: cell for scale, cell in cells.items() if "/" in cell} == (
            {scale: figures for scale, figures in published.items() if scale in cells}
        )
