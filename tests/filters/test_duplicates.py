"""Steps that compare rows with the same value: equal to a plain restatement, however the rows lie in files."""

import collections
import dataclasses
import hashlib
import itertools
import json
import pathlib
import shutil
import tempfile
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import restated_metaclip
from choosing import choose_in_a_loop, choose_on_beam, files, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.captions import CaptionLength
from filters.clip_score import ClipScoreFraction
from filters.duplicates import Distinct, GroupSize
from filters.recipes import Recipe
from filters.sizes import ImageSize
from metadata.errors import CurateError
from pipeline import groups, select

COMPOSED = unicodedata.normalize("NFC", "café")
#: Values with many ties, nothing at all, spaces, and forms of Unicode that look the same and are not.
VALUES = ["a", "A", "a ", "", None, COMPOSED, unicodedata.normalize("NFD", COMPOSED), "\x00", "\x00\x00", "🚲" * 300]


def restated(step: Distinct | GroupSize, rows: list[dict]) -> set[str]:
    """The uids that stay: groups in a dict, those of a Distinct sorted by their rows' hashes."""
    by_value = collections.defaultdict(list)
    for row in rows:
        value = row[step.by]
        by_value[value.lower() if step.by == "sha256" and value else value].append(row["uid"])
    kept = set(by_value.pop(None, []))
    for uids in by_value.values():
        if isinstance(step, Distinct):
            kept.update(sorted(uids, key=lambda uid: restated_metaclip.row_hash(uid, step.seed))[: step.at_most])
        elif len(uids) <= step.at_most:
            kept.update(uids)
    return kept


def make_rows(values: list[str | None]) -> list[dict]:
    """Rows with those captions, urls and images, the latter as hashes of which some are in capitals."""
    rows = []
    for n, value in enumerate(values):
        sha256 = None if value is None else hashlib.sha256(value.encode()).hexdigest()
        rows.append({"uid": hashlib.md5(str(n).encode()).hexdigest(), "url": value, "text": value,
                     "sha256": sha256.upper() if sha256 and n % 3 == 0 else sha256})  # fmt: skip
    return rows


def write_pool(folder: pathlib.Path, parts: list[list[dict]], rows_per_group: int = 1000) -> pathlib.Path:
    folder.mkdir(parents=True)
    schema = pa.schema([(name, pa.string()) for name in ("uid", "url", "text", "sha256")])
    for n, part in enumerate(parts):
        pq.write_table(pa.Table.from_pylist(part, schema), folder / f"{n}.parquet", row_group_size=rows_per_group)
    return folder


def kept_uids(run: pathlib.Path) -> set[str]:
    return {uid for path in (run / "kept").glob("*.parquet") for uid in pq.read_table(path)["uid"].to_pylist()}


STEPS = [Distinct("text"), Distinct("url", 2), Distinct("sha256", 3, seed=2**64 - 1), GroupSize("text", 1),
         GroupSize("sha256", 2), GroupSize("url", 5)]  # fmt: skip


@pytest.mark.parametrize("step", STEPS, ids=repr)
@settings(max_examples=15)
@given(data=st.data())
def test_any_order_and_any_files_keep_what_the_restatement_keeps(step: Distinct | GroupSize, data: st.DataObject):
    rows = make_rows(data.draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=40)))
    order = data.draw(st.permutations(rows))
    cuts = sorted({0, len(rows), *data.draw(st.lists(st.integers(0, len(rows)), max_size=4))})
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        pool = write_pool(folder / "pool", [order[a:b] for a, b in itertools.pairwise(cuts)])
        recipe = Recipe("r", (step,))
        pieces, choice = plan(recipe, pool, folder / "run", partitions=data.draw(st.sampled_from([2, 8, 64])))
        choose_in_a_loop(recipe, pieces, choice)
        assert kept_uids(folder / "run") == restated(step, rows)
        (fitted,) = select.fitted(recipe.steps, choice.folder)
    finally:
        shutil.rmtree(folder)
    none = sum(row[step.by] is None for row in rows)
    assert fitted == {step.name: step.describe() | {"rows": len(rows), "rows_in_no_group": none}}


#: Rows are compared only with those that reached the step; a fit behind sees what the groups left.
RECIPE = Recipe(
    "several",
    (CaptionLength(2, 2), Distinct("text", 40), ImageSize(150), GroupSize("text", 22), Distinct("text", 7, seed=3),
     ClipScoreFraction("l14", 0.8), Distinct("text", 2)),
)  # fmt: skip


def expected(rows: list[dict]) -> tuple[set[str], list[int]]:
    """RECIPE restated; besides, how many rows each step drops."""
    left = [len(rows)]

    def step(stay) -> None:
        nonlocal rows
        rows = [row for row in rows if stay(row)]
        left.append(len(rows))

    def grouped(one: Distinct | GroupSize) -> None:
        kept = restated(one, rows)
        step(lambda row: row["uid"] in kept)

    step(lambda row: row["text"] and len(row["text"].split()) >= 2)
    grouped(RECIPE.steps[1])
    step(lambda row: min(row["original_width"], row["original_height"]) >= 150)
    grouped(RECIPE.steps[3])
    grouped(RECIPE.steps[4])
    scores = sorted((np.float32(row["clip_l14_similarity_score"]) for row in rows), reverse=True)
    step(lambda row: np.float32(row["clip_l14_similarity_score"]) >= scores[int(len(scores) * 0.8)])
    grouped(RECIPE.steps[6])
    return {row["uid"] for row in rows}, [a - b for a, b in itertools.pairwise(left)]


@pytest.mark.parametrize("workers", [1, 2])
def test_beam_equals_plain_calls_and_the_restatement(workers: int, toy_pool, toy_rows, tmp_path):
    pieces, choice = plan(RECIPE, toy_pool, tmp_path / "loop")
    choose_in_a_loop(RECIPE, pieces, choice)
    _, other = plan(RECIPE, toy_pool, tmp_path / "beam")
    choose_on_beam(RECIPE, pieces, other, workers)
    assert files(tmp_path / "loop") == files(tmp_path / "beam")
    kept, dropped = expected(toy_rows)
    assert kept_uids(tmp_path / "beam") == kept != set()
    counts = [json.loads(pathlib.Path(select.marker(piece, choice.folder)).read_text()) for piece in pieces]
    assert np.sum([count["dropped"] for count in counts], axis=0).tolist() == dropped
    assert all(dropped)


def test_files_in_another_order_keep_the_same_rows(toy_rows, write_pool, tmp_path):
    subsets = []
    for name, rows in (("one", toy_rows), ("other", toy_rows[::-1])):
        pieces, choice = plan(RECIPE, write_pool(tmp_path / name, rows, files=2 + len(name)), tmp_path / f"{name}-run")
        choose_in_a_loop(RECIPE, pieces, choice)
        select.write_subset(choice, len(kept_uids(tmp_path / f"{name}-run")))
        subsets.append((tmp_path / f"{name}-run" / "subset.npy").read_bytes())
    assert subsets[0] == subsets[1]


def test_where_there_are_many_files_they_are_bound_first_and_nothing_else_differs(toy_pool, tmp_path):
    pieces, choice = plan(RECIPE, toy_pool, tmp_path / "one_by_one")
    assert 2 < len(pieces) < choice.partitions
    choose_in_a_loop(RECIPE, pieces, choice)
    _, other = plan(RECIPE, toy_pool, tmp_path / "bound", files_at_once=2)
    choose_in_a_loop(RECIPE, pieces, other)
    choose_on_beam(RECIPE, pieces, dataclasses.replace(other, folder=str(tmp_path / "beam")), workers=2)
    found = files(tmp_path / "bound")
    assert files(tmp_path / "beam") == found
    bound = {name for name in found if "-bound/" in name}
    assert {name.split("/")[1] for name in bound} >= {"uids-bound", "groups-1-bound", "judged-1-bound"}
    assert {name: data for name, data in found.items() if name not in bound} == files(tmp_path / "one_by_one")


def test_a_run_killed_anywhere_goes_on_to_the_same_bytes(toy_pool, tmp_path, monkeypatch):
    pieces, choice = plan(RECIPE, toy_pool, tmp_path / "whole")
    choose_in_a_loop(RECIPE, pieces, choice)
    calls, fatal = itertools.count(), -1
    for name in ("spread_piece", "judge_partition", "settle_piece"):
        step = getattr(groups, name)

        def dying(*args, step=step):
            if next(calls) == fatal:
                raise KeyboardInterrupt
            return step(*args)

        monkeypatch.setattr(groups, name, dying)
    _, other = plan(RECIPE, toy_pool, tmp_path / "killed")
    deaths = 0
    for at in range(0, 56, 5):
        calls, fatal = itertools.count(), at
        try:
            choose_in_a_loop(RECIPE, pieces, other)
        except KeyboardInterrupt:
            deaths += 1
    assert deaths >= 10
    fatal = -1
    choose_in_a_loop(RECIPE, pieces, other)
    assert files(tmp_path / "whole") == files(tmp_path / "killed")


def test_what_is_there_is_not_done_again(toy_pool, tmp_path, monkeypatch):
    pieces, choice = plan(RECIPE, toy_pool, tmp_path / "run")
    choose_in_a_loop(RECIPE, pieces, choice)
    monkeypatch.setattr(select, "walk", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(Distinct, "judge", lambda *_: pytest.fail("judged again"))
    step = RECIPE.steps[1]
    found = groups.spread_piece(pieces[0], [], step, 1, choice)
    groups.judge_partition(0, pieces, step, 1, choice)
    groups.settle_piece(pieces[0], len(pieces), 1, choice)
    assert found["rows"] > 0


def test_of_a_value_that_half_the_pool_has_little_is_handed_on(tmp_path):
    rows = make_rows(["same"] * 3000 + [str(n) for n in range(3000)])
    pool = write_pool(tmp_path / "pool", [rows[n::3] for n in range(3)])
    for step in (Distinct("text", 4), GroupSize("text", 4)):
        recipe = Recipe(step.name, (step,))
        pieces, choice = plan(recipe, pool, tmp_path / step.name)
        choose_in_a_loop(recipe, pieces, choice)
        assert kept_uids(tmp_path / step.name) == restated(step, rows)
        files_of = [tmp_path / step.name / "work/groups-0" / f"{piece.name}.bin" for piece in pieces]
        ends = [np.fromfile(path, "<i8", choice.partitions + 2) for path in files_of]
        assert [end[-2] for end in ends] == [1000 + step.deciding] * 3  # of 2000 rows
        assert [end[-1] for end in ends] == [2000] * 3


def test_a_verdict_that_is_missing_is_a_defect(toy_pool, tmp_path):
    recipe = Recipe("r", (Distinct("text"),))
    pieces, choice = plan(recipe, toy_pool, tmp_path / "run")
    with pytest.raises(RuntimeError, match="distinct: rows reach the step whose fates don't have its verdict"):
        select.select_piece(pieces[0], [groups.Decided(recipe.steps[0], {})], choice)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Distinct("sha265"), "distinct: unknown column 'sha265'. Did you mean 'sha256'? Known: sha256, url"),
        (lambda: Distinct("text", 0), "distinct: at_most is 0, but a group has at least 1 row. Give at least 1."),
        (lambda: Distinct("text", seed=-1), "distinct: seed is -1, but it lies from 0 to 2**64 - 1. Give 0."),
        (lambda: GroupSize("uid", 3), "group_size: unknown column 'uid'. Known: sha256, url, text."),
        (lambda: GroupSize("url", -2), "group_size: at_most is -2, but a group has at least 1 row."),
    ],
)
def test_mistakes(make, words: str):
    with pytest.raises(CurateError) as error:
        make()
    assert words in str(error.value)
