"""Wikipedia's markup as plain text, and plain text as the tokens that entries are counted in."""

import functools
import html
import itertools
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
    rf"({{{{|}}}}|{{\||\|}}(?!}})|\[\[|\]\]|<(?:{'|'.join(_NO_TEXT)})\b[^<>]*>|</(?:{'|'.join(_NO_TEXT)})\s*>)",
    re.IGNORECASE,
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

    A parser is exact where this is not, and slow: mwparserfromhell 0.7 takes 7 times as long, and the English Wikipedia
    has 100 GB.

    Differs: what templates would have put in is not there, and `-{…}-`, Chinese choice of script, is left out.
    """
    text = "".join(part if not n else part.partition("-->")[2] for n, part in enumerate(wikitext.split("<!--")))
    text = _EXTERNAL.sub(r"\1", _outside(_CLOSED.sub("", text)))
    return _CHARACTER.sub(lambda found: html.unescape(found[0]), _MARKUP.sub("", _NEW_LINE.sub("\n", text)))


def _outside(text: str) -> str:
    """What is outside of everything that nests, with links replaced by their text."""
    parts = _NESTING.split(text)
    levels: list[tuple[str, str, list[str]]] = [("", "", [parts[0]])]  # what closes it, what opened it, what is in it
    for before, mark, after in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
        closes = _closing(mark)
        if mark == "{|" and before.rstrip(" :")[-1:] not in ("\n", ""):  # a table begins a line
            levels[-1][2].append(mark)
        elif closes and len(levels) < _DEPTH:
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
    return {"{{": "}}", "[[": "]]", "{|": "|}"}.get(mark, "")


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
    """The words of the text in order, with BREAK wherever there is more than spaces between two.

    A word is a run without spaces and without MARKS, less the punctuation and symbols at its ends: `"don't` is don't.
    Its case is kept. One that is nothing but punctuation is none, and like punctuation at a word's end, or the end of a
    line, it parts the words beside it. Spaces in a row are one here, as MediaWiki shows them; in a caption they are
    not, and two between the words of an entry keep it from matching.

    Args:
        spaced: False for a language without spaces: then a token is one character with its combining marks, or a run of
            ASCII letters and digits, and those that touch are neighbours.
    """
    return list(itertools.chain.from_iterable(map(words, runs(text, spaced))))


def runs(text: str, spaced: bool) -> list[str]:
    """What stands between spaces, or unspaced what stands for a word, with a BREAK for each newline."""
    if spaced:
        return text.replace("\n", f" {BREAK} ").split()
    gap, character = _unspaced()
    return character.findall(gap.sub(BREAK, text))


def words(run: str) -> list[str]:
    """The tokens of one of `runs`: its words, and a BREAK for each of MARKS and for signs before, after and alone."""
    if run.isalnum():  # letters and digits alone: most are
        return [run]
    found: list[str] = []
    for n, piece in enumerate(re.split(f"[{MARKS}]", run)):
        word = piece.strip(_signs())
        before, _, after = piece.partition(word) if word else (piece, "", "")
        found += [*([BREAK] * bool(n or before)), *([word] * bool(word)), *([BREAK] * bool(after))]
    return found


def is_punctuation(text: str) -> bool:
    """Whether there is nothing in the text but punctuation, symbols and spaces."""
    return all(unicodedata.category(c)[0] in "PSZ" for c in text)


@functools.lru_cache(maxsize=1)
def _unspaced() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What parts the words of unspaced languages, and these words; a break counts as one."""
    marks = _characters("M")
    return re.compile(rf"[{re.escape(_signs())}\s]+"), re.compile(rf"[A-Za-z0-9]+|[^{marks}][{marks}]*")


@functools.lru_cache(maxsize=1)
def _signs() -> str:
    return _characters("PS")


def _characters(kinds: str) -> str:
    """The characters of Unicode's general categories that begin so."""
    return "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] in kinds)
