"""The recipes by name: what they are, what they say of themselves, what they cost to look at."""

import json
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters import recipes
from filters.balance import Balance
from filters.base import Step
from filters.clip_score import ClipScore
from filters.image_based import ImageBased
from filters.recipes import DEFAULT, RECIPES, Recipe, check, describe, file_names, open_recipe, recipe_columns
from metadata.errors import CurateError
from metadata.schema import KNOWN

POOL = pa.schema([(name, column.type) for name, column in KNOWN.items()])


def test_the_recipes() -> None:
    assert list(RECIPES) == [
        "no_filter", "basic_filter", "clip_score_l14_30_percent", "clip_score_b32_30_percent", "laion2b",
        "text_based", "image_based", "datacomp_1b", "align", "dfn", "negcliploss", "negcliploss_normsim", "semdedup",
        "m_flyt", "m_flyt_scs",
        "metaclip", "metaclip_tail", "metaclip_worldwide", "clip_score_balanced",
    ]  # fmt: skip
    assert DEFAULT in RECIPES
    assert all(RECIPES[name].name == name for name in RECIPES)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_each_says_what_it_is(recipe: Recipe) -> None:
    assert recipe.about.startswith("Keeps ")
    assert recipe.about.endswith(".")
    assert "arXiv:" in recipe.source
    assert recipe.rows_at_small.endswith("M") or "small" not in [result.scale for result in recipe.expected]
    assert recipe.samples_per_shard == 10_000
    assert all(0 < number < 1 for result in recipe.expected for number in result[1:])
    assert all(isinstance(step, Step) for step in recipe.steps)


def test_the_default_balances_the_best_published() -> None:
    at_small = {n: r.imagenet for n, recipe in RECIPES.items() for r in recipe.expected if r.scale == "small"}
    best = RECIPES[max(at_small, key=at_small.get)]
    assert RECIPES[DEFAULT].steps == (*best.steps, Balance(tail_share=0.06))


def test_balance_comes_last() -> None:
    with pytest.raises(CurateError, match="recipe mine: balance is step 1 of 2, but it must be the last"):
        Recipe("mine", (Balance(t=5), ClipScore("l14", 0.3)))


def test_steps_are_as_many_as_a_byte_counts() -> None:
    assert len(Recipe("mine", (ClipScore("l14", 0.3),) * 127).steps) == 127
    with pytest.raises(CurateError, match=r"^recipe mine: has 128 steps, but at most 127 are possible: "):
        Recipe("mine", (ClipScore("l14", 0.3),) * 128)


def write_scores(folder: pathlib.Path) -> str:
    """Scores as m_flyt asks for them, of no pool in particular; gives their glob."""
    (m_flyt,) = RECIPES["m_flyt"].steps
    for name in set(m_flyt.weights) - set(KNOWN):
        pq.write_table(pa.table({"uid": [f"{n:032x}" for n in range(3)], name: [0.1, 0.2, 0.3]}),
                       folder / f"{name}.parquet")  # fmt: skip
    return str(folder / "*.parquet")


def test_m_flyts_scores_are_of_the_pool_and_of_files(tmp_path: pathlib.Path) -> None:
    for name in ("m_flyt", "m_flyt_scs"):
        recipe = open_recipe(name, {}, {"scores": write_scores(tmp_path)})
        assert sum(recipe.steps[0].weights.values()) == pytest.approx(4.35)
        assert set(recipe_columns(recipe)) == {"uid", "clip_b32_similarity_score", "clip_l14_similarity_score"}
        assert len(recipe.steps[0].scorers) == 10
    (tmp_path / "flyt.parquet").unlink()
    with pytest.raises(CurateError, match=r"^fused_score: unknown column 'flyt'"):
        check(open_recipe("m_flyt", {}, {"scores": str(tmp_path / "*.parquet")}), POOL)
    with pytest.raises(CurateError, match=r"needs a file of scores, but .* scores are parquet files with uids\.$"):
        open_recipe("m_flyt_scs")


@pytest.mark.parametrize("name", [n if n != "laion2b" else pytest.param(n, marks=pytest.mark.slow) for n in RECIPES])
@pytest.mark.usefixtures("small_wordnet")
def test_each_opens_on_commonpools_columns(name: str, tmp_path: pathlib.Path) -> None:
    names = file_names(RECIPES[name])
    files = {file: str(tmp_path / f"{file}.npy") for file in names}
    for file, path in files.items():
        if file == "scores":
            files[file] = write_scores(tmp_path)
        else:
            np.save(path, np.eye(768, dtype=np.float16))
    lists = {"worldwide": "demo_worldwide"}
    recipe = open_recipe(name, lists, files)
    assert recipe.steps == tuple(step.with_files(lists | files) for step in RECIPES[name].steps)
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    added = ["clip_dfn_similarity_score"] if name == "dfn" else []  # by `curate score`
    assert set(recipe_columns(recipe)) <= {*KNOWN, *added}
    check(recipe, pa.schema([*POOL, *((column, pa.float32()) for column in added)]))
    described = describe(recipe)
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert [next(iter(step)) for step in described["steps"]] == [step.name for step in recipe.steps]


def test_columns_come_once_and_in_order() -> None:
    assert recipe_columns(RECIPES["no_filter"]) == ()
    assert recipe_columns(RECIPES["basic_filter"]) == ("original_width", "original_height", "text")
    assert recipe_columns(RECIPES["laion2b"]) == ("clip_b32_similarity_score", "text")


def test_what_changes_the_rows_changes_the_description() -> None:
    one = Recipe("mine", (ClipScore("l14", 0.3),))
    assert describe(one) == {
        "name": "mine",
        "steps": [{"clip_score": {"model": "l14", "threshold": 0.3}}],
        "shards": {"samples": 10_000},
    }
    for other in (
        Recipe("mine", (ClipScore("l14", 0.31),)),
        Recipe("mine", (ClipScore("b32", 0.3),)),
        Recipe("mine", ()),
        Recipe("mine", one.steps, samples_per_shard=9),
    ):
        assert describe(other) != describe(one)
    sha256 = describe(RECIPES["basic_filter"])["steps"][-1]["language"]["sha256"]
    assert len(sha256) == 64


def test_unknown_names() -> None:
    with pytest.raises(CurateError, match=r"^unknown recipe 'basic_filtr'\. Did you mean 'basic_filter'\? "):
        open_recipe("basic_filtr")
    with pytest.raises(CurateError, match=r"or the path of a \.yaml file\.$"):
        open_recipe("mine.json")


def test_files_by_name() -> None:
    assert file_names(RECIPES["datacomp_1b"]) == ("centroids", "targets")
    assert file_names(Recipe("mine", (ImageBased("./centroids", "t.npy"),))) == ()
    with pytest.raises(CurateError) as error:
        open_recipe("image_based")
    assert str(error.value).startswith("recipe image_based: needs a file of centroids and one of targets, but none was "
                                       "given. Give --file centroids=PATH --file targets=PATH, ")  # fmt: skip
    with pytest.raises(CurateError, match=r"needs a file of targets, but none was given\. Give --file targets=PATH, "):
        open_recipe("image_based", {}, {"centroids": "a.npy"})
    with pytest.raises(CurateError, match=r"^recipe image_based: unknown file 'target'\. Did you mean 'targets'\?"):
        open_recipe("image_based", {}, {"target": "a.npy"})
    with pytest.raises(CurateError, match=r"^recipe no_filter: unknown file 'targets'\. Known: none\."):
        open_recipe("no_filter", {}, {"targets": "a.npy"})


@pytest.mark.parametrize("name", ["default", "worldwide"])
def test_a_file_is_not_called_what_entry_lists_are(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / "r.yaml").write_text(f"name: r\nsteps:\n- not_listed: {{by: uid, file: {name}}}\n- balance: {{t: 5}}")
    with pytest.raises(CurateError, match=f"^recipe r: a step calls its file '{name}', but that is what entry lists "):
        open_recipe(str(tmp_path / "r.yaml"), {}, {name: "gone.txt"})


def test_a_pool_without_a_column_is_refused() -> None:
    without = POOL.remove(POOL.get_field_index("clip_l14_similarity_score"))
    with pytest.raises(CurateError, match="clip_score: unknown column 'clip_l14_similarity_score'"):
        check(open_recipe(DEFAULT), without)
    with pytest.raises(CurateError, match="balance: unknown column 'text'"):
        check(open_recipe(DEFAULT), POOL.remove(POOL.get_field_index("text")))


@pytest.mark.parametrize(("step", "where"), [
    ("{normsim: {targets: T, fraction: 0.2, embedding: dfn_img}}", "normsim: targets"),
    ("{normsim: {targets: T, threshold: 0.2, norm: linf, embedding: dfn_img}}", "normsim: targets"),
    ("{outside_evaluation_sets: {targets: T, threshold: 0.9, embedding: dfn_img}}", "outside_evaluation_sets: targets"),
    ("{image_based: {centroids: T, targets: OK, embedding: dfn_img}}", "image_based: centroids"),
    ("{image_based: {centroids: OK, targets: T, embedding: dfn_img}}", "image_based: targets"),
    ("{semantic_distinct: {centroids: T, eps: 0.1, embedding: dfn_img}}", "semantic_distinct: centroids"),
])  # fmt: skip
def test_vectors_of_another_dimension_than_the_pools_features(tmp_path: pathlib.Path, step: str, where: str) -> None:
    good, bad = tmp_path / "good.npy", tmp_path / "bad.npy"
    np.save(good, np.eye(4, 64, dtype=np.float32))
    np.save(bad, np.eye(4, 32, dtype=np.float32))
    pool = pa.schema([*POOL, ("dfn_img", pa.list_(pa.float16(), 64))])

    def opened(vectors: str) -> Recipe:
        text = f"name: mine\nsteps: [{step}]".replace("T,", f"{vectors},").replace("OK", str(good))
        (tmp_path / "r.yaml").write_text(text)
        return open_recipe(str(tmp_path / "r.yaml"))

    check(opened(str(good)), pool)
    for given in (bad, tmp_path / "*.npy"):  # of a glob, the first that does not fit
        with pytest.raises(CurateError) as error:
            check(opened(str(given)), pool)
        assert str(error.value) == (f"{where} {bad}: has vectors of 32 numbers, but dfn_img has 64: it is of another "
                                    f"model. Take the one that made dfn_img.")  # fmt: skip


def test_looking_at_recipes_imports_nothing_heavy() -> None:
    heavy = ("duckdb", "fasttext", "gcld3", "yaml", "pandas", "apache_beam", "torch")
    code = f"import sys, filters.recipes; print([m for m in {heavy} if m in sys.modules])"
    root = pathlib.Path(recipes.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "[]\n"
