"""Uids: parsed exactly or refused, printed back, and made where a pool has none."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata import uids
from metadata.errors import CurateError

HEX = st.text("0123456789abcdefABCDEF", min_size=32, max_size=32)


def expected(texts: list[str]) -> list[tuple[int, int]]:
    """DataComp's own way."""
    return [(int(text[:16], 16), int(text[16:], 16)) for text in texts]


@given(st.lists(HEX), st.integers(0, 5), st.integers(0, 5))
def test_parse_equals_datacomp_s_arithmetic_on_any_slice(texts, skip, leave):
    array = pa.array(texts, pa.string()).slice(skip, max(0, len(texts) - skip - leave))
    words = uids.parse(array)
    assert words.dtype == uids.UID_DTYPE == np.dtype("u8,u8")
    assert words.tolist() == expected(array.to_pylist())


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.binary(), pa.large_binary()],
)
def test_parse_reads_every_layout_of_strings(kind):
    texts = [hashlib.md5(bytes([i])).hexdigest() for i in range(10)]
    assert uids.parse(pa.array(texts).cast(kind)).tolist() == expected(texts)


def test_the_words_are_a_copy_that_can_be_written():
    words = uids.parse(pa.array(["0" * 32]))
    words["f0"] = 7
    assert words.tolist() == [(7, 0)]


def test_nothing_gives_nothing():
    assert uids.parse(pa.array([], pa.string())).shape == (0,)
    assert uids.parse(pa.array(["a" * 32]).slice(1)).dtype == uids.UID_DTYPE
    assert uids.text_of(np.empty(0, uids.UID_DTYPE)) == []


@pytest.mark.parametrize("bad", [
    "", "0" * 31, "0" * 33, "g" + "0" * 31, "0" * 31 + " ", "0" * 31 + "\n", "0x" + "0" * 30, "-" + "0" * 31,
    "٣" * 32,  # 32 characters, digits in Arabic
    "１" + "0" * 29,  # 32 bytes, with a fullwidth digit
    "é" * 16,  # 32 bytes
    "00000000-0000-0000-0000-000000000000",
])  # fmt: skip
def test_anything_else_is_refused_with_its_row(bad):
    array = pa.array(["f" * 32, "x", "0" * 32, bad, "1" * 32]).slice(2)
    with pytest.raises(CurateError, match=r"^a\.parquet: the uid of row 41 is '.*', but a uid is 32 hexadecimal "):
        uids.parse(array, "a.parquet", 40)


def test_lengths_that_only_add_up_are_refused():
    with pytest.raises(CurateError, match="the uid of row 1 is"):
        uids.parse(pa.array(["0" * 32, "1" * 31, "2" * 33]), first_row=0)


@pytest.mark.parametrize(("bad", "told"), [("zz", "^uid: a uid is 'zz', but"), (None, "^uid: a uid is null, but")])
def test_no_row_is_named_of_rows_that_are_not_all(bad, told):
    with pytest.raises(CurateError, match=told):
        uids.parse(pa.array(["0" * 32, bad]))


def test_bytes_that_are_not_text_are_refused_and_shown_safely():
    data = pa.py_buffer(b"\x1b[2J\xff" + b"0" * 27)
    array = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 32], np.int32)), data)
    with pytest.raises(CurateError) as error:
        uids.parse(array)
    assert "\x1b" not in str(error.value)
    assert "\\\\xff" in str(error.value)


def test_raw_bytes_are_refused():
    with pytest.raises(CurateError, match=r"the uid of row 1 is .*, but a uid is 32 hexadecimal digits"):
        uids.parse(pa.array([b"0" * 16, b"\xff" * 16], pa.binary(16)), first_row=1)


def test_a_null_is_refused_with_its_row_and_the_way_out():
    with pytest.raises(CurateError, match=r"the uid of row 12 is null, but every row needs one\. .* --columns uid= "):
        uids.parse(pa.array(["0" * 32, "1" * 32, None]), "a.parquet", 10)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))))
def test_text_of_is_parse_backwards(pairs):
    words = np.array(pairs, uids.UID_DTYPE)
    texts = uids.text_of(words)
    assert texts == [f"{high:016x}{low:016x}" for high, low in pairs]
    assert uids.parse(pa.array(texts, pa.string())).tolist() == words.tolist()


def test_text_of_takes_a_stride():
    words = np.array([(1, 2), (3, 4), (5, 6)], uids.UID_DTYPE)
    assert uids.text_of(words[::2]) == [f"{1:016x}{2:016x}", f"{5:016x}{6:016x}"]


def derived(url: str | None, text: str | None) -> str:
    """The definition, restated."""
    parts = [(part or "").encode() for part in (url, text)]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()[:32]


@given(st.lists(st.tuples(st.none() | st.text(), st.none() | st.text())))
def test_derived_uids_are_the_hash_of_the_length_prefixed_url_and_text(pairs):
    urls, texts = (pa.array([pair[i] for pair in pairs], pa.string()) for i in (0, 1))
    made = uids.derive(urls, texts)
    assert made.type == pa.string()
    assert made.to_pylist() == [derived(*pair) for pair in pairs]
    assert len(uids.parse(made)) == len(pairs)


def test_derived_uids_stay_what_they_were():
    # Fixed for ever: subsets that were published name rows by these.
    urls, texts = pa.array(["http://a.test/1.jpg", "", None, "ab"]), pa.array(["ein Fähnchen 🎏", None, "", "c"])
    assert uids.derive(urls, texts).to_pylist() == [
        "8705c14bbe9cbab487afcac142345275",
        "374708fff7719dd5979ec875d56cd228",
        "374708fff7719dd5979ec875d56cd228",
        "601d5476e2ccfe2c87a2bba7a3226597",
    ]
    assert uids.derive(pa.array(["a"]), pa.array(["bc"]))[0] != uids.derive(pa.array(["ab"]), pa.array(["c"]))[0]
