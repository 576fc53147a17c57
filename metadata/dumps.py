"""Wikimedia's dumps, read as they stream by: the articles of a wiki, and how often its pages were viewed."""

import bz2
import gzip
import os
import urllib.parse
import xml.parsers.expat
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from metadata import wikitext
from metadata.errors import CurateError, printable, reason

#: Called now and then with the number of a file's bytes that are read.
Tick = Callable[[int], object]

_CHUNK_BYTES = 1 << 16
#: Of one article, and bytes of one tag; MediaWiki takes 2 MiB.
_MAX_CHARS = 1 << 25
_MAX_LINE_BYTES = 1 << 20


def articles(path: str, tick: Tick = lambda _: None) -> Iterator[str]:
    """The wikitext of every article of a pages-articles dump, in its order.

    Articles are pages of the main namespace that are no redirects; of several revisions the last one counts.

    Args:
        path: the XML, plain or compressed with bzip2 (multistream or not) or gzip.

    Raises:
        CurateError: it can't be read, is damaged, cut off or no such dump, holds a document type (of which expanding
            entities are made) or a page beyond all bounds.
    """
    pages = _Pages(path)
    try:
        for chunk in _chunks(path, tick):
            pages.feed(chunk)
            yield from pages.take()
        pages.parser.Parse(b"", True)
    except xml.parsers.expat.ExpatError as error:
        raise _error(path, f"it is cut off or no XML ({reason(error)})") from error
    yield from pages.take()


class _Pages:
    """Follows the elements of a dump and gathers the articles' texts."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.parser = xml.parsers.expat.ParserCreate("UTF-8")  # as Wikimedia's are, whatever the file says
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self._open: list[str] = []
        self._values: dict[str, list[str]] = {}
        self._chars = self._bytes = 0
        self._done: list[str] = []

    def feed(self, chunk: bytes) -> None:
        """Reads on."""
        self._bytes += len(chunk)
        self.parser.Parse(chunk)
        if self._bytes - self.parser.CurrentByteIndex > _MAX_CHARS:  # the parser holds a tag until it ends
            raise _error(self.path, f"it has a tag of more than {_MAX_CHARS:,} bytes")

    def take(self) -> list[str]:
        """The texts that were gathered since it was called last."""
        done, self._done = self._done, []
        return done

    def _refuse(self, *_: object) -> None:
        raise _error(self.path, "it has a DOCTYPE")

    def _start(self, name: str, _: dict[str, str]) -> None:
        if not self._open and name != "mediawiki":
            raise _error(self.path, f"it is XML of <{printable(name, 40)}>")
        if len(self._open) > 20:
            raise _error(self.path, "its elements are nested more than 20 deep")
        self._open.append(name)
        if name == "page":
            self._values = {"ns": [], "text": []}
        elif name == "redirect":
            self._values["redirect"] = []
        elif name == "text":
            self._values["text"] = []
            self._chars = 0

    def _characters(self, text: str) -> None:
        if (name := self._open[-1]) in ("ns", "text") and name in self._values:
            self._chars += len(text)
            if self._chars > _MAX_CHARS:
                raise _error(self.path, f"it has a page of more than {_MAX_CHARS:,} characters")
            self._values[name].append(text)

    def _end(self, name: str) -> None:
        self._open.pop()
        if name == "page" and "redirect" not in self._values and "".join(self._values["ns"]).strip() == "0":
            self._done.append("".join(self._values["text"]))


def views(paths: Sequence[str], wiki: str, tick: Callable[[str, int], object] = lambda *_: None) -> dict[str, int]:
    """How often each page of a wiki was viewed, by title, summed over the files.

    Titles have spaces for underscores, and percent signs decoded. Left out are those of other namespaces (a colon with
    no space after it, such as Special:Search; an entry made of one could never match), those that are nothing but
    punctuation, and those that are not UTF-8. Views on phones count like others.

    Args:
        paths: files of pageviews by the hour (`en Title 42 0`) or of pageview_complete by the day or month
            (`en.wikipedia Title 1234 desktop 42 A1B2`), plain or compressed with bzip2 or gzip.
        wiki: the Wikipedia's name in its address, such as `en`.

    Raises:
        CurateError: a file can't be read, is damaged, cut off, or has no line of that wiki.
    """
    names = tuple(f"{wiki}{ending} ".encode() for ending in ("", ".m", ".zero", ".wikipedia"))
    counts: dict[bytes, int] = {}
    for path in paths:
        found = False
        for number, line in enumerate(_lines(path, lambda done, path=path: tick(path, done)), 1):  # type: ignore[misc]
            if line.startswith(names):
                title, count = _view(line, path, number)
                counts[title] = counts.get(title, 0) + count
                found = True
        if not found:
            raise CurateError(f"{path}: it has no line that begins with {wiki!r}, but a dump of page views of that "
                              f"Wikipedia is needed. Give pageviews-… of that wiki, or another --wiki.")
    titles: dict[str, int] = {}
    for raw, count in counts.items():
        name = _title(raw)
        if name is not None:
            titles[name] = titles.get(name, 0) + count
    return titles


def _view(line: bytes, path: str, number: int) -> tuple[bytes, int]:
    """A line's title and count: both forms have the count before the last column."""
    fields = line.split(b" ")
    if len(fields) < 4 or not fields[-2].isdigit() or len(fields[-2]) > 15:
        shown = printable(line.decode(errors="backslashreplace"))
        raise CurateError(f"{path}: line {number} is {shown!r}, but lines of page views read `en Title 42 0` or "
                          f"`en.wikipedia Title 1234 desktop 42 A1B2`. Download the file again.")
    return fields[1], int(fields[-2])


def _title(raw: bytes) -> str | None:
    try:
        title = urllib.parse.unquote_to_bytes(raw).decode().replace("_", " ").strip()
    except UnicodeDecodeError:
        return None
    _, colon, rest = title.partition(":")
    return None if (colon and not rest.startswith(" ")) or wikitext.is_punctuation(title) else title


def _lines(path: str, tick: Tick) -> Iterator[bytes]:
    rest = b""
    for chunk in _chunks(path, tick):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > _MAX_LINE_BYTES:
            raise _error(path, f"it has a line of more than {_MAX_LINE_BYTES:,} bytes")
    if rest:
        raise _error(path, "it is cut off in its last line")


def _error(path: str, given: str) -> CurateError:
    return CurateError(f"{path}: {given}, but a whole dump of Wikimedia's is needed. Download it again, and compare "
                       f"its checksum.")


def _chunks(path: str, tick: Tick) -> Iterator[bytes]:
    """The file's content, decompressed, in small parts."""
    try:
        with open(path, "rb") as file:
            start = file.read(3)
            file.seek(0)
            if start == b"BZh":
                chunks = _bunzip(file)
            else:
                chunks = _read(gzip.GzipFile(fileobj=file) if start[:2] == b"\x1f\x8b" else file)
            for chunk in chunks:
                yield chunk
                tick(file.tell())
    except EOFError as error:
        raise _error(path, "it is cut off") from error
    except (OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise CurateError(f"{path}: it can't be read ({os.strerror(error.errno)}), but a dump is needed. Look at "
                              f"the path.") from error
        raise _error(path, f"it is damaged ({reason(error)})") from error


def _read(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _bunzip(file: BinaryIO) -> Iterator[bytes]:
    """What bz2.open would give; but that one takes a file for whole when one of its many streams begins damaged."""
    stream, data = bz2.BZ2Decompressor(), b""
    while True:
        if stream.eof:
            data = stream.unused_data or file.read(_CHUNK_BYTES)
            if not data:
                return
            stream = bz2.BZ2Decompressor()
        elif stream.needs_input and not (data := file.read(_CHUNK_BYTES)):
            raise EOFError
        yield stream.decompress(data, _CHUNK_BYTES)
        data = b""
