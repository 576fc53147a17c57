"""Wikimedia's dumps: streamed whole or refused by name; nothing that is cut off passes for the whole."""

import bz2
import gzip

import pytest
from small_sources import dump, pack, page

from metadata import dumps
from metadata.errors import CurateError

PAGES = [
    page("one [[a]] & <ref>x</ref>", "One"),
    page("talk", "Talk:One", ns=1),
    page("#REDIRECT [[One]]", "Uno", redirect=True),
    page("zwei\nZeilen", "Zwei é"),
    page("template", "Template:X", ns=10),
    page("", "Empty"),
]
TEXTS = ["one [[a]] & <ref>x</ref>", "zwei\nZeilen", ""]


@pytest.mark.parametrize("ending", ["xml", "xml.bz2", "xml.gz"])
def test_articles_are_the_main_namespace_s_pages_without_redirects(tmp_path, ending):
    assert list(dumps.articles(str(pack(tmp_path / f"d.{ending}", dump(PAGES))))) == TEXTS


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
@pytest.mark.parametrize("ending", ["xml", "xml.bz2", "xml.gz"])
def test_chunks_may_end_anywhere(tmp_path, monkeypatch, ending, chunk):
    monkeypatch.setattr(dumps, "_CHUNK_BYTES", chunk)
    assert list(dumps.articles(str(pack(tmp_path / f"d.{ending}", dump([page("雨 é 🎉", "x")]))))) == ["雨 é 🎉"]


@pytest.mark.parametrize("said", ["foo", "gb2312", "iso-8859-1", "UTF-16"])
def test_a_dump_is_utf_8_whatever_it_says(tmp_path, said):
    data = f'<?xml version="1.0" encoding="{said}"?>\n'.encode() + dump([page("雨 é", "x")])
    assert list(dumps.articles(str(pack(tmp_path / "d.xml", data)))) == ["雨 é"]
    with pytest.raises(CurateError, match="it is cut off or no XML"):
        list(dumps.articles(str(pack(tmp_path / "other.xml", data.decode().encode("gb18030")))))


def test_of_several_revisions_the_last_one_counts(tmp_path):
    two = page("old").replace("</page>", "<revision><id>8</id><text>new</text></revision></page>")
    assert list(dumps.articles(str(pack(tmp_path / "d.xml", dump([two, page("b")]))))) == ["new", "b"]


def test_what_is_read_is_told_as_it_goes(tmp_path):
    path = pack(tmp_path / "d.xml.bz2", dump([page("x y z " * 40_000)] * 3))
    told = []
    assert len(list(dumps.articles(str(path), told.append))) == 3
    assert told == sorted(told)
    assert told[-1] == path.stat().st_size


@pytest.mark.parametrize("ending", ["xml", "xml.bz2", "xml.gz"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.999])
def test_a_dump_that_is_cut_off_is_named(tmp_path, ending, share):
    path = pack(tmp_path / f"d.{ending}", dump([page(f"text {n}") for n in range(2000)]))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CurateError, match=rf"d\.{ending}: it is cut off.*, but a whole dump of Wikimedia's is needed"):
        list(dumps.articles(str(path)))


def test_a_dump_that_ends_between_two_streams_is_cut_off(tmp_path):
    data = dump(PAGES)
    (tmp_path / "d.xml.bz2").write_bytes(bz2.compress(data[:600]) + bz2.compress(data[600:-13]))
    with pytest.raises(CurateError, match=r"d\.xml\.bz2: it is cut off or no XML \(no element found"):
        list(dumps.articles(str(tmp_path / "d.xml.bz2")))


@pytest.mark.parametrize("ending", ["bz2", "gz"])
def test_a_damaged_dump_is_named(tmp_path, ending):
    path = pack(tmp_path / f"d.{ending}", dump([page(f"text {n * n}") for n in range(3000)]))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = b"\x55" * 40
    path.write_bytes(data)
    with pytest.raises(CurateError, match=rf"d\.{ending}: it is (damaged|cut off)"):
        list(dumps.articles(str(path)))


def test_a_stream_that_begins_damaged_does_not_end_the_file(tmp_path):
    lines = b"".join(b"en T%d 1 0\n" % n for n in range(1000))
    (tmp_path / "v.bz2").write_bytes(bz2.compress(lines) + b"\0" + bz2.compress(lines))
    with bz2.open(tmp_path / "v.bz2") as file:
        assert file.read() == lines  # the standard library loses the other half
    with pytest.raises(CurateError, match=r"v\.bz2: it is damaged"):
        dumps.views([str(tmp_path / "v.bz2")], "en")


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE mediawiki [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b"<mediawiki><page><ns>0</ns><revision><text>&b;</text></revision></page></mediawiki>"
)
FILE = BOMB.replace(b'<!ENTITY a "ha">', b'<!ENTITY b SYSTEM "file:///etc/passwd">')


@pytest.mark.parametrize(("data", "words"), [
    (BOMB, "it has a DOCTYPE"),
    (FILE, "it has a DOCTYPE"),
    (b"<html><body>404</body></html>", "it is XML of <html>"),
    (b"not xml", "it is cut off or no XML"),
    (b"", "it is cut off or no XML"),
    (b"<mediawiki>&b;</mediawiki>", "it is cut off or no XML (undefined entity"),
    (b"<mediawiki>" + b"<a>" * 1000, "its elements are nested more than 20 deep"),
    (dump([page("a")])[:-13] + b"<page>\xff", "it is cut off or no XML"),
    (b"7z\xbc\xaf\x27\x1c", "it is cut off or no XML"),
    (b"<mediawiki><redirect/><text>a</text><ns>0</ns></mediawiki>trailing", "it is cut off or no XML"),
])  # fmt: skip
def test_what_is_no_dump_is_refused(tmp_path, data, words):
    (tmp_path / "d.xml").write_bytes(data)
    with pytest.raises(CurateError) as error:
        list(dumps.articles(str(tmp_path / "d.xml")))
    assert str(error.value).startswith(f"{tmp_path}/d.xml: {words}")


def test_a_page_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dumps, "_MAX_CHARS", 1000)
    path = pack(tmp_path / "d.xml", dump([page("x" * 1000), page("x" * 1001)]))
    with pytest.raises(CurateError, match="it has a page of more than 1,000 characters"):
        list(dumps.articles(str(path)))


@pytest.mark.parametrize("endless", [b"<page a='", b"<!--", b"<"])
def test_a_tag_without_end_is_refused(tmp_path, monkeypatch, endless):
    monkeypatch.setattr(dumps, "_MAX_CHARS", 1 << 20)
    path = pack(tmp_path / "d.bz2", b"<mediawiki>" + endless + b"x" * (1 << 23))
    with pytest.raises(CurateError, match="it has a tag of more than 1,048,576 bytes"):
        list(dumps.articles(str(path)))


def test_a_dump_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CurateError, match=r"none\.xml: it can't be read \(No such file or directory\), but a dump "):
        list(dumps.articles(str(tmp_path / "none.xml")))
    with pytest.raises(CurateError, match=r"can't be read \(Is a directory\)"):
        dumps.views([str(tmp_path)], "en")


HOURLY = """\
de Hund 9 0
en "Weird_Al"_Yankovic 2 0
en Dog 42 0
en Special:Search 900 0
en File:A.jpg 5 0
en - 7 0
en Caf%C3%A9 3 0
en Café 4 0
en %FF 8 0
en Star_Wars:_Episode_IV 6 0
en.b Dog 1000 0
en.m Dog 8 0
en.zero Dog 1 0
enx Dog 5 0
"""
COMPLETE = """\
de.wikipedia Hund 12 desktop 9 A9
en.wikipedia Dog 4269567 desktop 100 A60B40
en.wikipedia Dog 4269567 mobile-web 10 C10
en.wikipedia Taj_Mahal null mobile-app 70 A70
en.wikibooks Dog 1 desktop 5 A5
"""


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2"])
def test_views_are_summed_over_files_forms_and_devices(tmp_path, ending):
    paths = [str(pack(tmp_path / f"{name}{ending}", text.encode())) for name, text in (("h", HOURLY), ("d", COMPLETE))]
    assert dumps.views(paths, "en") == {
        '"Weird Al" Yankovic': 2, "Dog": 161, "Café": 7, "Star Wars: Episode IV": 6, "Taj Mahal": 70,
    }  # fmt: skip
    assert dumps.views(paths, "de") == {"Hund": 18}


@pytest.mark.parametrize(
    "line", ["en Dog", "en Dog 42", "en Dog many 0", "en Dog -4 0", f"en Dog {'9' * 40} 0", "en  \x1b"]
)
def test_a_line_of_another_form_is_named(tmp_path, line):
    (tmp_path / "v").write_text(f"en Cat 1 0\n{line}\n")
    with pytest.raises(CurateError, match=r"v: line 2 is 'en .*', but lines of page views read `en Title 42") as error:
        dumps.views([str(tmp_path / "v")], "en")
    assert "\x1b" not in str(error.value)


def test_a_file_without_the_wiki_s_views_is_refused(tmp_path):
    (tmp_path / "a").write_text(HOURLY)
    (tmp_path / "b").write_text("fr Chien 1 0\n")
    with pytest.raises(CurateError, match=r"b: it has no line that begins with 'en', but a dump of page views of that"):
        dumps.views([str(tmp_path / "a"), str(tmp_path / "b")], "en")


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2"])
def test_views_that_are_cut_off_are_named(tmp_path, ending):
    lines = "".join(f"en T{n * n} {n} 0\n" for n in range(5000))
    path = pack(tmp_path / f"v{ending}", lines.encode())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 - 3])
    with pytest.raises(CurateError, match=rf"v{ending}: it is cut off"):
        dumps.views([str(path)], "en")


def test_a_line_without_end_is_refused(tmp_path):
    (tmp_path / "v.gz").write_bytes(gzip.compress(b"en " + b"x" * (3 << 20)))
    with pytest.raises(CurateError, match="it has a line of more than 1,048,576 bytes"):
        dumps.views([str(tmp_path / "v.gz")], "en")
