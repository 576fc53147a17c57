"""Balance: the rows that MetaCLIP's algorithm keeps, restated row by row, and what it tells."""

import hashlib
import io
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import restated_metaclip as plain

from filters.balance import MATCHES, Balance, Balanced
from filters.base import Filter, Fit
from metadata.errors import CurateError

ENTRIES = ["a", "dog", "the dog", "red", "red dog", ",", "U.S.", "café", "never seen", "犬", "beach", "photo of"]
CAPTIONS = [
    "a dog", "the dog, red", "a red dog on the beach", "photo of a dog", "a", "A Dog", "", None, "a  dog",
    "café\ta dog", "U.S. dog",
    "犬 が 浜辺", "dog dog dog", "nothing here", "red,dog", "the  dog", "photo of the red dog!",
    "beach.",
]  # fmt: skip
WORLD = {"en": ENTRIES[:8], "de": ["Hund", "Strand", "am Strand", "rot"], "ja": ["犬", "浜辺", "の写真", "写真"]}
WORLDLY = [
    *CAPTIONS[:5], "the dog runs along the beach with a stick", "Ein Hund läuft am Strand entlang",
    "Der Hund und der Strand, rot", "浜辺を走る犬の写真です", "犬の写真", "Красивая собака бежит по пляжу",
    "Собака на пляже летом",
]  # fmt: skip


def rows(captions: list, number: int = 600) -> pa.RecordBatch:
    uids = [hashlib.md5(f"row {n}".encode()).hexdigest() for n in range(number)]
    texts = [captions[(n * n + n // 7) % len(captions)] for n in range(number)]
    return pa.record_batch({"uid": uids, "text": pa.array(texts, pa.string())})


def written(folder: pathlib.Path, content) -> str:
    path = folder / "entries.json"
    path.write_text(json.dumps(content))
    return str(path)


def scored(step: Balance, batch: pa.RecordBatch) -> pa.RecordBatch:
    for scorer in step.scorers:
        batch = batch.append_column(scorer.column, scorer.load(scorer.build())(batch))
    return batch


def fitted(step: Balance, batch: pa.RecordBatch) -> Balanced:
    fit: Filter | Fit = step
    while isinstance(fit, Fit):
        fit = fit.finish(fit.add(fit.empty(), batch))
    assert isinstance(fit, Balanced)
    return fit


def chosen(step: Balance, batch: pa.RecordBatch) -> list[int]:
    return np.flatnonzero(fitted(step, batch).keep(batch)).tolist()


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("asked", [{"t": 1}, {"t": 40}, {"t": 20_000}, {"tail_share": 0.06}, {"tail_share": 0.4}])
def test_keeps_the_rows_of_the_rule(asked: dict, seed: int, tmp_path: pathlib.Path) -> None:
    step = Balance(written(tmp_path, ENTRIES), seed=seed, **asked).with_files({})
    batch = scored(step, rows(CAPTIONS))
    matches = [plain.matched(text, ENTRIES) for text in batch["text"].to_pylist()]
    assert batch[MATCHES].to_pylist() == matches
    counts = plain.count(matches, len(ENTRIES))
    t = asked.get("t") or plain.t_of(counts, asked["tail_share"])
    expected = plain.kept(batch["uid"].to_pylist(), matches, counts, lambda _: t, seed)
    assert chosen(step, batch) == expected != []
    assert len(expected) <= sum(map(bool, matches)) < batch.num_rows
    record = fitted(step, batch).describe()
    assert (record["t"], record["rows"], record["rows_matching"]) == (t, 600, sum(map(bool, matches)))
    assert record["entries"] == len(ENTRIES)


@pytest.mark.parametrize("target", [1, 100, 250])
def test_a_target_is_met_by_the_least_t_that_meets_it(target: int, tmp_path: pathlib.Path) -> None:
    step = Balance(written(tmp_path, ENTRIES), target=target).with_files({})
    batch = scored(step, rows(CAPTIONS))
    found = fitted(step, batch)
    matches = batch[MATCHES].to_pylist()
    counts = plain.count(matches, len(ENTRIES))
    assert chosen(step, batch) == plain.kept(batch["uid"].to_pylist(), matches, counts, lambda _: found.t[""])
    assert len(chosen(step, batch)) == pytest.approx(target, abs=1)


@pytest.mark.parametrize("asked", [{"t": 30}, {"tail_share": 0.2}, {"target": 400}], ids=str)
def test_a_sample_grown_is_fitted_as_a_pool_that_has_its_rows_as_often(asked: dict, tmp_path: pathlib.Path) -> None:
    step = Balance(written(tmp_path, ENTRIES), **asked).with_files({})
    batch = scored(step, rows(CAPTIONS, 200))
    grown: Filter | Fit = step
    often: Filter | Fit = step
    while isinstance(grown, Fit) and isinstance(often, Fit):
        grown = grown.finish(grown.grown(grown.add(grown.empty(), batch), 3.0))
        state = often.empty()
        for _ in range(3):
            state = often.add(state, batch)
        often = often.finish(state)
    assert isinstance(grown, Balanced)
    assert isinstance(often, Balanced)
    assert grown.describe() == often.describe()
    assert grown.keep(batch) == often.keep(batch)
    assert len(set(grown.keep(batch).to_pylist())) == 2


def test_a_target_beyond_what_matches_says_how_many_do(tmp_path: pathlib.Path) -> None:
    step = Balance(written(tmp_path, ENTRIES), target=600).with_files({})
    batch = scored(step, rows(CAPTIONS))
    matching = sum(map(bool, batch[MATCHES].to_pylist()))
    with pytest.raises(CurateError, match=rf"target is 600 rows, but {matching} of the 600 that reach .* Lower it"):
        fitted(step, batch)


@pytest.mark.parametrize("asked", [{"t": 30}, {"tail_share": 0.3}])
def test_each_language_has_its_own_entries_and_t(asked: dict, tmp_path: pathlib.Path) -> None:
    step = Balance(written(tmp_path, WORLD), **asked).with_files({})
    batch = scored(step, rows(WORLDLY))
    entries, owners = plain.by_language(WORLD)
    languages = batch["caption_language"].to_pylist()
    assert {"en", "de", "ja", "ru"} <= set(languages)
    matches = [
        [n for n in plain.matched(text, entries, language) if owners[n] == language]
        for text, language in zip(batch["text"].to_pylist(), languages, strict=True)
    ]
    assert batch[MATCHES].to_pylist() == matches
    counts = plain.count(matches, len(entries))
    own = {name: [c for c, owner in zip(counts, owners, strict=True) if owner == name] for name in WORLD}
    share = asked.get("tail_share") or plain.tail_share(own["en"], asked["t"])
    t = {name: plain.t_of(own[name], share) for name in WORLD} | ({"en": asked["t"]} if "t" in asked else {})
    assert chosen(step, batch) == plain.kept(batch["uid"].to_pylist(), matches, counts, lambda n: t[owners[n]])
    record = fitted(step, batch).describe()
    assert record["t"] == t
    strange = {name: languages.count(name) for name in sorted({*languages} - {*WORLD, None})}
    assert record["languages_without_entries"] == strange
    assert "ru" in strange


def test_languages_without_entries_go_to_other(tmp_path: pathlib.Path) -> None:
    step = Balance(written(tmp_path, {**WORLD, "other": ["Собака"]}), tail_share=0.3).with_files({})
    batch = scored(step, rows(WORLDLY))
    russian = [n for n, language in enumerate(batch["caption_language"].to_pylist()) if language == "ru"]
    owners = plain.by_language({**WORLD, "other": ["Собака"]})[1]
    found = batch[MATCHES].to_pylist()
    assert {owners[entry] for n in russian for entry in found[n]} == {"other"}
    assert "languages_without_entries" not in fitted(step, batch).describe()


def test_the_tally_counts_before_and_after_and_tells(tmp_path: pathlib.Path) -> None:
    step = Balance(written(tmp_path, ENTRIES), t=40).with_files({})
    batch = scored(step, rows(CAPTIONS))
    balanced = fitted(step, batch)
    keep = np.asarray(balanced.keep(batch))
    tally = balanced.tally()
    state = tally.empty()
    for start in range(0, 600, 130):  # any split, as the law of fits has it
        part = slice(start, start + 130)
        added = tally.add(tally.empty(), batch[MATCHES].slice(start, 130), keep[part])
        state = tally.merge(added, state)
    told = step.tell(state, balanced.describe())
    matches = batch[MATCHES].to_pylist()
    counts = plain.count(matches, len(ENTRIES))
    after = plain.count([found for found, stays in zip(matches, keep, strict=True) if stays], len(ENTRIES))
    table = pq.read_table(io.BytesIO(told.files["entry_counts.parquet"])).to_pydict()
    assert table["entry"] == ENTRIES
    assert (table["count"], table["kept"]) == (counts, after)
    assert table["probability"] == [min(1.0, 40 / c) if c else 1.0 for c in counts]
    expected = sum(1 - np.prod([1 - min(1, 40 / counts[n]) for n in found]) for found in matches)
    assert told.record["rows_expected"] == pytest.approx(expected, abs=0.1)
    assert told.record["rows_kept"] == keep.sum()
    assert told.record["rows_matching_nothing"] == sum(not found for found in matches)
    assert told.record["entries_without_match"] == counts.count(0)
    assert told.record["tail_share_before"] == round(plain.tail_share(counts, 40), 4)
    picture = told.files["balance.svg"].decode()
    assert picture.startswith("<?xml")
    assert ">photo of</text>" in picture


def test_a_hostile_entry_is_harmless_in_the_picture(tmp_path: pathlib.Path) -> None:
    entry = "<script>alert(1)</script> $x$ \x1b[31m"
    step = Balance(written(tmp_path, [entry]), t=1).with_files({})
    batch = scored(step, rows([entry], 3))
    balanced = fitted(step, batch)
    tally = balanced.tally()
    state = tally.add(tally.empty(), batch[MATCHES], np.ones(3, bool))
    picture = step.tell(state, balanced.describe()).files["balance.svg"].decode()
    assert "<script>" not in picture
    assert "\x1b" not in picture


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "none of t, tail_share and target is given, but exactly one is needed"),
        ({"t": 5, "target": 6}, "t and target is given, but exactly one is needed"),
        ({"t": 0}, "t is 0, but it is a whole number of at least 1"),
        ({"target": -1}, "target is -1, but"),
        ({"tail_share": 1.0}, r"tail_share is 1\.0, but it lies above 0 and below 1"),
        ({"tail_share": float("nan")}, "tail_share is nan"),
        ({"t": 5, "seed": -1}, "seed is -1, but"),
    ],
)
def test_what_is_out_of_range_is_refused(given: dict, words: str) -> None:
    with pytest.raises(CurateError, match=f"^balance: .*{words}"):
        Balance(**given)


def test_lists_that_do_not_go_with_what_is_asked(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CurateError, match="needs an entry list with languages, but none was named"):
        Balance("worldwide", t=5).with_files({})
    with pytest.raises(CurateError, match=r"wordnet has no languages, but the recipe balances each"):
        Balance("worldwide", t=5).with_files({"worldwide": "wordnet"})
    world = written(tmp_path, WORLD)
    with pytest.raises(CurateError, match="target is given with a list that has languages"):
        Balance(world, target=5).with_files({})
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps({"de": ["Hund"]}))
    with pytest.raises(CurateError, match=r"t is English's, .*foreign\.json has no en entries"):
        Balance(str(foreign), t=5).with_files({})
    pq.write_table(pa.table({"entry": ["a", "b"], "language": ["en", None]}), tmp_path / "half.parquet")
    with pytest.raises(CurateError, match="1 of 2 entries have no language, but all have or none has"):
        Balance(str(tmp_path / "half.parquet"), t=5).with_files({})


def test_the_default_list_ships(tmp_path: pathlib.Path) -> None:
    step = Balance(t=20_000).with_files({})
    assert step.describe()["entries"] > 80_000
    again = Balance("wordnet", t=20_000).with_files({})
    assert again.describe() == step.describe()
    mine = Balance(t=20_000).with_files({"default": written(tmp_path, ENTRIES)})
    assert mine.describe()["entries"] == len(ENTRIES)
