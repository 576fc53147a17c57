"""FusedScoreFraction keeps the rows that a plain join, standardisation, weighted sum and sort keep."""

import json
import math
import pathlib
import random
import statistics
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters.base import Filter, Fit
from filters.fused_score import FusedScore, FusedScoreFraction
from filters.recipes import open_recipe
from metadata.errors import CurateError

ROWS = 500
WEIGHTS = {"clip_l14_similarity_score": 0.21, "dfn": 0.6, "hype": -0.05}


def make(folder: pathlib.Path, lacking: int = 20) -> tuple[pa.RecordBatch, dict[str, list[float | None]]]:
    """A pool with a score of its own and files with two more, in other orders and of other rows, too."""
    draw = random.Random(3)

    def column(scale: float) -> list[float | None]:
        gone = draw.sample(range(ROWS), lacking)
        return [None if n in gone else float(np.float32(draw.gauss(0.2, scale))) for n in range(ROWS)]

    columns = {name: column(scale) for name, scale in zip(WEIGHTS, (0.05, 3, 1e-6), strict=True)}
    uids = [f"{draw.getrandbits(128):032x}" for _ in range(ROWS)]
    for name in ("dfn", "hype"):
        order = draw.sample([n for n in range(ROWS) if columns[name][n] is not None], k=ROWS - lacking)
        more = [f"{draw.getrandbits(128):032x}" for _ in range(50)]
        values = [*(columns[name][n] for n in order), *range(50)]
        table = pa.table({"uid": [*(uids[n] for n in order), *more], name: pa.array(values, pa.float32())})
        pq.write_table(table.slice(0, 300), folder / f"{name}-0.parquet")
        pq.write_table(table.slice(300), folder / f"{name}-1.parquet")
    own = columns["clip_l14_similarity_score"]
    return pa.record_batch({"uid": uids, "clip_l14_similarity_score": pa.array(own, pa.float32())}), columns


def scored(step: FusedScoreFraction, batch: pa.RecordBatch) -> pa.RecordBatch:
    for scorer in step.scorers:
        batch = batch.append_column(scorer.column, scorer.load(scorer.build())(batch))
    return batch


def fitted(fit: Filter | Fit, batch: pa.RecordBatch) -> FusedScore:
    passes = fit.passes
    for _ in range(passes):
        state = fit.empty()
        for start in range(0, batch.num_rows, 90):
            state = fit.merge(fit.add(fit.empty(), batch.slice(start, 90)), state)
        fit = fit.finish(state)
    assert isinstance(fit, FusedScore)
    return fit


def plain(columns: dict[str, list[float | None]], scale: str, fraction: float) -> list[int]:
    """The rows that are kept, worked out with the standard library."""
    whole = [n for n in range(ROWS) if all(values[n] is not None for values in columns.values())]
    fused = dict.fromkeys(whole, 0.0)
    for name, values in columns.items():
        some = [values[n] for n in whole]
        exact = [Fraction(value) for value in some]
        offset, divisor = (
            (float(sum(exact) / len(exact)), statistics.pstdev(exact)) if scale == "standardise"
            else (min(some), max(some) - min(some))
        )  # fmt: skip
        for n in whole:
            fused[n] += WEIGHTS[name] * ((values[n] - offset) / float(divisor))
    ranked = sorted((float(np.float32(score)) for score in fused.values()), reverse=True)
    threshold = ranked[min(int(ROWS * fraction), len(ranked)) - 1]
    return [n for n in whole if np.float32(fused[n]) >= threshold]


@pytest.mark.parametrize("fraction", [0.002, 0.3, 0.99])
@pytest.mark.parametrize("scale", ["standardise", "min_max"])
def test_keeps_what_the_plain_way_keeps(tmp_path: pathlib.Path, scale: str, fraction: float) -> None:
    batch, columns = make(tmp_path)
    step = FusedScoreFraction(WEIGHTS, fraction, str(tmp_path / "*.parquet"), scale).with_files({})
    assert [scorer.column for scorer in step.scorers] == ["dfn", "hype"]
    batch = scored(step, batch)
    assert {name: batch[name].to_pylist() for name in columns} == columns
    found = fitted(step, batch)
    expected = plain(columns, scale, fraction)
    assert np.flatnonzero(found.keep(batch)).tolist() == expected
    whole = sum(None not in row for row in zip(*columns.values(), strict=True))
    assert len(expected) == min(int(ROWS * fraction), whole)
    record = found.describe()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["rows"], record["rows_without_score"]) == (ROWS, ROWS - whole)
    assert record["rows_lacking"] == dict.fromkeys(WEIGHTS, 20)
    assert record["weights"] == WEIGHTS
    assert [len(sha256) for sha256 in record["files"].values()] == [64, 64]


def test_scores_of_the_pool_alone_need_no_files() -> None:
    batch = pa.record_batch({"a": [1.0, 2.0, 3.0, 4.0], "b": pa.array([10, 0, 0, 0])})
    step = FusedScoreFraction({"a": 1, "b": 2}, 0.5)
    assert step.with_files({}) is step
    assert fitted(step, batch).keep(batch).to_pylist() == [True, False, False, True]
    assert "files" not in step.describe()


def test_a_recipe_file_opens_with_it(tmp_path: pathlib.Path) -> None:
    batch, columns = make(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"""
name: mine
steps:
  - fused_score: {{files: {tmp_path}/*.parquet, weights: {WEIGHTS}, scale: standardise, fraction: 0.3}}
""")
    (step,) = open_recipe(str(tmp_path / "mine.yaml")).steps
    assert np.flatnonzero(fitted(step, scored(step, batch)).keep(scored(step, batch))).tolist() == plain(
        columns, "standardise", 0.3
    )


def test_where_the_files_lie_does_not_matter(tmp_path: pathlib.Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        make(tmp_path / name)
    a, b = (FusedScoreFraction(WEIGHTS, 0.3, str(tmp_path / name / "*")).with_files({}) for name in "ab")
    assert a.describe() == b.describe()
    (tmp_path / "b" / "dfn-1.parquet").unlink()
    assert FusedScoreFraction(WEIGHTS, 0.3, str(tmp_path / "b" / "*")).with_files({}).describe() != b.describe()


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "weights are empty, but at least one score is needed"),
        ({"a": 0}, "the weight of 'a' is '0', but it is a number other than 0"),
        ({"a": "1"}, "the weight of 'a' is '1'"),
        ({"a": True}, "the weight of 'a' is 'True'"),
        ({"a": math.nan}, "the weight of 'a' is 'nan'"),
        ({"a": -math.inf}, "the weight of 'a' is '-inf'"),
        ({"a": 10**400}, "the weight of 'a' is '1000"),
        ({3: 1.0}, "the weight of '3' is"),
        ({"a": 1e-50, "b": -1e-30}, "the largest weight is 1e-30, but fused scores are compared in float32"),
        ({"a": 1, "b": 1e40}, r"the largest weight is 1e\+40, but"),
    ],
)
def test_weights_that_are_none(weights: dict, words: str) -> None:
    with pytest.raises(CurateError, match=f"^fused_score: {words}"):
        FusedScoreFraction(weights, 0.3)


def test_parameters_out_of_range() -> None:
    with pytest.raises(CurateError, match=r"^fused_score: unknown scale 'standardize'\. Did you mean 'standardise'"):
        FusedScoreFraction({"a": 1}, 0.3, scale="standardize")
    for fraction in (0.0, 1.0, 30.0, math.nan):
        with pytest.raises(CurateError, match=rf"fraction is {fraction}, but it lies above 0 and below 1"):
            FusedScoreFraction({"a": 1}, fraction)


def test_files_without_any_of_the_columns(tmp_path: pathlib.Path) -> None:
    make(tmp_path)
    with pytest.raises(CurateError, match=r"\*\.parquet has no column named dnf, but scores are read from there"):
        FusedScoreFraction({"dnf": 1}, 0.3, str(tmp_path / "*.parquet")).with_files({})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": [1.0, None, None]}, r"2 of the 3 rows that reach it \(66\.7%\) have no a, but .* joined by uid"),
        ({"a": [1.0, 2.0], "b": [math.inf, math.nan]}, r"2 of the 2 rows that reach it \(100\.0%\) have no b"),
        ({"a": [1.0, None], "b": [None, 2.0]}, "none of the 2 rows that reach it has all the scores"),
        ({"a": [2.0, 2.0, None]}, "a is 2 in every row in float32, but what is scaled must differ"),
        ({"a": [1.0, 1e300]}, r"column 'a' has 1e\+300, but scores are compared in float32"),
        ({"a": [0.1, 0.1 + 1e-12]}, r"a is 0\.1 in every row in float32, but"),
        ({"a": ["x"]}, "column 'a' is string, but a score is a number"),
        ({"a": pa.array([], pa.float32())}, "no row reaches it, but it needs some. The steps before"),
    ],
)
@pytest.mark.parametrize("scale", ["standardise", "min_max"])
def test_rows_that_cannot_be_ranked(columns: dict, words: str, scale: str) -> None:
    step = FusedScoreFraction(dict.fromkeys(columns, 1.0), 0.5, scale=scale)
    with pytest.raises(CurateError, match=f"^fused_score: {words}"):
        fitted(step, pa.record_batch(columns))


def test_half_of_the_rows_without_a_score_is_no_error() -> None:
    batch = pa.record_batch({"a": [1.0, 2.0, None, math.nan]})
    found = fitted(FusedScoreFraction({"a": 1.0}, 0.9), batch)
    assert found.keep(batch).to_pylist() == [True, True, False, False]
    assert found.describe()["rows_lacking"] == {"a": 2}
