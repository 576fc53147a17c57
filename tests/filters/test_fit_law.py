"""The law of fits: any split of the rows into batches and any order of merges finish as the plain restatement says.

Some fits count the rows of the pool that the steps before have dropped, too: these come in any order with the others.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
import restated_metaclip
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.balance import Balance, Balanced
from filters.base import Filter, Fit
from filters.best import Best
from filters.clip_score import ClipScore, ClipScoreFraction
from filters.frequent_tokens import FrequentOnly, FrequentTokens
from filters.fused_score import FusedScore, FusedScoreFraction
from filters.negcliploss import NegClipLossFraction
from filters.soft_cap import SoftCap

SCORES = st.none() | st.floats(width=32) | st.sampled_from([0.1, 0.2, 0.25, -0.0, 0.0])


@dataclasses.dataclass(frozen=True)
class BestOf(Best):
    """The best by a column, as a fraction of the step's rows or the pool's."""

    fraction: float
    of: str
    columns = ("clip_l14_similarity_score",)

    def scores(self, batch: pa.RecordBatch) -> pa.FloatArray:
        return batch.column(0)

    def at(self, threshold: float) -> ClipScore:
        return ClipScore("l14", threshold)


def highest_scores(fit: ClipScoreFraction, rows: pa.RecordBatch, dropped: int) -> Filter | None:
    """What ClipScoreFraction must finish as: a sort of the whole column; None where no row has a score."""
    scores = sorted((s for s in rows.column(0).to_pylist() if s is not None and s == s), reverse=True)
    if not scores:
        return None
    threshold = scores[min(int(rows.num_rows * fit.fraction), len(scores) - 1)]
    return ClipScore(fit.model, threshold).knowing(rows.num_rows - len(scores))


def best_scores(fit: Best, rows: pa.RecordBatch, dropped: int) -> Filter | None:
    """What a Best must finish as: the least of the int(rows * fraction) highest scores."""
    scores = sorted((s for s in rows.column(0).to_pylist() if s is not None and s == s), reverse=True)
    if not scores:
        return None
    total = rows.num_rows + (dropped if fit.of == "pool" else 0)
    best = scores[: max(int(total * fit.fraction), 1)]
    return fit.at(best[-1]).knowing(rows.num_rows - len(scores))


def score_rows(name: str) -> st.SearchStrategy[pa.RecordBatch]:
    return st.lists(SCORES, min_size=1, max_size=60).map(lambda s: pa.record_batch({name: pa.array(s, pa.float32())}))


ENTRIES = ["a", "b", "c", "d", "e"]


def balanced(fit: Balance, rows: pa.RecordBatch, _: int) -> Filter | None:
    """What Balance must finish as: every entry counted on its own; None where too few rows match for a target."""
    matches = rows["entry_matches"].to_pylist()
    counts = restated_metaclip.count(matches, len(ENTRIES))
    counted = {"counts": np.array(counts), "rows": len(matches), "matching": sum(map(bool, matches)),
               "unlisted": collections.Counter()}  # fmt: skip
    if fit.target is None:
        t = fit.t or restated_metaclip.t_of(counts, fit.tail_share) if any(counts) else fit.t or 1
        return Balanced(fit, counted, {"": float(t)})
    if counted["matching"] < fit.target:
        return None
    drawn = [[restated_metaclip.draw(uid, fit.seed, e) * counts[e] for e in own]
             for uid, own in zip(rows["uid"].to_pylist(), matches, strict=True)]  # fmt: skip
    steps = sorted(int(np.float32(min(own)).view(np.uint32)) >> 12 for own in drawn if own)
    last = steps[fit.target - 1]
    low, high = (float(np.uint32(step << 12).view(np.float32)) for step in (last, last + 1))
    below, within = sum(step < last for step in steps), steps.count(last)
    return Balanced(fit, counted, {"": low + (high - low) * (fit.target - below) / within})


def matching_rows() -> st.SearchStrategy[pa.RecordBatch]:
    entries = st.lists(st.integers(0, len(ENTRIES) - 1), unique=True, max_size=4).map(sorted)

    def batch(matches: list[list[int]]) -> pa.RecordBatch:
        uids = [f"{n:032x}" for n in range(len(matches))]
        return pa.record_batch({"uid": uids, "entry_matches": pa.array(matches, pa.list_(pa.uint32()))})

    return st.lists(entries, min_size=1, max_size=40).map(batch)


@functools.cache
def entry_file() -> str:
    path = pathlib.Path(tempfile.mkdtemp(), "entries.json")
    path.write_text(json.dumps(ENTRIES))
    return str(path)


def balance(**asked) -> Balance:
    return Balance(entry_file(), **asked).with_files({})


def fused(fit: FusedScoreFraction, rows: pa.RecordBatch, _: int) -> Filter | None:
    """What FusedScoreFraction must finish as: exact means and deviations, and a sort; None where it can't be."""
    columns = {name: rows[name].to_pylist() for name in fit.weights}
    good = {name: [n for n, x in enumerate(values) if x is not None and math.isfinite(x)]
            for name, values in columns.items()}  # fmt: skip
    whole = sorted(set.intersection(*map(set, good.values())))
    some = {name: [Fraction(values[n]) for n in whole] for name, values in columns.items()}
    most_lack = any(2 * len(there) < rows.num_rows for there in good.values())
    if most_lack or any(len(set(own)) < 2 for own in some.values()):
        return None
    if fit.scale == "standardise":
        offsets = {name: float(sum(own) / len(own)) for name, own in some.items()}
        divisors = {name: math.sqrt(statistics.pvariance(own)) for name, own in some.items()}
    else:
        offsets = {name: float(min(own)) for name, own in some.items()}
        divisors = {name: float(max(own)) - offsets[name] for name, own in some.items()}
    counted = {"rows": rows.num_rows, "rows_without_score": rows.num_rows - len(whole),
               "rows_lacking": {name: rows.num_rows - len(there) for name, there in good.items()}}  # fmt: skip
    if not all(divisors.values()):
        return None
    found = FusedScore(fit, offsets, divisors, 0.0, counted)
    scores = sorted((x for x in found.scores(rows).to_pylist() if x is not None), reverse=True)
    place = min(max(int(rows.num_rows * fit.fraction) - 1, 0), len(scores) - 1)
    return dataclasses.replace(found, threshold=scores[place] + 0.0)


def two_scores() -> st.SearchStrategy[pa.RecordBatch]:
    grid = st.sampled_from([0.1, 0.25, -3.0, 2.0**-149, 3e38])
    scores = st.floats(-10, 10, width=32) | grid | st.sampled_from([None, math.nan])
    pairs = st.lists(st.tuples(scores, scores), min_size=1, max_size=40)

    def batch(drawn: list[tuple]) -> pa.RecordBatch:
        return pa.record_batch([pa.array(values, pa.float32()) for values in zip(*drawn, strict=True)], ["a", "b"])

    return pairs.map(batch)


def soft_capped(fit: SoftCap, rows: pa.RecordBatch, dropped: int) -> Filter | None:
    """What SoftCap must finish as: as seen in one batch, which another test compares with a race of clocks."""
    scores = [x for x in rows["a"].to_pylist() if x is not None and math.isfinite(x)]
    if 2 * len(scores) < rows.num_rows or len(set(scores)) < 2:
        return None
    made: Filter | Fit = fit
    for _ in range(fit.passes):
        made = made.finish(made.skip(made.add(made.empty(), rows), dropped))
    assert made.copies(rows).sum() == (fit.samples or rows.num_rows + dropped)
    return made


def scores_of_uids() -> st.SearchStrategy[pa.RecordBatch]:
    return two_scores().map(
        lambda rows: pa.record_batch({"uid": [f"{n:032x}" for n in range(rows.num_rows)], "a": rows["a"]})
    )


def frequent(fit: FrequentTokens, rows: pa.RecordBatch, _: int) -> Filter:
    """What FrequentTokens must finish as: each token's cell worked out on its own, and counted."""

    def number(word: str) -> int:
        return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")

    counts = [0] * fit.cells
    for words in ((text or "").split() for text in rows["text"].to_pylist()):
        pairs = [number(a) * 0x9E3779B97F4A7C15 + number(b) for a, b in itertools.pairwise(words)]
        for value in (*map(number, words), *pairs):
            counts[(value % 2**64 >> 32) * fit.cells >> 32] += 1
    least = max(sorted(counts)[-fit.most], 1)
    return FrequentOnly(fit, np.packbits([count >= least for count in counts]), least, sum(map(bool, counts)))


def captions() -> st.SearchStrategy[pa.RecordBatch]:
    texts = st.none() | st.lists(st.sampled_from(["a", "b", "dog", "犬", ""]), max_size=5).map(" ".join)
    rows = st.lists(texts, min_size=1, max_size=30)
    return rows.map(lambda drawn: pa.record_batch({"text": pa.array(drawn, pa.string())}))


#: Every fit, rows it may meet, and its plain restatement.
FITS = [
    *((balance(**asked), matching_rows(), balanced) for asked in ({"t": 3}, {"tail_share": 0.3}, {"target": 5})),
    (FrequentTokens(4, 16), captions(), frequent),
    *((FusedScoreFraction({"a": 0.6, "b": -0.2}, 0.3, scale=scale), two_scores(), fused)
      for scale in ("standardise", "min_max")),
    (ClipScoreFraction("l14", 0.3), score_rows("clip_l14_similarity_score"), highest_scores),
    (ClipScoreFraction("b32", 0.01), score_rows("clip_b32_similarity_score"), highest_scores),
    (ClipScoreFraction("l14", 0.97), score_rows("clip_l14_similarity_score"), highest_scores),
    (NegClipLossFraction(0.3), score_rows("negcliploss"), best_scores),
    (BestOf(0.2, "pool"), score_rows("clip_l14_similarity_score"), best_scores),
    (BestOf(0.5, "step"), score_rows("clip_l14_similarity_score"), best_scores),
    (SoftCap({"a": 1.5}), scores_of_uids(), soft_capped),
    (SoftCap({"a": -0.5}, samples=70, penalty=2.0, scale="min_max"), scores_of_uids(), soft_capped),
]


def split_and_merged(fit: Fit, rows: pa.RecordBatch, dropped: int, data: st.DataObject) -> Filter:
    """The fit over drawn batches of `rows`, in any number of states that are merged in any order."""
    for _ in range(fit.passes):
        cuts = sorted({0, rows.num_rows, *data.draw(st.lists(st.integers(0, rows.num_rows), max_size=5))})
        batches = [rows.slice(a, b - a) for a, b in itertools.pairwise(cuts)] + [rows.slice(0, 0)]
        states = [fit.empty()]
        for batch in data.draw(st.permutations(batches)):
            if data.draw(st.booleans()):
                states.append(fit.empty())
            states[-1] = fit.add(states[-1], batch)
        for some in (dropped // 3, dropped - dropped // 3):
            at = data.draw(st.integers(0, len(states) - 1))
            states[at] = fit.skip(states[at], some)
        while len(states) > 1:
            one = states.pop(data.draw(st.integers(0, len(states) - 1)))
            at = data.draw(st.integers(0, len(states) - 1))
            states[at] = fit.merge(states[at], one) if data.draw(st.booleans()) else fit.merge(one, states[at])
        fit = fit.finish(states[0])
    assert isinstance(fit, Filter)
    return fit


def named(fit: Fit) -> str:
    """Its repr, which is the same in every process."""
    return repr(fit).replace(entry_file(), "entries.json")


@pytest.mark.parametrize(("fit", "strategy", "restated"), FITS, ids=lambda x: named(x) if isinstance(x, Fit) else "")
@settings(max_examples=60)
@given(data=st.data())
def test_any_split_and_any_merges_give_the_same(
    fit: Fit, strategy: st.SearchStrategy, restated: Callable, data: st.DataObject
) -> None:
    rows = data.draw(strategy)
    dropped = data.draw(st.integers(0, 100))
    expected = restated(fit, rows, dropped)
    if expected is not None:
        found = split_and_merged(fit, rows, dropped, data)
        assert found.describe() == expected.describe()
        assert np.array_equal(found.keep(rows), expected.keep(rows))
