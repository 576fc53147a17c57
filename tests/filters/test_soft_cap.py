"""SoftCap takes the samples that a plain race takes, and of the published draws in batches it keeps the law."""

import dataclasses
import heapq
import json
import math
import pathlib
import random
import statistics
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import restated_metaclip

from filters import soft_cap
from filters.base import Filter, Fit
from filters.fused_score import FusedScore
from filters.joined import JoinedScore
from filters.recipes import Recipe, check, open_recipe, recipe_columns
from filters.sizes import ImageSize
from filters.soft_cap import SoftCap, SoftCapped
from metadata.errors import CurateError

PENALTY = 0.15


def rows_of(scores: list[float | None], seed: int = 0) -> pa.RecordBatch:
    draw = random.Random(seed)
    uids = [f"{draw.getrandbits(128):032x}" for _ in scores]
    return pa.record_batch({"uid": uids, "a": pa.array(scores, pa.float32())})


def gauss(rows: int, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [float(np.float32(draw.gauss(0.3, 2))) for _ in range(rows)]


def fitted(fit: Filter | Fit, batch: pa.RecordBatch, size: int = 700) -> SoftCapped:
    for _ in range(fit.passes):
        state = fit.empty()
        for start in range(0, batch.num_rows, size):
            state = fit.merge(fit.add(fit.empty(), batch.slice(start, size)), state)
        fit = fit.finish(state)
    assert isinstance(fit, SoftCapped)
    return fit


def standardised(batch: pa.RecordBatch, weight: float = 1.0) -> list[float]:
    scores = batch["a"].to_pylist()
    there = [x for x in scores if x is not None and math.isfinite(x)]
    mean, deviation = statistics.fmean(there), statistics.pstdev(there)
    return [weight * (x - mean) / deviation if x is not None and math.isfinite(x) else math.nan for x in scores]


def race(batch: pa.RecordBatch, samples: int, weight: float, penalty: float = PENALTY, seed: int = 0) -> list[int]:
    """How often each row is drawn in the race, run ring by ring."""

    def clock(uid: str, score: float) -> Iterator[float]:
        now, draw = 0.0, 0
        while True:
            wait = -math.log1p(-restated_metaclip.draw(uid, seed, draw))
            now += wait / math.exp(score - penalty * draw)
            yield now
            draw += 1

    scores = [float(np.float32(score)) for score in standardised(batch, weight)]
    clocks = [clock(*row) for row in zip(batch["uid"].to_pylist(), scores, strict=True)]
    waiting = [(next(clock), n) for n, clock in enumerate(clocks) if not math.isnan(scores[n])]
    heapq.heapify(waiting)
    copies = [0] * len(clocks)
    for _ in range(samples):
        n = waiting[0][1]
        copies[n] += 1
        heapq.heapreplace(waiting, (next(clocks[n]), n))
    return copies


def published(scores: np.ndarray, samples: int, batch: int, rng: np.random.Generator) -> np.ndarray:
    """M-FLYT's: softmax of the scores, a batch without replacement, the penalty off what was drawn, and again."""
    left, copies = scores.copy(), np.zeros(len(scores), np.int64)
    while samples:
        weights = np.exp(left - left.max())
        drawn = rng.choice(len(left), min(batch, samples), replace=False, p=weights / weights.sum())
        copies[drawn] += 1
        left[drawn] -= PENALTY
        samples -= len(drawn)
    return copies


@pytest.mark.parametrize("weight", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("samples", [1, 50, 1000, 7777])
def test_takes_what_the_race_takes(samples: int, weight: float) -> None:
    batch = rows_of([*gauss(900), *[None, math.nan, math.inf] * 20, *[2.5] * 40])
    found = fitted(SoftCap({"a": weight}, samples=samples, seed=3), batch, 90)
    copies = found.copies(batch)
    assert copies.tolist() == race(batch, samples, weight, seed=3)
    assert copies.sum() == samples == found.samples
    assert np.array_equal(np.asarray(found.keep(batch)), copies > 0)


@pytest.mark.parametrize(("penalty", "most"), [(0.001, 800), (0.7, 13), (100.0, 1)])
def test_penalties_from_hardly_any_to_never_twice(penalty: float, most: int) -> None:
    batch = rows_of(gauss(500))
    copies = fitted(SoftCap({"a": 2}, samples=450, penalty=penalty), batch).copies(batch)
    assert copies.tolist() == race(batch, 450, 2, penalty)
    assert 1 <= copies.max() <= most


def levels(scores: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """The mean number of copies of each twentieth of the rows, by score."""
    level = np.argsort(np.argsort(scores)) * 20 // len(scores)
    return np.bincount(level, copies, 20) / np.bincount(level)


@pytest.fixture(scope="module")
def drawn() -> tuple[pa.RecordBatch, np.ndarray, np.ndarray]:
    """3,000 rows, their scores, and how often each was taken with 40 seeds: shape (40, 3000)."""
    batch = rows_of(gauss(3000))
    found = [fitted(SoftCap({"a": 1.5}, samples=6000, seed=seed), batch, 3000).copies(batch) for seed in range(40)]
    return batch, np.array(standardised(batch, 1.5)), np.array(found)


def test_the_law_is_that_of_the_published_draws_one_at_a_time(drawn) -> None:
    _, scores, ours = drawn
    rng = np.random.default_rng(1)
    theirs = np.array([published(scores, 6000, 1, rng) for _ in range(4)])
    for score_level in range(20):
        rows = np.argsort(scores)[score_level * 150 : (score_level + 1) * 150]
        # Both are means over many rows: five standard errors of the smaller sample, which is a bound for both.
        error = theirs[:, rows].std() / math.sqrt(theirs[:, rows].size) + 0.002
        assert abs(ours[:, rows].mean() - theirs[:, rows].mean()) < 5 * error
    # Not only the means: how many rows were taken once, twice, ….
    sizes = [np.bincount(one.ravel(), minlength=40)[:12] / one.size for one in (ours, theirs)]
    assert np.abs(sizes[0] - sizes[1]).max() < 0.01


def test_batches_differ_little(drawn) -> None:
    _, scores, ours = drawn
    rng = np.random.default_rng(2)
    theirs = np.mean([levels(scores, published(scores, 6000, 100, rng)) for _ in range(40)], axis=0)
    difference = np.abs(levels(scores, ours.mean(axis=0)) - theirs)
    assert (difference < 0.03 * theirs + 0.05).all()


@pytest.mark.parametrize(("samples", "drawn"), [(4000, 400), (None, 500)])
def test_of_a_sample_of_a_pool_as_much_less_is_drawn(samples: int | None, drawn: int) -> None:
    batch = rows_of(gauss(500))
    fit: Filter | Fit = SoftCap({"a": 1}, samples=samples)
    while isinstance(fit, Fit):
        fit = fit.finish(fit.grown(fit.add(fit.empty(), batch), 10.0))
    assert isinstance(fit, SoftCapped)
    assert fit.until == fitted(SoftCap({"a": 1}, samples=drawn), batch).until
    assert fit.copies(batch).sum() == drawn


def test_the_order_of_the_rows_does_not_matter() -> None:
    batch = rows_of(gauss(2000))
    order = np.random.default_rng(0).permutation(2000)
    there, other = (fitted(SoftCap({"a": 1}, samples=3000), rows) for rows in (batch, batch.take(pa.array(order))))
    assert there.describe() == other.describe()
    assert np.array_equal(there.copies(batch)[order], other.copies(batch.take(pa.array(order))))


def test_another_seed_draws_others() -> None:
    batch = rows_of(gauss(2000))
    one, two = (fitted(SoftCap({"a": 1}, samples=500, seed=seed), batch).copies(batch) for seed in (0, 1))
    assert (one != two).sum() > 300


def test_samples_are_as_many_as_the_pool_has_rows() -> None:
    fit: Filter | Fit = SoftCap({"a": 1})
    batch = rows_of(gauss(300))
    for _ in range(fit.passes):
        state = fit.skip(fit.add(fit.empty(), batch), 150)  # rows that an earlier step has dropped
        fit = fit.finish(fit.merge(state, fit.skip(fit.empty(), 50)))
    assert isinstance(fit, SoftCapped)
    assert fit.samples == fit.copies(batch).sum() == 500
    assert fit.describe()["rows"] == 300


def test_what_the_manifest_says() -> None:
    batch = rows_of([*gauss(95), None, math.nan, math.inf, None, None])
    step = SoftCap({"a": 1}, samples=120)
    record = fitted(step, batch).describe()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record | step.describe() == record
    assert (record["samples"], record["rows"], record["rows_without_score"]) == (120, 100, 5)
    assert SoftCap({"a": 1}, samples=120, seed=1).describe() != step.describe()
    assert SoftCap({"a": 1}, samples=120, penalty=0.2).describe() != step.describe()


def test_bad_luck_is_an_error() -> None:
    batch = rows_of(gauss(100))
    fused = FusedScore(SoftCap({"a": 1}), {"a": 0.0}, {"a": 1.0}, -math.inf, {})
    fit = soft_cap._Bins(SoftCap({"a": 1}), fused, 1000, -3.0, -2.0)
    with pytest.raises(CurateError, match=r"soft_cap: \d+ draws came where 1,000 were expected .* another seed than 0"):
        fit.finish(fit.add(fit.empty(), batch))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weights": {}}, "weights are empty"),
        ({"weights": {"a": 1e6}}, r"the weight of 'a' is 1e\+06, but a row is drawn e\*\*weight times"),
        ({"samples": 0}, "samples is 0, but it is a whole number of at least 1"),
        ({"penalty": 0.0}, "penalty is 0.0, but it lies from 0.001 to 100"),
        ({"penalty": math.nan}, "penalty is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"scale": "none"}, "unknown scale 'none'"),
    ],
)
def test_parameters_out_of_range(given: dict, words: str) -> None:
    with pytest.raises(CurateError, match=f"^soft_cap: {words}"):
        SoftCap(**{"weights": {"a": 1}} | given)


def test_rows_without_scores_are_an_error_of_the_step() -> None:
    with pytest.raises(CurateError, match=r"^soft_cap: 3 of the 4 rows that reach it \(75.0%\) have no a"):
        fitted(SoftCap({"a": 1}), rows_of([1.0, None, None, None]))


@pytest.mark.parametrize("times", [1, 1000])
def test_more_samples_than_can_be_drawn_are_refused(times: int) -> None:
    batch = rows_of([*gauss(100), None])

    def finished(samples: int) -> Fit | Filter:
        fit: Fit | Filter = SoftCap({"a": 1}, samples=samples)
        for _ in range(2):
            fit = fit.finish(fit.grown(fit.add(fit.empty(), batch), times))
        return fit

    most = f"are to be drawn of the {100 * times:,} rows with a score that reach it, but {500_000 * times:,} are"
    with pytest.raises(CurateError, match=rf"^soft_cap: 1,000,000,000,000 samples {most} the most, 5,000 of each"):
        finished(10**12)
    with pytest.raises(CurateError, match=most):
        finished(5000 * 100 * times + 1)
    assert finished(5000 * 100 * times).samples == 500_000


def test_it_must_come_last() -> None:
    with pytest.raises(CurateError, match="recipe mine: soft_cap is step 1 of 2, but it must be the last"):
        Recipe("mine", (SoftCap({"a": 1}), ImageSize(200)))


def test_a_column_of_its_own_name_is_refused() -> None:
    schema = pa.schema([("uid", pa.string()), ("copies", pa.float32())])
    step = SoftCap({"copies": 1})
    of_a_file = dataclasses.replace(step)
    object.__setattr__(of_a_file, "scorers", (JoinedScore("copies", ("scores.parquet",)),))
    for own in (step, of_a_file):
        with pytest.raises(CurateError, match="recipe mine: reads a column 'copies', but soft_cap writes one of that"):
            check(Recipe("mine", (own,)), schema)


def test_a_recipe_file_with_scores_of_a_file(tmp_path: pathlib.Path) -> None:
    batch = rows_of(gauss(400))
    pq.write_table(pa.table({"uid": batch["uid"], "dfn": batch["a"]}), tmp_path / "dfn.parquet")
    (tmp_path / "mine.yaml").write_text("""
name: mine
steps:
  - soft_cap: {weights: {dfn: 2}, files: scores, samples: 600, penalty: 0.3, seed: 5}
""")
    recipe = open_recipe(str(tmp_path / "mine.yaml"), files={"scores": f"{tmp_path}/*.parquet"})
    (step,) = recipe.steps
    assert recipe_columns(recipe) == ("uid",)
    (scorer,) = step.scorers
    joined = batch.append_column("dfn", scorer.load(scorer.build())(batch))
    same = SoftCap({"a": 2}, samples=600, penalty=0.3, seed=5)
    assert np.array_equal(fitted(step, joined).copies(joined), fitted(same, batch).copies(batch))
    with pytest.raises(CurateError, match=r"recipe mine: needs a file of scores, but none was given\. Give --file sc"):
        open_recipe(str(tmp_path / "mine.yaml"))
