"""Markup becomes text, text becomes the tokens that captions would match, and neither can be made slow."""

import re
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metadata import wikitext
from metadata.matching import Matcher, compile_matcher
from metadata.wikitext import BREAK, is_punctuation, plain, tokens


@pytest.mark.parametrize(("markup", "text"), [
    ("'''Paris''' is the [[capital city|capital]] of [[France]].", "Paris is the capital of France."),
    ("a{{Infobox|x={{b|c}}|\n|y=[[z]]}}b", "ab"),
    ("{{a|}}}}", "}}"),
    ("x<ref>see {{cite|[[a]]}}</ref>y<ref name=z />.", "xy."),
    ("x<REF name='q'>see</Ref >y", "xy"),
    ("a <!-- [[hidden]] --> b<!-- never closed", "a  b"),
    ("[[File:a.jpg|thumb|A [[dog]] here]][[Category:C]][[de:Hund]][[Datei:x.png]]!", "!"),
    ("[[:Category:Dogs|dogs]], [[Star Wars: A New Hope]], [[:Category:Cats]]",
     "dogs, Star Wars: A New Hope, Category:Cats"),
    ("before\n{| class=wikitable\n|-\n| a || [[b]]\n{|\n|inner\n|}\n|}\nafter", "before\n\nafter"),
    ("[http://a.test/x the site] and [//b.test] and https://c.test/d?e=f.", "the site and  and "),
    ("H<sub>2</sub>O<br />next<p>more", "H2O\nnext\nmore"),
    ("<math>x^2</math> is <gallery>\nFile:a\n</gallery> left", " is  left"),
    ("5&nbsp;km &amp; more &#x41;&#65; &bogus; &", "5\xa0km & more AA &bogus; &"),
    ("__NOTOC__a-{zh-hans:x;zh-hant:y}-b", "ab"),
    ("never {{closed [[and] this", "never {{closed [[and] this"),
    ("closed }} too ]] often |} </ref>", "closed }} too ]] often |} "),
    ("[[a {{b]] c}} d", "a {{b c}} d"),
    ("[[x|]] [[ ]] [[]]", "   "),
    ("a < b and c > d", "a < b and c > d"),
    ("", ""),
])  # fmt: skip
def test_markup_becomes_text(markup, text):
    assert plain(markup) == text


@given(st.lists(st.sampled_from(["{{", "}}", "[[", "]]", "{|", "|}", "<ref>", "</ref>", "<ref/>", "|", "a", "\n"])))
def test_any_nesting_gives_some_text(parts):
    markup = "".join(parts)
    text = plain(markup)
    assert len(text) <= len(markup)
    if not set(markup) & set("{<["):
        assert text == markup


HOSTILE = ["{{", "[[", "]]", "[[a:", "<ref>", "<ref ", "<!--", "{|\n", "|}\n", "[//a", "[// a", "&#", "&#9", "''", "-{",
           "__A", "http://", "<a", "-", " -", "- ", ",", " ", "\n", "a-", "é\u0301", "\0"]  # fmt: skip


@pytest.mark.parametrize("part", HOSTILE)
def test_much_of_anything_is_read(part):
    # Where the time grew with the square of the length these would take hours, and the run would be stopped.
    for text in (part * (1 << 16), "x" + part * (1 << 16) + "x", part * 1000 + "x" * (1 << 16) + part[::-1] * 1000):
        wikitext.tokens(plain(text))


def plainly(text: str) -> list[str]:
    """What `tokens` says, restated character by character: the words, and None between those not one space apart."""
    found: list[str | None] = []
    for line in text.split("\n"):
        for run in line.split():
            for n, piece in enumerate(re.split(r"[,.;:?!`]", run)):
                inner = [i for i, c in enumerate(piece) if unicodedata.category(c)[0] not in "PS"]
                found += [None] if n else []
                if not inner:
                    found += [None] if piece or n or len(run) == 0 else []
                    continue
                found += [None] if inner[0] > 0 else []
                found.append(piece[inner[0] : inner[-1] + 1])
                found += [None] if inner[-1] + 1 < len(piece) else []
        found.append(None)
    return found


def groups(found: list) -> list[list[str]]:
    """The runs of neighbours."""
    runs: list[list[str]] = [[]]
    for token in found:
        if token in (None, BREAK):
            runs.append([])
        else:
            runs[-1].append(token)
    return [run for run in runs if run]


@settings(max_examples=500)
@given(st.text(st.sampled_from("abÉ雨 \n\t\xa0.,!-'\"()+$`์ि")))
def test_tokens_are_words_less_the_signs_at_their_ends(text):
    assert groups(tokens(text)) == groups(plainly(text))


@settings(max_examples=300)
@given(st.text(st.sampled_from("ab雨 ,.-'\n")))
def test_neighbours_match_the_line_that_they_are_in(text):
    """Every run of neighbours, a space between, is in the line as matching sees it, spaces between words made one."""
    for run in groups(tokens(text)):
        words = [re.sub(r"([,.;:?!`])", r" \1 ", line) for line in text.split("\n")]
        assert any(" ".join(run) in " ".join(line.split()) for line in words)


def test_spaces_in_a_row_are_one_in_an_article_and_not_in_a_caption():
    assert tokens("a  b") == ["a", "b"]
    matcher = Matcher(compile_matcher(pa.array(["a b"])))
    assert matcher.match(pa.array(["a b", "a  b"])).to_pylist() == [[0], []]


@pytest.mark.parametrize(("text", "runs"), [
    ('"New York" (born 1990) – a well-known AT&T x-ray', [["New", "York"], ["born", "1990"],
                                                         ["a", "well-known", "AT&T", "x-ray"]]),
    ("Paris, France. The U.S. of", [["Paris"], ["France"], ["The", "U"], ["S"], ["of"]]),
    ("don't  stop\nnow", [["don't", "stop"], ["now"]]),
    ("हिन्दी भाषा", [["हिन्दी", "भाषा"]]),
    ("می‌خواهم", [["می‌خواهم"]]),
    ("Ünï ß 🎉 x", [["Ünï", "ß"], ["x"]]),
    (" - ... !", []), ("", []),
])  # fmt: skip
def test_tokens(text, runs):
    assert groups(tokens(text)) == runs


@pytest.mark.parametrize(("text", "runs"), [
    ("東京は、iPhone 15の都·市。\n大", [["東", "京", "は"], ["iPhone"], ["15", "の", "都"], ["市"], ["大"]]),
    ("กี่ ดี", [["กี่"], ["ดี"]]),
    ("が", [["が"]]),
    ("、。", []), ("", []),
])  # fmt: skip
def test_tokens_of_languages_without_spaces_are_characters(text, runs):
    assert groups(tokens(text, spaced=False)) == runs


@pytest.mark.parametrize(("text", "answer"), [("...", True), ("- +", True), ("🎉", True), ("", True), ("a.", False),
                                              ("7", False), ("雨", False)])  # fmt: skip
def test_is_punctuation(text, answer):
    assert is_punctuation(text) is answer
