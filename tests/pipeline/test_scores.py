"""Scorers' columns: worked out once a row, only for rows that reach the step, and read from the run's folder then."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from choosing import choose_in_a_loop, choose_on_beam, files, plan

from filters.base import Filter, Fit, Scorer
from filters.fused_score import FusedScoreFraction
from filters.recipes import Recipe, open_recipe
from filters.sizes import ImageSize
from pipeline import scores, select

SEEN: list[int] = []


@dataclasses.dataclass(frozen=True)
class Length(Scorer):
    """Characters of the caption, by a number that it is built with."""

    column = "length"
    columns = ("text",)

    def build(self) -> pa.Buffer:
        return pa.py_buffer(b"7")

    def load(self, built: pa.Buffer) -> Callable[[pa.RecordBatch], pa.Array]:
        def score(batch: pa.RecordBatch) -> pa.Array:
            SEEN.append(batch.num_rows)
            more = int(built.to_pybytes())
            return pa.array([len(text or "") + more for text in batch["text"].to_pylist()], pa.int64())

        return score


@dataclasses.dataclass(frozen=True)
class Longer(Filter):
    """Keeps what is longer than the mean."""

    mean: float
    columns = ("length",)
    scorers = (Length(),)

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        return pa.array(batch["length"].to_numpy() > self.mean)


@dataclasses.dataclass(frozen=True)
class LongerThanMean(Fit):
    """Finishes as Longer."""

    columns = ("length",)
    scorers = (Length(),)
    passes: ClassVar[int] = 1
    name = "longer"

    def empty(self) -> np.ndarray:
        return np.zeros(2, np.int64)

    def add(self, state: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        return state + np.array([batch["length"].to_numpy().sum(), batch.num_rows])

    def merge(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        return state + other

    def finish(self, state: np.ndarray) -> Filter:
        return Longer(float(state[0] / state[1]))


RECIPE = Recipe("longer", (ImageSize(200), LongerThanMean()))


def test_each_row_that_reaches_the_step_is_scored_once(toy_pool, toy_rows, tmp_path):
    SEEN.clear()
    pieces, choice = plan(RECIPE, toy_pool, tmp_path / "run")
    choose_in_a_loop(RECIPE, pieces, choice)
    reaching = [r for r in toy_rows if min(r["original_width"], r["original_height"]) >= 200]
    assert sum(SEEN) == len(reaching) < len(toy_rows)
    lengths = [len(r["text"] or "") + 7 for r in reaching]
    expected = {r["uid"]: n for r, n in zip(reaching, lengths, strict=True) if n > sum(lengths) / len(lengths)}
    kept = pa.concat_tables(pq.read_table(tmp_path / f"run/kept/{p.name}.parquet") for p in pieces)
    assert dict(zip(kept["uid"].to_pylist(), kept["length"].to_pylist(), strict=True)) == expected != {}


def test_a_column_that_a_filter_reads_is_worked_out_once_for_it_and_for_the_kept_rows(toy_pool, toy_rows, tmp_path):
    SEEN.clear()
    recipe = Recipe("longer", (ImageSize(200), Longer(30.0)))
    pieces, choice = plan(recipe, toy_pool, tmp_path / "run")
    choose_in_a_loop(recipe, pieces, choice)
    kept = pa.concat_tables(pq.read_table(tmp_path / f"run/kept/{p.name}.parquet") for p in pieces)
    assert sum(SEEN) == sum(min(r["original_width"], r["original_height"]) >= 200 for r in toy_rows)
    texts = {r["uid"]: r["text"] for r in toy_rows}
    assert kept["length"].to_pylist() == [len(texts[uid] or "") + 7 for uid in kept["uid"].to_pylist()] != []


def test_a_killed_run_reads_what_was_scored(toy_pool, tmp_path):
    pieces, choice = plan(RECIPE, toy_pool, tmp_path / "run")
    filters = [ImageSize(200)]
    select.fit_piece(pieces[0], filters, LongerThanMean(), choice)
    SEEN.clear()
    choose_in_a_loop(RECIPE, pieces, choice)
    undisturbed, its_choice = plan(RECIPE, toy_pool, tmp_path / "other")
    scored = sum(SEEN)
    choose_in_a_loop(RECIPE, undisturbed, its_choice)
    assert sum(SEEN) - scored > scored  # the first piece was not scored again
    assert files(tmp_path / "run") == files(tmp_path / "other")


def test_rows_that_were_not_scored_are_a_defect(toy_pool, tmp_path):
    pieces, choice = plan(RECIPE, toy_pool, tmp_path / "run")
    select.fit_piece(pieces[0], [ImageSize(600)], LongerThanMean(), choice)
    (tmp_path / f"run/work/fate-1/{pieces[0].name}.npy").unlink()
    with pytest.raises(RuntimeError, match="rows reach a step that were not scored for it"):
        select.select_piece(pieces[0], [ImageSize(200), Longer(3.0)], choice)


def test_a_piece_of_which_no_row_reaches_the_step(toy_rows, write_pool, tmp_path):
    rows = [r | {"original_width": 1} if n < 400 else r for n, r in enumerate(toy_rows)]  # all of one file, and more
    pieces, choice = plan(RECIPE, write_pool(tmp_path / "pool", rows), tmp_path / "run")
    choose_in_a_loop(RECIPE, pieces, choice)
    counts = [json.loads(pathlib.Path(select.marker(piece, choice.folder)).read_text()) for piece in pieces]
    assert [count["kept"] == 0 for count in counts].count(True) == 1


NAMES = ["x", "./x", "x/y", "..", "../../../up", "/tmp/abs", "", "nul\0", "x" * 300, "ßtraße", "=x"]


def test_a_column_of_score_files_may_have_any_name(toy_pool, toy_rows, tmp_path):
    """Each is read as itself, and nothing is written but in the run's folder."""
    given = {name: [(7 * n + 3 * m) % 101 / 7 for m in range(len(toy_rows))] for n, name in enumerate(NAMES)}
    uids = [row["uid"] for row in toy_rows]
    pq.write_table(pa.table({"uid": uids, **given}), tmp_path / "scores.parquet")
    step = FusedScoreFraction(dict.fromkeys(NAMES, 1.0), 0.5, str(tmp_path / "scores.parquet")).with_files({})
    recipe = Recipe("any", (step,))
    there = set(tmp_path.iterdir())
    pieces, choice = plan(recipe, toy_pool, tmp_path / "run")
    choose_in_a_loop(recipe, pieces, choice)
    assert set(tmp_path.iterdir()) - there == {tmp_path / "run"}
    kept = pa.concat_tables(pq.read_table(tmp_path / f"run/kept/{p.name}.parquet") for p in pieces)
    assert 0 < kept.num_rows < len(toy_rows)
    for name in NAMES:
        values = dict(zip(uids, given[name], strict=True))
        assert kept[name].to_pylist() == pytest.approx([values[uid] for uid in kept["uid"].to_pylist()]), name


@pytest.mark.parametrize("workers", [1, 2])
def test_balancing_on_beam_equals_plain_calls(workers, toy_pool, tmp_path):
    (tmp_path / "entries.json").write_text(json.dumps(["a", "the", "best", "of", "house", "the best", "dog", "red"]))
    recipe = open_recipe("clip_score_balanced", {"default": str(tmp_path / "entries.json")})
    pieces, choice = plan(recipe, toy_pool, tmp_path / "loop")
    choose_in_a_loop(recipe, pieces, choice)
    _, other = plan(recipe, toy_pool, tmp_path / "beam")
    choose_on_beam(recipe, pieces, other, workers)
    assert np.load(select.tally_path(1, str(tmp_path / "beam")))["rows"][0] > 0
    assert files(tmp_path / "loop") == files(tmp_path / "beam")


def test_a_filter_reads_a_scorers_column_with_no_fit_before_it(toy_pool, tmp_path, small_wordnet):
    recipe = open_recipe("text_based")
    pieces, on_beam = plan(recipe, toy_pool, tmp_path / "beam")
    _, in_loop = plan(recipe, toy_pool, tmp_path / "loop")
    for part in small_wordnet.iterdir():  # workers have what was built of it
        part.unlink()
    choose_on_beam(recipe, pieces, on_beam, workers=2)
    choose_in_a_loop(recipe, pieces, in_loop)
    assert files(tmp_path / "beam") == files(tmp_path / "loop")
    kept = pq.read_table(tmp_path / "beam" / "kept").to_pydict()
    assert set(kept["text"]) == {"dog"}
    assert set(kept["imagenet_synset"]) == {10}


def test_scores_of_files_are_joined_on_every_worker(toy_pool, toy_rows, tmp_path):
    known = [row["uid"] for row in toy_rows[::-1] if row["original_width"] != 600]
    scores = pa.table({"uid": known, "dfn": pa.array(range(len(known)), pa.int32())})
    pq.write_table(scores, tmp_path / "dfn.parquet")
    (tmp_path / "mine.yaml").write_text(f"""
name: mine
steps:
  - image_size: 200
  - fused_score: {{files: {tmp_path}/dfn.parquet, weights: {{dfn: 1, clip_l14_similarity_score: 0.001}}, fraction: 0.2}}
""")
    recipe = open_recipe(str(tmp_path / "mine.yaml"))
    pieces, on_beam = plan(recipe, toy_pool, tmp_path / "beam")
    _, in_loop = plan(recipe, toy_pool, tmp_path / "loop")
    (tmp_path / "dfn.parquet").unlink()  # workers have what was built of it
    choose_on_beam(recipe, pieces, on_beam, workers=2)
    choose_in_a_loop(recipe, pieces, in_loop)
    assert files(tmp_path / "beam") == files(tmp_path / "loop")
    kept = pq.read_table(tmp_path / "beam" / "kept").to_pydict()
    place = {uid: n for n, uid in enumerate(known)}
    assert kept["dfn"] == [place[uid] for uid in kept["uid"]]
    large = [row for row in toy_rows if min(row["original_width"], row["original_height"]) >= 200]
    assert len(kept["uid"]) == int(0.2 * len(large))
    (_, fitted) = select.fitted(recipe.steps, str(tmp_path / "beam"))
    assert fitted["fused_score"]["rows_lacking"]["dfn"] == sum(row["original_width"] == 600 for row in large)


def test_what_a_kept_column_was_made_of_is_not_read_again(toy_pool, tmp_path):
    pieces, choice = plan(RECIPE, toy_pool, tmp_path / "run")
    select.fit_piece(pieces[0], [], LongerThanMean(), choice)
    unread = [scores.Scores(piece, choice.folder).unread([LongerThanMean()]) for piece in pieces[:2]]
    assert unread == [["length"], ["text", "length"]]
