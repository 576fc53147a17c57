"""Where: SQL over each batch, decided by the row alone."""

import concurrent.futures
import pickle
import subprocess
import sys

import pyarrow as pa
import pytest

from filters.recipes import Recipe, check
from filters.where import Where
from metadata.errors import CurateError

BATCH = pa.record_batch(
    {
        "text": pa.array(["it's \"so\"", "Stock Photo of é", None, "", "图 🎉\n\0x"], pa.string()),
        "original_width": pa.array([512, 100, None, 600, 511], pa.int64()),
        "clip_l14_similarity_score": pa.array([0.28, float("nan"), None, 0.1, 0.3], pa.float32()),
        "face_bboxes": pa.array([[], [[0, 0, 0.5, 1]], None, [], [[0, 0, 1, 1]] * 2], pa.list_(pa.list_(pa.float64()))),
        "TEXT": pa.array([1, 2, 3, 4, 5]),
        "é col": pa.array([True, False, None, True, False]),
    }
)


@pytest.mark.parametrize(
    ("sql", "kept", "columns"),
    [
        ("original_width >= 512 and text not ilike '%stock photo%'", [0, 3], ("original_width", "text")),
        ("text = 'it''s \"so\"'", [0], ("text",)),
        ("text is null", [2], ("text",)),
        ("text like '%é'", [1], ("text",)),
        ("contains(text, chr(0))", [4], ("text",)),
        ("length(text) = 0 or regexp_matches(text, '[🎉]')", [3, 4], ("text",)),
        ("len(face_bboxes) = 0", [0, 3], ("face_bboxes",)),
        ("list_sum([b[3] - b[1] for b in face_bboxes]) > 0.5", [4], ("face_bboxes",)),
        ("len(list_filter(face_bboxes, lambda b: b[3] < original_width)) = 2", [4], ("face_bboxes", "original_width")),
        ("clip_l14_similarity_score >= 0.28", [0, 4], ("clip_l14_similarity_score",)),
        ("not clip_l14_similarity_score < 0.28", [0, 4], ("clip_l14_similarity_score",)),
        ("clip_l14_similarity_score is null", [1, 2], ("clip_l14_similarity_score",)),
        ("original_width between 100 and 511", [1, 4], ("original_width",)),
        ("original_width in (600, 512)", [0, 3], ("original_width",)),
        ("case when text = '' then true else original_width = 100 end", [1, 3], ("original_width", "text")),
        ("TEXT = 2", [1], ("TEXT",)),
        ('"é col"', [0, 3], ("é col",)),
        ("try_cast(text as int) is null -- a comment", [0, 1, 2, 3, 4], ("text",)),
        ("coalesce(original_width, 0) = 0", [2], ("original_width",)),
        ("split_part(text, ' ', 1) = 'Stock'", [1], ("text",)),
    ],
)
def test_keeps_rows_for_which_it_is_true(sql: str, kept: list[int], columns: tuple[str, ...]) -> None:
    step = Where(sql)
    keep = step.keep(BATCH)
    assert step.columns == columns
    assert keep.type == pa.bool_()
    assert keep.null_count == 0
    assert [row for row, stays in enumerate(keep.to_pylist()) if stays] == kept


NUMBERS = pa.array([float("nan"), 0.1, None, 0.5, float("inf"), float("nan")])


@pytest.mark.parametrize("score", [NUMBERS, NUMBERS.cast(pa.float32()), NUMBERS.dictionary_encode()])
def test_nan_is_no_score(score: pa.Array) -> None:
    batch = pa.record_batch({"score": score})
    for part, first in ((batch, 0), (batch.slice(2), 2)):
        kept = Where("score >= 0.3").keep(part).to_pylist()
        assert kept == [False, False, False, True, True, False][first:]
    assert not any(Where("score >= 0.3").keep(batch.slice(5)).to_pylist())


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("", "is empty, but an SQL expression is needed"),
        ("text = = 1", "is not SQL"),
        ("text; select 1", "is not SQL"),
        ("len(text) > 2) or (1=1", "is not SQL"),
        ("text) from x union select (text", "is more than one expression"),
        ("text), (text", "is more than one expression"),
        ("text); select (text", "is more than one expression"),
        ("text in (select 'a')", "has a subquery"),
        ("exists (from read_text('/etc/passwd'))", "has a subquery"),
        ("text = any(select 'a')", "has a subquery"),
        ("row_number() over () > original_width", "has a window"),
        ("sum(original_width) over () > 1", "has a window"),
        ("*", "has a star"),
        ("columns(*)", "has a star"),
        ("text = ?", "has a parameter"),
        ("text = $1", "has a parameter"),
        ("#1 = 'a'", "has a positional reference"),
        ("sum(original_width) > 1", "calls sum, which looks at many rows"),
        ("count(*) > original_width", "calls count_star, which looks at many rows"),
        ("unnest(face_bboxes)", "calls unnest, which looks at many rows"),
        ("read_text(text) = 'a'", "calls read_text, which looks at many rows"),
        ("random() < original_width", "calls random, which is not always the same"),
        ("text = uuid()::text", "calls uuid, which is not always the same"),
        ("now() > text::timestamp", "calls now, which is not always the same"),
        ("age(text::timestamp) > interval 1 day", "calls age, which is not always the same"),
        ("ago(interval 1 day) > text::timestamp", "calls "),
        ("len(list_transform(face_bboxes, lambda b: random())) > 1", "calls random"),
        ("lenght(text) > 1", "calls 'lenght', but a function that DuckDB has is needed. Did you mean length?"),
        ("current_schema() = text", "calls current_schema, which depends on more than the row"),
        ("current_catalog() = text", "calls current_database, which depends on more than the row"),
        ("current_database() = text", "calls current_database, which depends on more than the row"),
        ("current_query() = text", "calls current_query, which depends on more than the row"),
        ("text in current_schemas(true)", "calls current_schemas, which depends on more than the row"),
        ("text = '\ud800'", "is not SQL ("),
        ("text -> '$.a' = '1'", ""),  # older DuckDBs can't tell it from a lambda
        ("1 = 1", "reads no column"),
        ("text = 'a' or TEXT = 1", "reads columns that differ only by case"),
    ],
)
def test_what_is_not_a_test_of_the_row_is_refused_when_made(sql: str, words: str) -> None:
    with pytest.raises(CurateError) as error:
        Where(sql)
    assert str(error.value).startswith("where: ")
    assert words in str(error.value)
    assert " is needed. " in str(error.value)


@pytest.mark.parametrize("kind", [pa.float16(), pa.list_(pa.float16()), pa.decimal256(50, 2)], ids=str)
def test_a_type_that_duckdb_lacks(kind: pa.DataType) -> None:
    for rows in (3, 0):
        batch = pa.record_batch({"m": pa.nulls(rows, pa.int8()), "n": pa.nulls(rows, kind)})
        with pytest.raises(CurateError, match=r"^where: 'n > m' reads 'n', which is .*, but a type that DuckDB has is"):
            Where("n > m").keep(batch)


def test_errors_of_types_and_values_are_clear() -> None:
    with pytest.raises(CurateError, match=r"where: 'original_width' gives \w+, but true or false for each row"):
        Where("original_width").keep(BATCH)
    with pytest.raises(CurateError, match=r"where: 'text > 1' failed .*Binder Error"):
        Where("text > 1").keep(BATCH)
    with pytest.raises(CurateError, match=r"Conversion Error.*use try_cast"):
        Where("text::int > 1").keep(BATCH)


def test_columns_and_types_are_checked_against_the_pool_without_rows() -> None:
    def recipe(sql: str) -> Recipe:
        return Recipe("mine", (Where(sql),))

    check(recipe("original_width > 1 and \"é col\""), BATCH.schema)
    with pytest.raises(CurateError, match=r"where: unknown column 'original_widht'\. Did you mean 'original_width'\?"):
        check(recipe("original_widht > 1"), BATCH.schema)
    for sql in ("Text = 'a'", "current_date > '2020-01-01'", "rowid > 1", "__batch__.text = 'a'"):
        with pytest.raises(CurateError, match="where: unknown column"):
            check(recipe(sql), BATCH.schema)
    with pytest.raises(CurateError, match="failed"):
        check(recipe("text > 1"), BATCH.schema)
    with pytest.raises(CurateError, match=r"gives [A-Z]+, but"):
        check(recipe("text"), BATCH.schema)


def test_the_time_zone_is_not_the_machines() -> None:
    batch = pa.record_batch({"taken": pa.array([0, 12 * 3_600_000_000], pa.timestamp("us", "Asia/Tokyo"))})
    code = "import os, pathlib, sys, time; os.environ['TZ'] = 'America/New_York'; time.tzset()\n"
    code += "import pyarrow as pa; from filters.where import Where\n"
    code += "batch = pa.ipc.open_stream(sys.stdin.buffer).read_next_batch()\n"
    code += "print(Where('hour(taken) = 0').keep(batch).to_pylist())"
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    done = subprocess.run([sys.executable, "-c", code], input=sink.getvalue(), capture_output=True, check=True)
    assert done.stdout == b"[True, False]\n"


def test_rows_keep_their_number_and_order() -> None:
    numbers = pa.record_batch({"n": pa.array(range(300_000))})
    assert Where("n % 7 = 3").keep(numbers).to_pylist() == [n % 7 == 3 for n in range(300_000)]
    assert len(Where("n > 1").keep(numbers.slice(0, 0))) == 0
    assert Where("n > 1").keep(numbers.slice(1, 3)).to_pylist() == [False, True, True]


def test_threads_do_not_meet_and_expressions_do_not_remember() -> None:
    steps = [Where(f"n % {k} = 0") for k in range(2, 10)]
    numbers = pa.record_batch({"n": pa.array(range(10_000))})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda step: sum(step.keep(numbers).to_pylist()), steps * 4))
    assert kept == [len(range(0, 10_000, k)) for k in range(2, 10)] * 4


def test_travels_to_workers_and_into_manifests() -> None:
    step = Where("original_width > 300")
    again = pickle.loads(pickle.dumps(step))
    assert again == step
    assert again.columns == ("original_width",)
    assert again.keep(BATCH).equals(step.keep(BATCH))
    assert step.describe() == {"sql": "original_width > 300"}


def test_a_hostile_expression_is_not_shown_raw() -> None:
    with pytest.raises(CurateError) as error:
        Where("text = \x1b[31m")
    assert "\x1b" not in str(error.value)
