"""SemDeDup: equal to a plain restatement, whatever the order, the blocks and the files."""

import collections
import itertools
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import restated_metaclip
from choosing import choose_in_a_loop, choose_on_beam, files, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import semantic_distinct
from filters.base import ROW
from filters.captions import CaptionLength
from filters.duplicates import Distinct
from filters.recipes import Recipe
from filters.semantic_distinct import SemanticDistinct, repeats
from metadata.errors import CurateError
from pipeline import carried, groups, parts, select

DIMS = 768


def scaled(values: np.ndarray) -> np.ndarray:
    """float16 of unit length."""
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def alike(rows: int, seed: int = 0, subjects: int = 60) -> np.ndarray:
    """Features of images of some subjects: many nearly the same, by all degrees, some the same, and two without any.

    Row 4 is like no other.
    """
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((subjects, DIMS)) + 1
    noise = rng.standard_normal((rows, DIMS)) * rng.uniform(0, 0.6, (rows, 1))
    values = scaled(base[rng.integers(0, subjects, rows)] + noise)
    values[rows // 2 :: 7] = values[: len(values[rows // 2 :: 7])]
    values[3], values[rows // 3, 5], values[4] = 0, np.nan, np.eye(1, DIMS)[0]
    return values


def centroids_of(number: int, seed: int = 1) -> np.ndarray:
    """Of which the last is no row's, and the one before it that of one row alone."""
    found = scaled(np.random.default_rng(seed).standard_normal((number, DIMS)) + 1)
    found[-1], found[-2] = -found[-1], np.eye(1, DIMS)[0]
    return found


def restated(step: SemanticDistinct, uids: list[str], values: np.ndarray, centroids: np.ndarray) -> set[str]:
    """The uids that stay, cluster by cluster and pair by pair, in float64."""
    clusters = collections.defaultdict(list)
    for uid, row in zip(uids, values.astype(np.float64), strict=True):
        if np.isfinite(row).all() and row.any():
            products = [float((row * centroid).sum()) for centroid in centroids.astype(np.float64)]
            cosine = np.float32(max(products))
            place = (cosine if step.keep == "hard" else -cosine, restated_metaclip.row_hash(uid, step.seed))
            clusters[products.index(max(products))].append((place, uid, row))
    kept = set()
    for members in clusters.values():
        members.sort(key=lambda member: member[0])
        for n, (_, uid, row) in enumerate(members):
            if all((row * earlier).sum() <= 1 - step.eps for _, _, earlier in members[:n]):
                kept.add(uid)
    return kept


def uids_of(rows: int) -> list[str]:
    return [f"{n * 0x9E3779B97F4A7C15 % 2**64:032x}" for n in range(rows)]


@pytest.fixture
def centroids(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file of few centroids for many rows."""
    np.save(tmp_path / "centroids.npy", centroids_of(12))
    return tmp_path / "centroids.npy"


def batch_of(uids: list[str], values: np.ndarray, name: str = "l14_img") -> pa.RecordBatch:
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), from_pandas=False), values.shape[1])
    return pa.record_batch({"uid": uids, name: column})


def judged(step: SemanticDistinct, batch: pa.RecordBatch, values: np.ndarray) -> set[str]:
    """The uids that stay by the step's own two functions, called on all rows at once."""
    rows = step.rows(batch)
    order = groups._order(rows)
    begins, rows = groups._begins(rows, order), rows[order]
    stay = step.judge(*groups._sizes_and_places(begins), lambda start, end: values[rows["row"][start:end]])
    return {batch.column("uid")[int(row)].as_py() for row in rows["row"][stay]}


# The rule.


@pytest.mark.parametrize(("eps", "keep", "block"), [
    *itertools.product([0.3, 0.05, 0.005], ["hard", "easy"], [1024, 16]), (0.05, "hard", 1), (0.3, "easy", 1),
])  # fmt: skip
def test_equals_the_restatement(centroids, monkeypatch, eps: float, keep: str, block: int) -> None:
    monkeypatch.setattr(semantic_distinct, "_ROWS", block)
    values, uids = alike(600), uids_of(600)
    step = SemanticDistinct(str(centroids), eps, keep, seed=7)
    expected = restated(step, uids, values, np.load(centroids))
    assert judged(step, batch_of(uids, values), values) == expected
    assert 100 < len(expected) < 598
    sizes = collections.Counter(step.rows(batch_of(uids, values))["high"].tolist())
    assert (len(sizes), min(sizes.values())) == (11, 1)
    assert max(sizes.values()) > 64
    order = np.random.default_rng(2).permutation(600)
    mixed = [uids[n] for n in order]
    assert judged(step, batch_of(mixed, values[order]), values[order]) == expected


def test_hard_and_easy_and_seeds_keep_others(centroids) -> None:
    values, uids = alike(300), uids_of(300)
    kept = [judged(SemanticDistinct(str(centroids), 0.1, keep, seed=seed), batch_of(uids, values), values)
            for keep in ("hard", "easy") for seed in (0, 1)]  # fmt: skip
    assert all(a != b for a, b in itertools.combinations(kept, 2))


def test_a_row_that_was_dropped_still_drops_others(tmp_path: pathlib.Path) -> None:
    """Along a circle each is alike only to its neighbours: the published code keeps the first alone."""
    turns = np.zeros((6, DIMS))
    turns[:, 0], turns[:, 1] = np.cos(0.2 * np.arange(6)), np.sin(0.2 * np.arange(6))
    np.save(tmp_path / "c.npy", turns[:1].astype(np.float32))
    values, uids = turns.astype(np.float16), uids_of(6)
    assert 0.97 < np.cos(0.2) < 0.99 < 1
    assert judged(SemanticDistinct(f"{tmp_path}/c.npy", 0.03), batch_of(uids, values), values) == {uids[5]}
    assert judged(SemanticDistinct(f"{tmp_path}/c.npy", 0.03, "easy"), batch_of(uids, values), values) == {uids[0]}
    assert judged(SemanticDistinct(f"{tmp_path}/c.npy", 0.01), batch_of(uids, values), values) == set(uids)


def test_of_the_same_features_the_smallest_hash_stays(centroids) -> None:
    values, uids = np.repeat(alike(10)[:1], 500, axis=0), uids_of(500)
    for seed in (0, 5):
        step = SemanticDistinct(str(centroids), 0.05, seed=seed)
        first = min(uids, key=lambda uid: restated_metaclip.row_hash(uid, seed))
        assert judged(step, batch_of(uids, values), values) == {first}


def test_a_cosine_at_the_threshold_stays() -> None:
    rows = np.zeros((2, DIMS), np.float16)
    rows[0, 0], rows[1, 0], rows[1, 1] = 1, 0.75, 0.66
    for threshold, expected in ((0.75, False), (np.nextafter(0.75, 0), True), (np.nextafter(0.75, 1), False)):
        assert repeats(lambda start, end: rows[start:end], 0, 2, threshold).tolist() == [False, expected]


@settings(max_examples=40)
@given(data=st.data())
def test_differences_that_float32_loses_decide(data: st.DataObject) -> None:
    """Rows of few different products, with thresholds at and around each of these."""
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    rows = scaled(rng.standard_normal((8, DIMS)) + 2)[rng.integers(0, 8, 30)]
    wide = rows.astype(np.float64)
    exact = np.array([[(a * b).sum() for b in wide] for a in wide])
    threshold = float(data.draw(st.sampled_from(sorted(set(exact[0].tolist()))))) + data.draw(
        st.sampled_from([0, 1e-12, -1e-12, 1e-8, -1e-8])
    )
    expected = [bool((exact[:n, n] > threshold).any()) for n in range(30)]
    assert repeats(lambda start, end: rows[start:end], 0, 30, threshold).tolist() == expected


def test_other_embeddings(tmp_path: pathlib.Path) -> None:
    values = scaled(np.random.default_rng(0).standard_normal((40, 512)))
    values[20:] = values[:20]
    np.save(tmp_path / "c.npy", values[:3])
    step = SemanticDistinct(f"{tmp_path}/c.npy", 0.05, embedding="b32_txt")
    assert (step.columns, step.carried) == (("uid", "b32_txt"), ("b32_txt", 512))
    assert len(judged(step, batch_of(uids_of(40), values, "b32_txt"), values)) == 20


def test_clusters_are_far_apart_among_keys(tmp_path: pathlib.Path) -> None:
    for number in (1, 2, 7, 1000):
        np.save(tmp_path / f"{number}.npy", np.eye(1000, DIMS, dtype=np.float16)[: min(number, DIMS)])
        values = np.load(tmp_path / f"{number}.npy")
        rows = SemanticDistinct(f"{tmp_path}/{number}.npy", 0.1).rows(batch_of(uids_of(len(values)), values))
        assert rows.dtype == ROW
        assert len(set(rows["high"].tolist())) == len(values)
        assert np.diff(np.sort(rows["high"])).min(initial=2**63) >= 2**63 // max(len(values), 1)


# In the pipeline.


@pytest.fixture
def pool(write_pool, toy_rows, tmp_path: pathlib.Path) -> pathlib.Path:
    """The toy rows in 3 files with features; uids as toy_rows has them."""
    folder, values = write_pool(tmp_path / "pool", toy_rows), alike(1000)
    for n, path in enumerate(sorted_by_content(folder, toy_rows)):
        np.savez(path.with_suffix(".npz"), l14_img=values[n * 334 : (n + 1) * 334])
    return folder


def sorted_by_content(folder: pathlib.Path, rows: list[dict]) -> list[pathlib.Path]:
    """The pool's files in the order in which `rows` were put into them."""
    place = {row["uid"]: n for n, row in enumerate(rows)}
    return sorted(folder.glob("*.parquet"), key=lambda path: place[pq.read_table(path)["uid"][0].as_py()])


def recipe_of(centroids: pathlib.Path) -> Recipe:
    """The step between others that compare rows, too."""
    steps = (CaptionLength(1, 2), SemanticDistinct(str(centroids), 0.1), Distinct("text", 40),
             SemanticDistinct(str(centroids), 0.25, "easy", seed=3))  # fmt: skip
    return Recipe("semantic", steps)


def expected_of(recipe: Recipe, rows: list[dict], centroids: np.ndarray) -> set[str]:
    values = dict(zip([row["uid"] for row in rows], alike(1000), strict=True))
    rows = [row for row in rows if row["text"] and len(row["text"].split()) >= 1 and len(row["text"]) >= 2]
    for step in recipe.steps[1:]:
        if isinstance(step, Distinct):
            by_text = collections.defaultdict(list)
            for row in rows:
                by_text[row["text"]].append(row["uid"])
            ordered = (sorted(uids, key=lambda uid: restated_metaclip.row_hash(uid, 0)) for uids in by_text.values())
            kept = {uid for uids in ordered for uid in uids[: step.at_most]}
        else:
            uids = [row["uid"] for row in rows]
            kept = restated(step, uids, np.stack([values[uid] for uid in uids]), centroids)
        rows = [row for row in rows if row["uid"] in kept]
    return {row["uid"] for row in rows}


def kept_uids(run: pathlib.Path) -> set[str]:
    return {uid for path in (run / "kept").glob("*.parquet") for uid in pq.read_table(path)["uid"].to_pylist()}


@pytest.mark.parametrize(("workers", "at_once"), [(1, 128), (2, 1)])
def test_beam_equals_plain_calls_and_the_restatement(workers, at_once, pool, toy_rows, centroids, tmp_path) -> None:
    recipe = recipe_of(centroids)
    changes: dict = {"kept_columns": ("text",), "partitions": 2**workers}
    pieces, choice = plan(recipe, pool, tmp_path / "loop", **changes)
    choose_in_a_loop(recipe, pieces, choice)
    _, other = plan(recipe, pool, tmp_path / "beam", **changes, files_at_once=at_once)
    choose_on_beam(recipe, pieces, other, workers)
    found = files(tmp_path / "beam")
    assert files(tmp_path / "loop") == {name: data for name, data in found.items() if "-bound/" not in name}
    assert any("-bound/" in name for name in found) == (at_once < len(pieces))
    assert kept_uids(tmp_path / "beam") == expected_of(recipe, toy_rows, np.load(centroids)) != set()
    assert not list((tmp_path / "beam").rglob("*.features"))


def test_rows_without_features_are_dropped_and_counted(pool, centroids, tmp_path) -> None:
    recipe = Recipe("r", (SemanticDistinct(str(centroids), 0.1),))
    pieces, choice = plan(recipe, pool, tmp_path / "run", kept_columns=())
    choose_in_a_loop(recipe, pieces, choice)
    (fitted,) = select.fitted(recipe.steps, choice.folder)
    assert fitted["semantic_distinct"] == recipe.steps[0].describe() | {"rows": 1000, "rows_in_no_group": 2}
    counts = [json.loads(pathlib.Path(select.marker(piece, choice.folder)).read_text()) for piece in pieces]
    assert sum(count["kept"] for count in counts) == len(kept_uids(tmp_path / "run"))
    assert sum(count["dropped"][0] for count in counts) == 1000 - len(kept_uids(tmp_path / "run"))


def test_a_run_killed_anywhere_goes_on_to_the_same_bytes(pool, centroids, tmp_path, monkeypatch) -> None:
    recipe = recipe_of(centroids)
    pieces, choice = plan(recipe, pool, tmp_path / "whole", kept_columns=())
    choose_in_a_loop(recipe, pieces, choice)
    calls, fatal = itertools.count(), -1
    for module, name in ((carried.Carried, "add"), (carried.Carried, "write"), (carried.Carried, "add_part"),
                         (parts, "write"), (groups, "settle_piece")):  # fmt: skip
        real = getattr(module, name)

        def dying(*args, real=real):
            if next(calls) == fatal:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(module, name, dying)
    _, other = plan(recipe, pool, tmp_path / "killed", kept_columns=())
    deaths = 0
    for at in [0, 1, 2, *range(3, 60, 4)]:
        calls, fatal = itertools.count(), at
        try:
            choose_in_a_loop(recipe, pieces, other)
        except KeyboardInterrupt:
            deaths += 1
    assert deaths >= 10
    fatal = -1
    choose_in_a_loop(recipe, pieces, other)
    assert files(tmp_path / "whole") == files(tmp_path / "killed")


# Mistakes.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": 0.0}, "semantic_distinct: eps is 0, but rows with a cosine above 1 - eps are held for the same. Give"),
        ({"eps": 1.0}, "semantic_distinct: eps is 1, but"),
        ({"eps": float("nan")}, "semantic_distinct: eps is nan, but"),
        ({"keep": "random"}, "semantic_distinct: unknown keep 'random'. Known: hard, easy."),
        ({"embedding": "l14"}, "semantic_distinct: unknown embedding 'l14'. Did you mean 'l14_"),
        ({"seed": -1}, "semantic_distinct: seed is -1, but it lies from 0 to 2**64 - 1. Give 0."),
    ],
    ids=str,
)
def test_mistakes(options: dict, words: str) -> None:
    with pytest.raises(CurateError) as error:
        SemanticDistinct(**{"centroids": "c.npy", "eps": 0.05, **options})
    assert words in str(error.value)


def test_files_that_do_not_fit_are_named(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "c.npy", np.eye(4, 512, dtype=np.float16))
    told = rf"^semantic_distinct: centroids {tmp_path}/c.npy: has vectors of 512 numbers, but l14_img has 768"
    for use in (SemanticDistinct.describe, lambda step: step.rows(batch_of(uids_of(2), alike(10)[:2]))):
        with pytest.raises(CurateError, match=told):
            use(SemanticDistinct(f"{tmp_path}/c.npy", 0.05))
    with pytest.raises(CurateError, match=r"^semantic_distinct: centroids none.npy: there is no such file"):
        SemanticDistinct("none.npy", 0.05).describe()


def test_features_that_are_not_of_unit_length(centroids) -> None:
    with pytest.raises(CurateError, match=r"^l14_img: features that are not of unit length \(2 to 2\)"):
        SemanticDistinct(str(centroids), 0.05).rows(batch_of(uids_of(2), alike(10)[:2] * np.float16(2)))
