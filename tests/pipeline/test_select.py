"""Choosing rows: equal to a plain restatement, the same through Beam as in a loop, and never a row unaccounted for."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from choosing import choose_in_a_loop, choose_on_beam, files, plan

from filters.captions import CaptionLength
from filters.clip_score import ClipScoreFraction
from filters.evaluation_sets import OutsideEvaluationSets
from filters.image_based import ImageBased
from filters.negcliploss import NegClipLossFraction
from filters.normsim import NormSim, NormSimFraction
from filters.recipes import RECIPES, Recipe
from filters.semantic_distinct import SemanticDistinct
from filters.sizes import ImageSize
from metadata import uids
from metadata.errors import CurateError
from pipeline import manifest, select

SIZES_THEN_SCORE = Recipe("two", (ImageSize(200), CaptionLength(), ClipScoreFraction("l14", 0.3), ImageSize(600)))


def expected_two(rows: list[dict]) -> set[str]:
    """SIZES_THEN_SCORE, restated row by row."""
    rows = [r for r in rows if min(r["original_width"], r["original_height"]) >= 200]
    rows = [r for r in rows if r["text"] is not None and len(r["text"].split()) >= 3 and len(r["text"]) >= 6]
    scores = sorted((np.float32(r["clip_l14_similarity_score"]) for r in rows), reverse=True)
    threshold = scores[int(len(rows) * 0.3)]
    rows = [r for r in rows if np.float32(r["clip_l14_similarity_score"]) >= threshold]
    return {r["uid"] for r in rows if min(r["original_width"], r["original_height"]) >= 600}


@pytest.fixture(params=["no_filter", "basic_filter", "clip_score_l14_30_percent", "clip_score_b32_30_percent", "two"])
def recipe(request) -> Recipe:
    return {**RECIPES, "two": SIZES_THEN_SCORE}[request.param]


def test_fits_after_filters_equal_the_restatement(toy_pool, tmp_path, toy_rows):
    pieces, choice = plan(SIZES_THEN_SCORE, toy_pool, tmp_path / "run")
    choose_in_a_loop(SIZES_THEN_SCORE, pieces, choice)
    kept = {u for p in pieces for u in pq.read_table(tmp_path / f"run/kept/{p.name}.parquet")["uid"].to_pylist()}
    assert kept == expected_two(toy_rows) != set()


def test_steps_on_features_equal_the_restatement(toy_rows, write_pool, tmp_path):
    """Rows with features beside them, in order; the fraction is of the pool though an earlier step has dropped some."""
    rng = np.random.default_rng(0)

    def units(rows: int) -> np.ndarray:
        values = rng.standard_normal((rows, 768))
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)

    pool = write_pool(tmp_path / "pool", toy_rows)
    features = {}
    for file in sorted(pool.iterdir()):
        ids = pq.read_table(file)["uid"].to_pylist()
        values = units(len(ids))
        features |= dict(zip(ids, values, strict=True))
        np.savez(file.with_suffix(".npz"), l14_img=values, l14_txt=values)
    centroids, targets = units(20), units(15)
    for name, values in (("centroids", centroids), ("targets", targets)):
        np.save(tmp_path / f"{name}.npy", values)
    steps = (
        CaptionLength(),
        ImageBased(f"{tmp_path}/centroids.npy", f"{tmp_path}/targets.npy"),
        NormSimFraction(f"{tmp_path}/targets.npy", 0.05, "pool"),
    )
    recipe = Recipe("by_features", steps)
    pieces, choice = plan(recipe, pool, tmp_path / "loop", kept_columns=("text",))
    choose_in_a_loop(recipe, pieces, choice)
    choose_on_beam(recipe, *plan(recipe, pool, tmp_path / "beam", kept_columns=("text",)), workers=2)
    assert files(tmp_path / "loop") == files(tmp_path / "beam")

    wide = {uid: values.astype(np.float64) for uid, values in features.items()}
    wanted = set((targets.astype(float) @ centroids.astype(float).T).argmax(axis=1))
    left = [r["uid"] for r in toy_rows if r["text"] and len(r["text"].split()) >= 3 and len(r["text"]) >= 6]
    left = [uid for uid in left if (centroids.astype(float) @ wide[uid]).argmax() in wanted]
    left.sort(key=lambda uid: -((targets.astype(float) @ wide[uid]) ** 2).sum())
    kept = pa.concat_tables(pq.read_table(tmp_path / f"loop/kept/{p.name}.parquet") for p in pieces)
    assert set(kept["uid"].to_pylist()) == set(left[: len(toy_rows) // 20])
    norms = [np.linalg.norm(targets.astype(float) @ wide[uid]) for uid in kept["uid"].to_pylist()]
    assert np.allclose(kept["normsim_l2"].to_numpy(), norms, rtol=1e-6, atol=0)
    assert len(left) > 60


def test_a_file_of_which_no_row_reaches_a_scorer(toy_rows, write_pool, tmp_path):
    """Its kept/ has the column all the same."""
    pool = write_pool(tmp_path / "pool", toy_rows)
    for number, file in enumerate(sorted(pool.iterdir())):
        table = pq.read_table(file).drop_columns("text")
        text = "four words of text" if number else "one"
        pq.write_table(table.append_column("text", pa.array([text] * table.num_rows)), file)
        np.savez(file.with_suffix(".npz"), l14_img=np.eye(pq.read_metadata(file).num_rows, 768, dtype=np.float16))
    np.save(tmp_path / "targets.npy", np.eye(768, dtype=np.float16))
    recipe = Recipe("by_features", (CaptionLength(3, 3), NormSim(f"{tmp_path}/targets.npy", 0.5)))
    pieces, choice = plan(recipe, pool, tmp_path / "out", kept_columns=("text",))
    choose_in_a_loop(recipe, pieces, choice)
    kept = [pq.read_table(tmp_path / f"out/kept/{piece.name}.parquet") for piece in pieces]
    assert [table.num_rows > 0 for table in kept] == [False, True, True]
    assert {tuple(table.schema.names) for table in kept} == {("uid", "text", "normsim_l2")}
    assert set(pa.concat_tables(kept)["normsim_l2"].to_pylist()) == {1.0}


def test_a_run_that_was_killed_when_it_had_kept_the_fates(toy_rows, write_pool, tmp_path, monkeypatch):
    """The columns that the filters before have worked out are there too."""
    pool = write_pool(tmp_path / "pool", toy_rows)
    for file in pool.iterdir():
        np.savez(file.with_suffix(".npz"), l14_img=np.eye(pq.read_metadata(file).num_rows, 768, dtype=np.float16))
    np.save(tmp_path / "targets.npy", np.eye(768, dtype=np.float16))
    steps = (NormSim(f"{tmp_path}/targets.npy", 0.5), ClipScoreFraction("l14", 0.5))
    recipe, save = Recipe("by_both", steps), select.save
    made = [plan(recipe, pool, tmp_path / name) for name in ("whole", "killed")]
    choose_in_a_loop(recipe, *made[0])

    def save_and_die(path: str, array: np.ndarray) -> None:
        save(path, array)
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(select, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            choose_in_a_loop(recipe, *made[1])
    choose_in_a_loop(recipe, *made[1])
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_beam_equals_plain_calls_byte_for_byte(recipe, toy_pool, tmp_path):
    pieces, choice = plan(recipe, toy_pool, tmp_path / "loop")
    choose_in_a_loop(recipe, pieces, choice)
    choose_on_beam(recipe, pieces, dataclasses.replace(choice, folder=str(tmp_path / "beam")), workers=2)
    assert files(tmp_path / "loop") == files(tmp_path / "beam")


def test_subset_is_what_datacomp_reads(toy_pool, tmp_path, toy_rows):
    pieces, choice = plan(RECIPES["no_filter"], toy_pool, tmp_path)
    choose_in_a_loop(RECIPES["no_filter"], pieces, choice)
    select.write_subset(choice, len(toy_rows))
    subset = np.load(tmp_path / "subset.npy", allow_pickle=False)
    plain = np.array([(int(r["uid"][:16], 16), int(r["uid"][16:32], 16)) for r in toy_rows], np.dtype("u8,u8"))
    plain.sort()
    np.save(tmp_path / "plain.npy", plain)
    assert subset.dtype == np.dtype("u8,u8")
    assert (tmp_path / "subset.npy").read_bytes() == (tmp_path / "plain.npy").read_bytes()


def test_dropped_uids_name_the_step(toy_pool, tmp_path, toy_rows):
    pieces, choice = plan(SIZES_THEN_SCORE, toy_pool, tmp_path, keep_dropped=True)
    choose_in_a_loop(SIZES_THEN_SCORE, pieces, choice)
    dropped = pa.concat_tables(pq.read_table(tmp_path / f"dropped/{p.name}.parquet") for p in pieces).to_pylist()
    small = {r["uid"] for r in toy_rows if min(r["original_width"], r["original_height"]) < 200}
    by_size = [d["uid"] for d in dropped if d["step"] == "image_size"]
    assert small <= set(by_size)
    assert (
        len(dropped) + len(expected_two(toy_rows))
        == len(toy_rows)
        == len({d["uid"] for d in dropped} | expected_two(toy_rows))
    )
    counts, *_ = manifest.count_rows(pieces, [s.name for s in SIZES_THEN_SCORE.steps], str(tmp_path))
    assert [d["dropped"] for d in counts["dropped"]][1] == sum(d["step"] == "caption_length" for d in dropped)
    assert counts["in"] == counts["kept"] + sum(d["dropped"] for d in counts["dropped"])


def test_dropped_has_the_same_bytes_where_two_steps_share_a_name(toy_pool, tmp_path):
    """Two copies of a word in a dictionary are written by either one's number, as it happens."""
    twice = Recipe("twice", (ImageSize(300), CaptionLength(), ImageSize(600), ImageSize(700), CaptionLength(9)))
    for name in "abcd":
        pieces, choice = plan(twice, toy_pool, tmp_path / name, keep_dropped=True)
        choose_in_a_loop(twice, pieces, choice)
        assert files(tmp_path / name / "dropped") == files(tmp_path / "a" / "dropped")
    table = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "a" / "dropped").iterdir()))
    assert set(table["step"].to_pylist()) == {"image_size", "caption_length"}


def test_a_costly_step_before_a_fit_runs_once(toy_pool, tmp_path, monkeypatch):
    seen = []
    keep = CaptionLength.keep
    monkeypatch.setattr(CaptionLength, "keep", lambda self, batch: seen.append(batch.num_rows) or keep(self, batch))
    pieces, choice = plan(SIZES_THEN_SCORE, toy_pool, tmp_path)
    choose_in_a_loop(SIZES_THEN_SCORE, pieces, choice)
    assert len(seen) == len(pieces)  # though the fit passes twice over the pool and the choice once more


def test_a_finished_piece_is_not_done_again(toy_pool, tmp_path, monkeypatch):
    pieces, choice = plan(RECIPES["no_filter"], toy_pool, tmp_path)
    select.select_piece(pieces[0], [], choice)
    monkeypatch.setattr(select, "batches", lambda *_: pytest.fail("read again"))
    select.select_piece(pieces[0], [], choice)


def test_counts_that_do_not_add_up_fail_the_run(toy_pool, tmp_path):
    pieces, choice = plan(RECIPES["no_filter"], toy_pool, tmp_path)
    choose_in_a_loop(RECIPES["no_filter"], pieces, choice)
    path = pathlib.Path(select.marker(pieces[1], choice.folder))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kept": 3}))
    with pytest.raises(CurateError, match=r"rows went in, but 3 were kept"):
        manifest.count_rows(pieces, [], choice.folder)


@pytest.mark.parametrize("where", ["same file", "another file", "one kept, one dropped"])
def test_a_uid_that_occurs_twice_is_an_error(where, tmp_path, toy_rows, write_pool):
    rows = [dict(r) for r in toy_rows]
    other = {"same file": 7, "another file": 900, "one kept, one dropped": 900}[where]
    rows[other]["uid"] = rows[3]["uid"]
    for index, side in ((3, 600), (other, 1 if where.startswith("one") else 600)):
        rows[index]["original_width"] = rows[index]["original_height"] = side
    recipe = Recipe("size", (ImageSize(200),))
    pieces, choice = plan(recipe, write_pool(tmp_path / "p", rows), tmp_path / "run")
    with pytest.raises(CurateError, match=rf"uid {rows[3]['uid']} occurs 2 times"):
        choose_in_a_loop(recipe, pieces, choice)


def test_uids_are_sorted_as_numbers():
    rng = np.random.default_rng(0)
    words = np.zeros(5000, uids.UID_DTYPE)
    words["f0"], words["f1"] = rng.integers(0, 50, 5000), rng.integers(0, 2**63, 5000)  # many ties in the first word
    assert (select.sort_uids(words) == np.sort(words)).all()


class HalfBroken(ImageSize):
    """A filter that breaks its contract."""

    def keep(self, batch):
        return pa.array([True])


def test_a_filter_that_answers_for_other_rows_is_a_defect(toy_pool, tmp_path):
    pieces, choice = plan(SIZES_THEN_SCORE, toy_pool, tmp_path)
    with pytest.raises(TypeError, match=r"half_broken\.keep gave"):
        select.select_piece(pieces[0], [HalfBroken()], choice)


def test_features_that_are_not_of_unit_length_name_their_file(toy_rows, write_pool, tmp_path):
    pool = write_pool(tmp_path / "pool", toy_rows)
    *good, bad = sorted(pool.iterdir())
    for file in (*good, bad):
        values = np.eye(pq.read_metadata(file).num_rows, 768, dtype=np.float16) * np.float16(2 if file == bad else 1)
        np.savez(file.with_suffix(".npz"), l14_img=values, l14_txt=values)
    path = str(tmp_path / "vectors.npy")
    np.save(path, np.eye(5, 768, dtype=np.float16))
    told = f"{bad}: {{}} features that are not of unit length (2 to 2), but their inner products are"
    for step, where in (
        (ImageBased(path, path), "l14_img:"),
        (OutsideEvaluationSets(path, 0.5, "l14_img"), "l14_img:"),
        (SemanticDistinct(path, 0.1), "l14_img:"),
        (NormSim(path, 0.0), "l14_img:"),
        (NormSimFraction(path, 0.5), "l14_img:"),
        (NegClipLossFraction(0.5), "image features:"),
    ):
        recipe = Recipe("one", (step,))
        with pytest.raises(CurateError) as error:
            choose_in_a_loop(recipe, *plan(recipe, pool, tmp_path / where / type(step).__name__))
        assert str(error.value).startswith(told.format(where))


def test_scores_of_nan_are_dropped_and_counted(toy_pool, tmp_path, toy_rows):
    recipe = RECIPES["clip_score_b32_30_percent"]
    pieces, choice = plan(recipe, toy_pool, tmp_path)
    choose_in_a_loop(recipe, pieces, choice)
    scores = [
        s
        for p in pieces
        for s in pq.read_table(tmp_path / f"kept/{p.name}.parquet")["clip_b32_similarity_score"].to_pylist()
    ]
    assert scores
    assert not any(s is None or math.isnan(s) for s in scores)
    counts, *_ = manifest.count_rows(pieces, ["clip_score"], str(tmp_path))
    assert counts["dropped"][0]["dropped"] == len(toy_rows) - len(scores)
