"""Wikipedia's markup as plain text, and plain text as the tokens that entries are counted in."""

import functools
import html
import re
import sys
import unicodedata

from metadata.entries import MARKS

#: Stands in a list of tokens where no two words are neighbours.
BREAK = "\0"

#: Elements whose content is no text of the article.
_NO_TEXT = ("ref", "math", "chem", "ce", "gallery", "syntaxhighlight", "source", "timeline", "score", "graph", "hiero",
            "imagemap", "mapframe", "maplink", "templatestyles", "indicator")  # fmt: skip

_CLOSED = re.compile(rf"<(?:{'|'.join(_NO_TEXT)})\b[^<>]*/>", re.IGNORECASE)
_NESTING = re.compile(
    rf"({{{{|}}}}|^[ :]*{{\||\|}}(?!}})|\[\[|\]\]|<(?:{'|'.join(_NO_TEXT)})\b[^<>]*>|</(?:{'|'.join(_NO_TEXT)})\s*>)",
    re.IGNORECASE | re.MULTILINE,
)
_PREFIXED = re.compile(r"\s*[^\s|:\[\]][^|:\[\]]*:[^\s|]")  # File:…, Category:…, and other languages' pages
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:)?//[^\s\[\]]*(?: ([^\[\]\n]*))?\]")
_CHARACTER = re.compile(r"&#?[0-9A-Za-z]{1,32};")
_NEW_LINE = re.compile(r"<(?:br|hr|p|div|li)\b[^<>]*>", re.IGNORECASE)
_MARKUP = re.compile(r"'{2,}|</?[a-zA-Z][^<>]*>|-\{[^{}]*\}-|__[A-Z]+__|\bhttps?://\S+")

#: As deep as MediaWiki nests; what opens below is taken for text.
_DEPTH = 40


def plain(wikitext: str) -> str:
    """The article's text, with its paragraphs' newlines.

    Comments, templates, tables, references, formulas, galleries and links to files, categories and other languages are
    left out; other links and tags leave their text. What is opened and never closed stays as text. The time it takes
    grows with the length of the text, however the text is made.

    Differs: what templates would have put in is not there, and `-{…}-`, Chinese choice of script, is left out.
    """
    text = "".join(part if not n else part.partition("-->")[2] for n, part in enumerate(wikitext.split("<!--")))
    text = _EXTERNAL.sub(r"\1", _outside(_CLOSED.sub("", text)))
    return _CHARACTER.sub(lambda found: html.unescape(found[0]), _MARKUP.sub("", _NEW_LINE.sub("\n", text)))


def _outside(text: str) -> str:
    """What is outside of everything that nests, with links replaced by their text."""
    parts = _NESTING.split(text)
    levels: list[tuple[str, str, list[str]]] = [("", "", [parts[0]])]  # what closes it, what opened it, what is in it
    for mark, after in zip(parts[1::2], parts[2::2], strict=True):
        closes = _closing(mark)
        if closes and len(levels) < _DEPTH:
            levels.append((closes, mark, []))
        elif not closes and (depth := _opened(levels, mark)):
            content = _flat(levels[depth:])[len(levels[depth][1]) :]
            del levels[depth:]
            if mark == "]]":
                levels[-1][2].append(_link(content))
        else:
            levels[-1][2].append(mark)
        levels[-1][2].append(after)
    return _flat(levels)


def _closing(mark: str) -> str:
    """What closes a mark that opens; "" for one that closes."""
    if mark.startswith("</"):
        return ""
    if mark.startswith("<"):
        return "</" + re.match(r"\w+", mark[1:])[0].lower()  # type: ignore[index]
    return {"{{": "}}", "[[": "]]", "}}": "", "]]": "", "|}": ""}.get(mark, "|}")


def _opened(levels: list[tuple[str, str, list[str]]], mark: str) -> int:
    """The innermost level that `mark` closes; 0 where there is none."""
    wanted = mark.rstrip(">").rstrip().lower()
    return next((n for n in range(len(levels) - 1, 0, -1) if levels[n][0] == wanted), 0)


def _flat(levels: list[tuple[str, str, list[str]]]) -> str:
    return "".join(opened + "".join(inside) for _, opened, inside in levels)


def _link(content: str) -> str:
    if _PREFIXED.match(content):
        return ""
    target, bar, label = content.partition("|")
    return label if bar else target.lstrip(":")


def tokens(text: str, spaced: bool = True) -> list[str]:
    """The words of the text in order, with BREAK wherever two are not one space apart as captions are matched.

    A word is a run without spaces and without MARKS, less the punctuation and symbols at its ends: `"don't` is don't.
    Its case is kept. One that is nothing but punctuation is none, and like punctuation at a word's end, or the end of a
    line, it parts the words beside it.

    Args:
        spaced: False for a language without spaces: then a token is one character with its combining marks, or a run of
            ASCII letters and digits, and those that touch are neighbours.
    """
    gaps, pieces = _patterns()
    line = re.sub(r"[^\S\n]+", " ", text)
    return gaps.sub(_gap, line).split() if spaced else pieces.findall(gaps.sub(" ", line).replace(" ", BREAK))


def _gap(found: re.Match[str]) -> str:
    gap = found[0]
    inside = found.start() > 0 and found.end() < len(found.string)
    return gap if inside and not any(c in gap for c in " \n" + MARKS) else f" {BREAK} "


def is_punctuation(text: str) -> bool:
    """Whether there is nothing in the text but punctuation, symbols and spaces."""
    return all(unicodedata.category(c)[0] in "PSZ" for c in text)


@functools.lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Gaps that hold punctuation or a line's end, with the spaces beside it; and the tokens of unspaced languages."""
    signs, combining = _classes("PS") + "\n", _classes("M")
    return re.compile(f" ?[{signs}][{signs} ]*"), re.compile(f"[A-Za-z0-9]+|[^{combining}][{combining}]*")


def _classes(kinds: str) -> str:
    """The characters of Unicode's general categories that begin so, for use in a regular expression's brackets."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code))[0] in kinds:
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{re.escape(chr(a))}-{re.escape(chr(b))}" for a, b in ranges)
