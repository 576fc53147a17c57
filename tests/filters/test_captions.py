"""CaptionLength counts words and characters as Python's str does."""

import sys

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.captions import CaptionLength, CaptionTokens
from metadata.errors import CurateError

SPACES = "".join(chr(c) for c in range(sys.maxunicode + 1) if chr(c).isspace())


def keep(texts: list[str | None], **parameters: int | None) -> list[bool]:
    batch = pa.record_batch({"text": pa.array(texts, pa.string())})
    return CaptionLength(**parameters).keep(batch).to_pylist()


def plain(text: str | None, min_words: int = 3, min_chars: int = 6, max_words: int | None = None) -> bool:
    if text is None or len(text) < min_chars:
        return False
    return min_words <= len(text.split()) and (max_words is None or len(text.split()) <= max_words)


def test_more_than_two_words_and_five_characters() -> None:
    assert keep(["a dog runs", "a b c", "a b cd", "dogs running", "   a  b  c   ", ""]) == [
        True, False, True, False, True, False,
    ]  # fmt: skip


def test_null_is_dropped() -> None:
    assert keep([None, "a dog runs", None]) == [False, True, False]
    assert keep([None], min_words=0, min_chars=0) == [False]


def test_every_character_separates_words_as_in_str_split() -> None:
    texts = [f"a{chr(c)}b" for c in range(sys.maxunicode + 1) if not 0xD800 <= c <= 0xDFFF]
    assert keep(texts, min_words=2, min_chars=0) == [len(text.split()) == 2 for text in texts]


def test_characters_are_code_points() -> None:
    texts = ["e\u0301e\u0301e\u0301", "🎉🎉🎉🎉🎉", "👨‍👩‍👧‍👦x", "\u200b" * 6, "图图图图图图"]
    assert keep(texts, min_words=1) == [len(text) >= 6 for text in texts] == [True, False, True, True, True]


@given(
    st.lists(st.none() | st.text(st.sampled_from("ab\u0301é图🎉\u200b\0" + SPACES), max_size=12), max_size=20),
    st.integers(0, 5),
    st.integers(0, 8),
    st.none() | st.integers(0, 3),
)
def test_equals_python(texts: list[str | None], min_words: int, min_chars: int, more: int | None) -> None:
    most = None if more is None else max(1, min_words + more)
    found = keep(texts, min_words=min_words, min_chars=min_chars, max_words=most)
    assert found == [plain(text, min_words, min_chars, most) for text in texts]


def test_aligns_three_to_twenty_words() -> None:
    texts = [" ".join(["word"] * number) for number in (0, 2, 3, 20, 21, 5000)]
    assert keep(texts, min_chars=0, max_words=20) == [False, False, True, True, False, False]


def test_a_slice_of_a_batch_is_read_from_its_start() -> None:
    batch = pa.record_batch({"text": ["x", "a dog runs", None, "two words"]}).slice(1, 2)
    assert CaptionLength().keep(batch).to_pylist() == [True, False]


def test_negative_lengths_are_refused() -> None:
    with pytest.raises(CurateError, match=r"^caption_length: min_words is -1, but it can't be negative\."):
        CaptionLength(min_words=-1)
    for most in (0, 2, -1):
        with pytest.raises(CurateError, match=rf"max_words is {most}, but it is at least 1 and no less .*, 3\."):
            CaptionLength(max_words=most)


def tokenize(text: str) -> list[str]:
    """fastText's `tokenize`, restated from its reader: it gives `</s>` for a newline."""
    tokens, word = [], ""
    for character in text + " ":
        if character in " \n\r\t\v\f\0":
            tokens += [word] if word else []
            tokens += ["</s>"] if character == "\n" else []
            word = ""
        else:
            word += character
    return tokens


@pytest.mark.parametrize(("text", "tokens"), [
    ("", 0), (" ", 0), ("one", 1), ("two words", 2), ("\n", 1), ("\n\n", 2), ("a\nb", 3), ("a \n b", 3),
    ("a\0b\x0bc\x0cd", 4), ("a\xa0b", 1), ("a\u3000b", 1), ("a\x1cb", 1), ("a\x85b", 1), ("图 图", 2),
    ("\r\n\t", 1), ("ends\n", 2),
])  # fmt: skip
def test_tokens_are_those_that_fasttext_gave(text: str, tokens: int) -> None:
    assert len(tokenize(text)) == tokens
    batch = pa.record_batch({"text": [text]})
    assert [CaptionTokens(n).keep(batch).to_pylist() for n in (tokens, tokens + 1)] == [[True], [False]]


@given(st.lists(st.none() | st.text(st.sampled_from("ab图\0" + SPACES), max_size=12), max_size=20), st.integers(0, 5))
def test_tokens_equal_the_restatement(texts: list[str | None], least: int) -> None:
    keep = CaptionTokens(least).keep(pa.record_batch({"text": pa.array(texts, pa.string())}))
    assert keep.to_pylist() == [text is not None and len(tokenize(text)) >= least for text in texts]


def test_a_negative_number_of_tokens_is_refused() -> None:
    with pytest.raises(CurateError, match=r"^caption_tokens: min_tokens is -1, but it can't be negative\."):
        CaptionTokens(-1)
