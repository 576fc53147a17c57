"""Sources of entry lists, small enough to be counted by hand: a WordNet, a Wikipedia's articles and page views."""

import bz2
import gzip
import pathlib
from xml.sax.saxutils import escape

LICENCE = "  1 This software and database is being provided to you\n"

#: file -> lines, in WordNet's own format.
WORDNET = {
    "data.noun": [
        "00000010 03 n 02 dog 0 domestic_dog 0 001 @ 00000020 n 0000 | a canine",
        "00000020 03 n 01 animal 0 000 | a living thing",
        "00000030 15 n 02 Saint_Louis 0 St._Louis 0 000 | a city",
        "00000040 15 n 02 St._Paul 0 Saint_Paul 0 000 | another",
        "00000050 03 n 01 goose 0 000 | a bird",
        "00000060 03 n 01 canine 0 000 | like a dog",
        "00000070 03 n 01 glasses 0 000 | for the eyes",
        "00000080 03 n 01 glass 0 000 | it breaks",
    ],
    "data.verb": ["00000110 29 v 02 dog 0 chase 0 000 00 | to follow", "00000120 29 v 01 run 0 000 00 | to go fast"],
    "data.adj": ["00000210 00 a 01 galore(ip) 0 000 | plenty", "00000220 00 s 01 big(a) 0 000 | large"],
    "data.adv": ["00000310 02 r 01 .22-caliber 0 000 | a name that begins with its full stop"],
    "index.noun": [
        "animal n 1 0 1 0 00000020", "canine n 1 0 1 0 00000060", "dog n 2 1 @ 2 1 00000010 00000060",
        "domestic_dog n 1 0 1 0 00000010", "glass n 1 0 1 0 00000080", "glasses n 1 0 1 0 00000070",
        "goose n 1 0 1 0 00000050",
    ],
    "index.verb": ["chase v 1 0 1 0 00000110", "dog v 1 0 1 0 00000110", "run v 1 0 1 0 00000120"],
    "index.adj": ["big a 1 0 1 0 00000220", "galore a 1 0 1 0 00000210"],
    "index.adv": [".22-caliber r 1 0 1 0 00000310"],
    "noun.exc": ["geese goose"],
    "verb.exc": ["ran run", "dug dig"],
    "adj.exc": ["bigger big"],
    "adv.exc": [],
}  # fmt: skip

#: What `wordnet.words` makes of it.
WORDS = ["animal", "big", "canine", "dog", "galore", "glass", "glasses", "goose", "run", "saint louis", "st"]


def write_wordnet(folder: pathlib.Path) -> pathlib.Path:
    """WORDNET's files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in WORDNET.items():
        (folder / name).write_text(LICENCE * ("exc" not in name) + "".join(f"{line}  \n" for line in lines))
    return folder


#: Synsets of it as ImageNet's list has them: dog, glasses, goose; and, by its number alone, the verb run.
SYNSETS = ["n00000010", "n00000070", "n00000050", "n00000120"]


def write_timm(folder: pathlib.Path) -> pathlib.Path:
    """A package timm in `folder` that has SYNSETS as its list, and can't be run."""
    info = folder / "timm" / "data" / "_info"
    info.mkdir(parents=True)
    (folder / "timm" / "__init__.py").write_text("raise RuntimeError('timm is run')\n")
    (info / "imagenet21k_goog_synsets.txt").write_text("\n".join(SYNSETS))
    return folder


def page(text: str, title: str = "T", ns: int = 0, redirect: bool = False) -> str:
    """A page of a dump."""
    mark = '<redirect title="X" />' if redirect else ""
    return (
        f"<page><title>{escape(title)}</title><ns>{ns}</ns><id>1</id>{mark}<revision><id>7</id><contributor><username>u"
        f'</username></contributor><comment>c</comment><text bytes="9" xml:space="preserve">{escape(text)}</text>'
        f"<sha1>x</sha1></revision></page>\n"
    )


def dump(pages: list[str]) -> bytes:
    """The XML of a dump."""
    return (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">'
        '<siteinfo><sitename>W</sitename><namespaces><namespace key="0" case="first-letter" /></namespaces></siteinfo>'
        + "".join(pages)
        + "</mediawiki>\n"
    ).encode()


def pack(path: pathlib.Path, data: bytes) -> pathlib.Path:
    """Writes `data` as the path's ending says: .bz2 in several streams, .gz, or as it is."""
    if path.suffix == ".bz2":
        third = len(data) // 3 + 1
        data = b"".join(bz2.compress(data[i : i + third]) for i in range(0, len(data), third))
    elif path.suffix == ".gz":
        data = gzip.compress(data)
    path.write_bytes(data)
    return path
