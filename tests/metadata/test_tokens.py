"""Tokens: what texts are cut into, and how long texts are cut."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from metadata import tokens

TEXTS = st.lists(st.text("ab ,中🎉\t\u00a0", max_size=30), max_size=10)


def run(texts: list[str], spaced: bool) -> list[bytes]:
    framed = tokens.pad(tokens.normalise(tokens.frame(pa.array(texts, pa.string()))))
    numbers, distinct = tokens.split(framed, spaced)
    values = distinct.to_pylist()
    return [values[number] for number in numbers]


def padded(text: str) -> str:
    return f" {text} ".replace(",", " , ").replace("\t", " ")


@given(TEXTS)
def test_pieces_are_those_between_spaces(texts):
    expected = [b" \xff"]
    for text in texts:
        expected += [*(f" {piece}".encode() for piece in padded(text)[1:-1].split(" ")), b" \xff"]
    assert run(texts, spaced=True) == expected


@given(TEXTS)
def test_characters_are_those_of_the_padded_text(texts):
    expected = [b"\xff"]
    for text in texts:
        expected += [*(c.encode() for c in padded(text)), b"\xff"]
    assert run(texts, spaced=False) == expected


@given(TEXTS, st.integers(1, 40), st.integers(0, 10), st.sampled_from([pa.string(), pa.large_string()]))
def test_parts_hold_every_text_whole_or_with_an_overlap(texts, size, overlap, kind):
    parts: list[list[bytes]] = [[] for _ in texts]
    for first, framed in tokens.blocks(pa.array(texts, kind), size, overlap):
        assert framed[:1] == framed[-1:] == b"\xff"
        for row, text in enumerate(framed[1:-1].split(b"\xff"), first):
            parts[row].append(text)
    for text, (head, *tail) in zip(texts, parts, strict=True):
        joined = head.removesuffix(b"\xfe")
        for part in tail:
            assert part.startswith(b"\xfe")
            part = part[1:].removesuffix(b"\xfe")
            assert joined.endswith(part[:overlap])
            joined += part[overlap:]
        assert joined == text.encode()
        assert all(part.endswith(b"\xfe") for part in (head, *tail)[:-1])
