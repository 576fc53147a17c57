"""Entry lists: read whole or refused, combined the same way every time, and honest about what can never match."""

import json
import re
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metadata import entries
from metadata.errors import CurateError


def normalised(text: str) -> str:
    """Matching's view of a caption, restated."""
    padded = f" {text} "
    for mark in ",.;:?!`":
        padded = padded.replace(mark, f" {mark} ")
    for space in "\t\n\r":
        padded = padded.replace(space, " ")
    return padded


def matches(entry: str, text: str, spaced: bool = True) -> bool:
    return (f" {entry} " if spaced else entry) in normalised(text)


def reason_of(entry: str) -> str | None:
    return entries.never_matches(pa.array([entry])).to_pylist()[0]


TEXTS = st.text(st.sampled_from("ab  ,.;!`'\t\n\ré雨"), max_size=12)


@settings(max_examples=500)
@given(TEXTS, TEXTS, st.data())
def test_what_matches_some_caption_is_never_said_to_match_none(text, entry, data):
    view = normalised(text)
    start = data.draw(st.integers(0, len(view)))
    part = view[start : data.draw(st.integers(start, len(view)))]
    assert reason_of(part) is None  # it matches unspaced, and spaced too where there are spaces round it
    if reason_of(entry) is not None:
        assert not matches(entry, text)
        assert not matches(entry, text, spaced=False)


@settings(max_examples=500)
@given(TEXTS)
@example("a , b")
@example(",")
@example(", ")
@example(",  ,")
def test_what_has_no_reason_matches_the_caption_made_for_it(entry):
    if reason_of(entry) is None:
        caption = re.sub(r" ([,.;:?!`]) ", r"\1", f" {entry} ")
        assert matches(entry, caption)
        assert matches(entry, caption, spaced=False)


@pytest.mark.parametrize(("entry", "why"), [
    ("U.S.", "has one of , . ; : ? ! ` without a space on both sides"),
    ("St. Louis", "has one of , . ; : ? ! ` without a space on both sides"),
    ("a ,b", "has one of , . ; : ? ! ` without a space on both sides"),
    (". .", "has one space between two of , . ; : ? ! `"),
    ("a\tb", "has a tab, newline or return"),
    ("a.\nb", "has a tab, newline or return"),
    ("!", None), ("a , b", None), ("Paris ,  France", None), ("don't", None), ("東京", None), ("a  b", None),
])  # fmt: skip
def test_each_reason_is_named(entry, why):
    found = reason_of(entry)
    assert found == why or found.startswith(f"{why}, ")


def test_reasons_keep_the_order_and_the_shape():
    column = pa.chunked_array([["dog", "U.S."], ["b", "."]]).slice(1)
    found = entries.never_matches(column)
    assert [why is not None for why in found.to_pylist()] == [True, False, False]
    assert entries.never_matches(pa.array([], pa.string())).to_pylist() == []
    assert found.type == pa.string()


def write(path, table: pa.Table):
    pq.write_table(table, path)
    return str(path)


def test_a_written_list_is_read_back(tmp_path):
    table = pa.concat_tables([entries.table(["b", "a"], "unigram", [3, 2.5]), entries.table(["雨"], "own", None, "ja")])
    entries.write(str(tmp_path / "e.parquet"), table)
    found = entries.read(str(tmp_path / "e.parquet"))
    assert found.schema.equals(entries.SCHEMA)
    assert found.equals(table)


def test_missing_columns_are_null_and_others_are_left_out(tmp_path):
    column = pa.array(["b", "a"]).dictionary_encode()
    found = entries.read(write(tmp_path / "e.parquet", pa.table({"n": [1, 2], "entry": column, "figure": [7, None]})))
    assert found.to_pylist() == [
        {"entry": "b", "source": None, "figure": 7.0, "language": None},
        {"entry": "a", "source": None, "figure": None, "language": None},
    ]


def test_json_is_a_list_or_one_a_language(tmp_path):
    (tmp_path / "l.json").write_text(json.dumps(["b", "a", "雨"]))
    (tmp_path / "d.json").write_text(json.dumps({"en": ["b", "a"], "de": ["a"]}), encoding="utf-8-sig")
    plain, languages = (entries.read(str(tmp_path / name)) for name in ("l.json", "d.json"))
    assert plain["entry"].to_pylist() == ["b", "a", "雨"]
    assert plain["language"].null_count == plain["source"].null_count == 3
    assert list(zip(languages["entry"].to_pylist(), languages["language"].to_pylist(), strict=True)) == [
        ("b", "en"), ("a", "en"), ("a", "de"),
    ]  # fmt: skip


def test_text_has_an_entry_a_line(tmp_path):
    (tmp_path / "own.txt").write_bytes("zebra crossing\r\n\nété\u2028x\nlast".encode())
    assert entries.read(str(tmp_path / "own.txt"))["entry"].to_pylist() == ["zebra crossing", "été\u2028x", "last"]


@pytest.mark.parametrize(("content", "words"), [
    (b"", "it is neither parquet nor JSON"),
    (b"\x89PNG\xff", "it is neither parquet nor text in UTF-8"),
    (b"PAR1 and then nothing", "it is damaged parquet"),
    (b"entry,count\na,1\n", "it is neither parquet nor JSON"),
    (b'"dog"', "its JSON has \"dog\", but an entry list is needed"),
    (b'{"en": 3}', "its JSON has 3 for 'en'"),
    (b'{"en": ["a"], "en": ["b"]}', "a key occurs twice"),
    (b'["a", 7]', "entry 1 is 7"),
    (b'{"de": ["a", null]}', "entry 1 for 'de' is null"),
    (b'["a", "\\ud800"]', "an entry is no text"),
    (b"[" * 200_000, "it is neither parquet nor JSON"),
    (b"[]", "it has no entry"),
    (b"{}", "it has no entry"),
    (b'["a", ""]', "entry 1 (from 0) is empty"),
    (b'["a", "b", "a", "\\u001b", "\\u001b", "b", "c", "c"]', "4 entries occur more than once"),
])  # fmt: skip
def test_what_is_no_entry_list_is_refused(tmp_path, content, words):
    (tmp_path / "e.json").write_bytes(content)
    with pytest.raises(CurateError) as error:
        entries.read(str(tmp_path / "e.json"))
    assert str(error.value).startswith(f"{tmp_path}/e.json: ")
    assert words in str(error.value)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(("table", "words"), [
    (pa.table({"text": ["a"]}), "it is parquet with columns text"),
    (pa.table({"entry": [1, 2]}), "its column `entry` is int64"),
    (pa.table({"entry": ["a", None]}), "entry 1 (from 0) is null"),
    (pa.table({"entry": pa.array([], pa.string())}), "it has no entry"),
    (pa.table({"entry": ["a"], "figure": ["many"]}), "its column `figure` is string"),
    (pa.table({"entry": ["a"], "source": ["wordnett"]}), "unknown source 'wordnett'. Did you mean 'wordnet'?"),
    (pa.table({"entry": ["a", "a"], "language": ["en", "en"]}), "1 entries occur more than once ('a')"),
    (pa.table({"entry": ["b", "b"], "language": pa.nulls(2)}), "1 entries occur more than once ('b')"),
])  # fmt: skip
def test_parquet_of_another_form_is_refused(tmp_path, table, words):
    with pytest.raises(CurateError, match=re.escape(words)):
        entries.read(write(tmp_path / "e.parquet", table))


def test_one_entry_in_two_languages_is_no_repeat(tmp_path):
    table = pa.table({"entry": ["a", "a", "a"], "language": ["en", None, "de"]})
    assert entries.read(write(tmp_path / "e.parquet", table)).num_rows == 3


def test_a_cut_off_file_and_one_that_is_not_there_are_named(tmp_path):
    path = write(tmp_path / "e.parquet", pa.table({"entry": [str(n) for n in range(1000)]}))
    data = (tmp_path / "e.parquet").read_bytes()
    (tmp_path / "e.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(CurateError, match=r"e\.parquet: it is damaged parquet"):
        entries.read(path)
    with pytest.raises(CurateError, match=r"none\.parquet: it can't be read \(No such file or directory\)"):
        entries.read(str(tmp_path / "none.parquet"))


def test_addresses_are_read(tmp_path):
    import fsspec

    fsspec.filesystem("memory").pipe("/lists/e.json", b'["a"]')
    assert entries.read("memory://lists/e.json")["entry"].to_pylist() == ["a"]


@pytest.mark.parametrize(("address", "why"), [
    ("foo://x", "Protocol not known: foo"),
    ("s3://b/x", "Install s3fs to access S3"),
])  # fmt: skip
def test_an_address_that_nothing_here_can_open_is_named(monkeypatch, address, why):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # not installed
    with pytest.raises(CurateError, match=rf"^{address}: it can't be read \({why}\), but the entry list is needed\. "):
        entries.read(address)


def test_a_whole_figure_beyond_what_a_float_has_is_rounded(tmp_path):
    table = pa.table({"entry": ["a", "b"], "figure": [2**53 + 1, 2**63 - 1]})
    assert entries.read(write(tmp_path / "e.parquet", table))["figure"].to_pylist() == [2.0**53, 2.0**63]


def test_an_entry_is_kept_once_under_the_first_source():
    parts = [
        entries.table(["dog", "zoo"], "own", [9, None]),
        entries.table(["the", "dog", "cat"], "unigram", [5, 7, 7]),
        entries.table(["dog", "ant"], "wordnet"),
        entries.table(["7"], "unigram", [100]),
        entries.numbers(),
        entries.table(["Hund", "dog"], "title", [1, 2], "de"),
        entries.table(["plain"], None),
    ]
    found = entries.combine(parts)
    rows = [(r["entry"], r["source"], r["figure"], r["language"]) for r in found.to_pylist()]
    assert rows[:5] == [
        ("ant", "wordnet", None, None), ("dog", "wordnet", None, None), ("7", "unigram", 100, None),
        ("cat", "unigram", 7, None), ("the", "unigram", 5, None),
    ]  # fmt: skip
    assert [row[0] for row in rows[5:104]] == sorted(str(n) for n in range(100) if n != 7)
    assert rows[104:] == [
        ("plain", "own", None, None), ("zoo", "own", None, None), ("dog", "title", 2, "de"), ("Hund", "title", 1, "de"),
    ]  # fmt: skip
    assert entries.combine(parts[::-1]).equals(found)
    assert found.schema.equals(entries.SCHEMA)


def test_the_language_is_given_to_entries_without_one():
    found = entries.combine([entries.table(["a"], "own"), entries.table(["a", "b"], "title", [1, 2], "de")], "de")
    assert [(r["entry"], r["source"], r["language"]) for r in found.to_pylist()] == [
        ("b", "title", "de"), ("a", "title", "de"),
    ]  # fmt: skip


def test_the_list_that_comes_along():
    found = entries.read("wordnet")
    sources = found["source"].to_pylist()
    assert found.num_rows == 86_654  # as many as MetaCLIP has of WordNet
    assert (sources.count("wordnet"), sources.count("number")) == (86_554, 100)
    assert {"dog", "ice cream", "taj mahal", "99"} <= set(found["entry"].to_pylist())
    assert entries.never_matches(found["entry"]).null_count == found.num_rows
