"""The sentences that users see."""

import doctest
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata import errors
from metadata.errors import CurateError, printable, reason, unknown


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(errors).failed == 0


def test_unknown_names_the_place_the_nearest_and_all():
    error = unknown("scale", "smal", ["small", "medium"], "--scale")
    assert isinstance(error, CurateError)
    assert str(error) == "--scale: unknown scale 'smal'. Did you mean 'small'? Known: small, medium."


def test_unknown_without_anything_near_makes_no_suggestion():
    assert str(unknown("pool", "zzz", iter(["demo", "datacomp_1b"]))) == "unknown pool 'zzz'. Known: demo, datacomp_1b."


@pytest.mark.parametrize(("given_text", "shown"), [
    ("plain é 雨 🎉", "plain é 雨 🎉"),
    ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
    ("a\nb\tc\r", "a\\nb\\tc\\r"),
    ("\u202eback\u200b", "\\u202eback\\u200b"),  # turns the line around, or can't be seen
    ("\ud800", "\\ud800"),
    (7, "7"),
    ("", ""),
])  # fmt: skip
def test_printable_escapes_what_a_terminal_would_obey(given_text, shown):
    assert printable(given_text) == shown


def test_printable_cuts_long_texts():
    assert printable("x" * 120) == "x" * 120
    assert printable("x" * 121) == "x" * 119 + "…"
    assert printable(string.printable * 5, 40).endswith("…")


@given(st.text(), st.integers(1, 200))
def test_printable_is_short_and_printable(text, limit):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    shown.encode("utf-8")


@pytest.mark.parametrize(("error", "said"), [
    (OSError("first\nsecond"), "first"), (OSError("\n  \x1b[2Jx  \n"), "\\x1b[2Jx"), (TimeoutError(), "TimeoutError"),
    (FileNotFoundError(2, "No such file or directory", "a"), "[Errno 2] No such file or directory: 'a'"),
])  # fmt: skip
def test_reason_is_one_line(error, said):
    assert reason(error) == said
