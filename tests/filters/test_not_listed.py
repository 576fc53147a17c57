"""Removal lists as a step: what is listed goes, wherever the list lies, and what can't be listed stays."""

import hashlib
import json
import pathlib

import pyarrow.parquet as pq
import pytest
from choosing import choose_in_a_loop, choose_on_beam, files, plan

from filters.not_listed import NotListed
from filters.recipes import describe, open_recipe
from metadata.errors import CurateError
from pipeline import select

YAML = """
name: without
steps:
  - not_listed: {{by: uid, file: {0}/uids.txt}}
  - not_listed: {{by: domain, file: {0}/domains.txt}}
  - distinct: {{by: text, at_most: 50}}
  - not_listed: {{by: sha256, file: {0}/hashes.txt}}
  - not_listed: {{by: uid, file: {0}/more.txt}}
"""


@pytest.fixture
def recipe_path(tmp_path: pathlib.Path, toy_rows: list[dict]) -> pathlib.Path:
    """Lists of parts of the toy pool, of which every seventh url is made one of example.com's, and every ninth null."""
    for n, row in enumerate(toy_rows):
        if n % 7 == 0:
            row["url"] = f"https://me@A.b.Example.com:444/{n}"
        if n % 9 == 0:
            row["url"] = row["sha256"] = None
    lists = {
        "uids.txt": [row["uid"].upper() for row in toy_rows[::5]],
        "domains.txt": ["example.com"],
        "hashes.txt": [row["sha256"] for row in toy_rows[::3] if row["sha256"]],
        "more.txt": [row["uid"] for row in toy_rows[::11]],
    }
    for name, lines in lists.items():
        (tmp_path / name).write_text("\n".join(lines))
    (tmp_path / "without.yaml").write_text(YAML.format(tmp_path))
    return tmp_path / "without.yaml"


def kept_rows(run: pathlib.Path) -> list[dict]:
    return [row for path in sorted((run / "kept").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_listed_goes(workers: int, recipe_path, toy_rows, write_pool, tmp_path):
    recipe, pool = open_recipe(str(recipe_path)), write_pool(tmp_path / "pool", toy_rows)
    pieces, choice = plan(recipe, pool, tmp_path / "loop")
    choose_in_a_loop(recipe, pieces, choice)
    _, other = plan(recipe, pool, tmp_path / "beam")
    choose_on_beam(recipe, pieces, other, workers)
    assert files(tmp_path / "loop") == files(tmp_path / "beam")
    kept = kept_rows(tmp_path / "beam")
    numbers = {row["uid"]: n for n, row in enumerate(toy_rows)}
    assert {column for row in kept for column in row} == {"uid", "url", "text", "sha256"}
    unlisted = [n for n in range(1000) if n % 5 and (n % 7 or n % 9 == 0)]
    texts = [toy_rows[n]["text"] for n in unlisted]
    full = {text for text in texts if text is not None and texts.count(text) > 50}
    rest = [n for n in unlisted if (n % 3 or n % 9 == 0) and n % 11]
    stay = {n for n in rest if toy_rows[n]["text"] not in full}
    found = {numbers[row["uid"]] for row in kept}
    assert stay <= found <= set(rest)
    assert any(n % 9 == 0 for n in stay)
    (dropped,) = {len(json.loads(pathlib.Path(select.marker(p, choice.folder)).read_text())["dropped"]) for p in pieces}
    assert dropped == 5


def test_what_a_run_is_known_by_is_the_list_and_not_its_place(recipe_path, tmp_path):
    first = describe(open_recipe(str(recipe_path)))
    data = (tmp_path / "uids.txt").read_bytes()
    listed = {"by": "uid", "values": 200, "sha256": hashlib.sha256(data).hexdigest()}
    assert first["steps"][0] == {"not_listed": listed}
    (tmp_path / "elsewhere.txt").write_bytes(data)
    recipe_path.write_text(recipe_path.read_text().replace("uids.txt", "elsewhere.txt"))
    assert describe(open_recipe(str(recipe_path))) == first


def test_the_same_list_at_another_place_drops_nothing_more(tmp_path, toy_rows, write_pool):
    lists = [tmp_path / "one.txt", tmp_path / "other.txt"]
    for path in lists:
        path.write_text("\n".join(row["uid"] for row in toy_rows[::2]))
    steps = "".join(f"  - not_listed: {{by: uid, file: {path}}}\n" for path in lists)
    (tmp_path / "twice.yaml").write_text(f"name: twice\nsteps:\n{steps}")
    recipe = open_recipe(str(tmp_path / "twice.yaml"))
    pieces, choice = plan(recipe, write_pool(tmp_path / "pool", toy_rows), tmp_path / "run")
    choose_in_a_loop(recipe, pieces, choice)
    assert {row["uid"] for row in kept_rows(tmp_path / "run")} == {row["uid"] for row in toy_rows[1::2]}


def test_a_list_may_be_called_by_a_name(recipe_path, tmp_path):
    first = describe(open_recipe(str(recipe_path)))
    recipe_path.write_text(recipe_path.read_text().replace(f"{tmp_path}/uids.txt", "mine"))
    named = open_recipe(str(recipe_path), files={"mine": f"{tmp_path}/uids.txt"})
    assert describe(named) == first
    assert named.steps[0].scorers[0].path == f"{tmp_path}/uids.txt"
    with pytest.raises(CurateError, match=r"needs a file of mine, but none was given\. Give --file mine=PATH, "):
        open_recipe(str(recipe_path))


def test_the_command(recipe_path, toy_rows, write_pool, curate, tmp_path):
    pool = write_pool(tmp_path / "pool", toy_rows)
    done = curate("--pool", pool, "--recipe", recipe_path, "--select-only", "--workers", 2, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "  dropped             200  by not_listed\n" in done.stdout
    assert "  not_listed: by uid, values 200\n" in done.stdout
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["rows"]["kept"] == len(kept_rows(tmp_path / "run"))
    assert manifest["fitted"][2]["distinct"]["rows_in_no_group"] > 0
    (tmp_path / "uids.txt").write_text("\n".join(row["uid"][::-1] for row in toy_rows))
    done = curate("--pool", pool, "--recipe", recipe_path, "--select-only", "--workers", 2, "--out", tmp_path / "other")
    told = "warning: step not_listed drops none of 1,000 rows: none has a uid of its list\n"
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
    assert done.stdout.count("warning: ") == 1
    (tmp_path / "uids.txt").write_text("x")
    failed = curate("--pool", pool, "--recipe", recipe_path, "--select-only", "--out", tmp_path / "run")
    assert failed.returncode == 1
    assert f"{tmp_path}/uids.txt: line 1 is 'x', but 32 hexadecimal digits are needed." in failed.stderr


def test_a_list_of_an_unknown_kind():
    with pytest.raises(CurateError, match=r"not_listed: unknown kind of list 'uids'\. Did you mean 'uid'\?"):
        NotListed("uids", "x.txt")
