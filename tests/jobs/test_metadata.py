"""`curate metadata` as a user runs it: each source, all of them, languages, own lists, and what goes wrong."""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_sources import WORDS, dump, pack, page, write_wordnet

from metadata import entries

ARTICLES = [page("New York is a city. " * 120 + "\n" + "the dog runs\n" * 30, "New York"), page("x", "Talk:A", ns=1)]
VIEWS = "en New_York 60 0\nen.m New_York 11 0\nen Dog 69 0\nde Hund 80 0\nde Katze 5 0\n"


@pytest.fixture
def sources(tmp_path) -> dict[str, pathlib.Path]:
    (tmp_path / "views.txt").write_text(VIEWS)
    return {
        "wordnet": write_wordnet(tmp_path / "dict"),
        "articles": pack(tmp_path / "w.xml.bz2", dump(ARTICLES)),
        "views": pack(tmp_path / "v.gz", VIEWS.encode()),
    }


@pytest.fixture
def build(curate, tmp_path):
    """build(*options) -> rows as (entry, source, language), and the finished process."""

    def run(*options, out: str = "e.parquet"):
        done = curate("metadata", "build", *options, "--out", tmp_path / out)
        assert done.returncode == 0, done.stderr
        table = pq.read_table(tmp_path / out)
        assert table.schema.equals(entries.SCHEMA)
        return [(r["entry"], r["source"], r["language"]) for r in table.to_pylist()], done

    return run


def named(rows: list[tuple], source: str) -> list[str]:
    return [entry for entry, its, _ in rows if its == source]


def test_with_no_source_it_is_the_list_that_comes_along(build, tmp_path):
    _, done = build()
    assert entries.read(str(tmp_path / "e.parquet")).equals(entries.read("wordnet"))
    assert "entries           86,654\n" in done.stdout
    assert f"Look at    {tmp_path}/e.parquet" in done.stdout


def test_all_sources_in_one_list(build, sources, tmp_path):
    rows, done = build("--wordnet", sources["wordnet"], "--articles", sources["articles"], "--views", sources["views"])
    assert named(rows, "wordnet") == WORDS
    assert named(rows, "unigram") == ["New", "York", "a", "city", "is"]
    assert named(rows, "bigram") == []
    assert named(rows, "title") == ["New York"]
    assert len(named(rows, "number")) == 100
    figures = pq.read_table(tmp_path / "e.parquet").to_pylist()
    assert [r["figure"] for r in figures if r["source"] in ("unigram", "title")] == [120] * 5 + [71]
    assert ("curate: no bigram is in the list, for the limits and caps leave none. See --min-mutual-information, "
            "--prune-bigrams and --language.") in done.stderr  # fmt: skip
    assert "reading dumps: " in done.stderr
    again, _ = build("--wordnet", sources["wordnet"], "--articles", sources["articles"], "--views", sources["views"],
                     out="again.parquet")  # fmt: skip
    assert again == rows
    assert (tmp_path / "e.parquet").read_bytes() == (tmp_path / "again.parquet").read_bytes()


def test_the_least_figures_can_be_given(build, sources):
    least = ["--min-count", "30", "--min-views", "69", "--min-mutual-information", "16"]
    dumps = ["--articles", sources["articles"], "--views", sources["views"]]
    rows, done = build(*dumps, *least, "--prune-bigrams", "1000", "--no-numbers")
    assert sorted(named(rows, "unigram")) == ["New", "York", "a", "city", "dog", "is", "runs", "the"]
    assert named(rows, "bigram") == ["New York", "York is", "a city", "is a"]
    assert named(rows, "title") == ["Dog"]  # New York is a bigram already
    assert "no bigram" not in done.stderr
    assert not named(rows, "number")


def test_a_list_of_one_language_has_its_own_caps(build, sources):
    rows, _ = build("--views", sources["views"], "--language", "de")
    assert named(rows, "title") == ["Hund"]  # the top 76% of two
    assert {language for _, _, language in rows} == {"de"}
    rows, _ = build("--views", sources["views"], "--language", "other", "--wiki", "de", "--no-numbers")
    assert rows == [("Hund", "title", "other")]


def test_own_lists_are_added_and_languages_merged(build, sources, tmp_path):
    (tmp_path / "own.txt").write_text("zebra crossing\ndog\n")
    (tmp_path / "more.json").write_text(json.dumps({"de": ["Zebra", "Hund"], "fr": ["Zebra"]}))
    german, _ = build("--views", sources["views"], "--language", "de", "--no-numbers", out="de.parquet")
    assert german == [("Hund", "title", "de")]
    rows, _ = build("--add", tmp_path / "own.txt", tmp_path / "more.json", tmp_path / "de.parquet")
    assert rows == [
        ("dog", "own", None), ("zebra crossing", "own", None), ("Hund", "title", "de"), ("Zebra", "own", "de"),
        ("Zebra", "own", "fr"),
    ]  # fmt: skip
    rows, _ = build("--wordnet", "--add", tmp_path / "own.txt")
    assert len(rows) == 86_655
    assert named(rows, "own") == ["zebra crossing"]


@pytest.mark.parametrize(("options", "words"), [
    (["--wordnet", "nowhere"], "nowhere: there is no data.noun in it, but WordNet's files are needed"),
    (["--articles", "cut.xml.bz2"], "cut.xml.bz2: it is cut off"),
    (["--views", "cut.txt"], "cut.txt: it is cut off in its last line"),
    (["--add", "e.png"], "e.png: it is neither parquet nor text"),
    (["--add", "empty.json"], "empty.json: it has no entry"),
    (["--add", "twice.txt"], "twice.txt: 1 entries occur more than once ('a')"),
    (["--language", "deu"], "unknown language 'deu'. Did you mean"),
    (["--language", "de"], "--language de: no source is given, but the list that comes with this package is English"),
    (["--language", "other", "--views", "cut.txt"], "--language other: it has no Wikipedia"),
    (["--views", "few.txt", "--no-numbers"], "e.parquet: the limits and caps leave no entry, but a list needs one"),
    (["--views", "few.txt", "./few.txt"], "few.txt are one file, but each dump is counted once. Give it once."),
    (["--articles", "cut.xml.bz2", "cut.xml.bz2"], "cut.xml.bz2 are one file, but each dump is counted once."),
])  # fmt: skip
def test_what_can_be_mended_is_one_sentence(told, tmp_path, options, words):
    whole = pack(tmp_path / "cut.xml.bz2", dump(ARTICLES)).read_bytes()
    (tmp_path / "cut.xml.bz2").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.txt").write_text("en A 5 0\nen B")
    (tmp_path / "few.txt").write_text("en A 5 0\n")
    (tmp_path / "e.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    places = [tmp_path / option if "." in option or option == "nowhere" else option for option in options]
    given, _, errors = told("metadata", "build", *places, "--out", tmp_path / "e.parquet")
    assert given == 1
    assert words in errors
    assert not list(tmp_path.glob("*e.parquet*"))


@pytest.mark.parametrize("option", ["--articles", "--views", "--add"])
def test_what_is_read_is_not_written_over(told, tmp_path, option):
    (tmp_path / "mine.txt").write_text("en A 500 0\n")
    (tmp_path / "link.txt").symlink_to("mine.txt")
    given, _, errors = told("metadata", "build", option, "link.txt", "--out", "./mine.txt")
    assert given == 1
    assert f"{option} link.txt: lies in --out ./mine.txt, but what is read must not be written over." in errors
    assert (tmp_path / "mine.txt").read_text() == "en A 500 0\n"


def test_a_place_that_can_t_be_written_is_found_out_first(curate, tmp_path, sources):
    done = curate("metadata", "build", "--articles", sources["articles"], "--out", sources["views"] / "e.parquet")
    assert done.returncode == 1
    assert f"curate: {sources['views']}" in done.stderr
    assert "reading" not in done.stderr
    done = curate("metadata", "build", "--articles", sources["articles"], "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"curate: {tmp_path}: Is a directory, but a file is needed. Look at the path.\n"


@pytest.mark.parametrize(("args", "words"), [
    ([], "the following arguments are required"),
    (["build", "--out", "x", "--langauge", "de"], "unknown option '--langauge'. Did you mean --language?"),
    (["build", "--out", "x", "--min-count", "0"], "a whole number above 0 is needed"),
    (["build", "--out", "x", "--min-mutual-information", "nan"], "'nan' is given, but a number of bits is needed"),
    (["build", "--out", "x", "--min-mutual-information", "a"], "'a' is given, but a number of bits is needed"),
    (["describe"], "the following arguments are required: FILE"),
    (["bild"], "invalid choice: 'bild'"),
])  # fmt: skip
def test_a_wrong_command_ends_with_2(told, args, words):
    given, _, errors = told("metadata", *args)
    assert given == 2
    assert words in errors


def test_describe_says_what_is_there_and_what_can_never_match(curate, tmp_path):
    table = pa.concat_tables([
        entries.table(["the", "dog", "a"], "unigram", [900, 100, 300]),
        entries.table(["St. Louis", "U.S.", "a.", "b.", "\x1b[2J!"], "title", [5, 4, 3, 2, 1], "en"),
        entries.table(["tab\there"], "own"),
    ])  # fmt: skip
    entries.write(str(tmp_path / "e.parquet"), table)
    done = curate("metadata", "describe", tmp_path / "e.parquet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == [
        "entries                9",
        "",
        "language   source          entries          least         median           most",
        "any        unigram               3            100            300            900",
        "en         title                 5              1              3              5",
        "any        own                   1",
        "",
        "can never match        6",
        "             5  has one of , . ; : ? ! ` without a space on both sides, and matching puts spaces round them: "
        "'St. Louis', 'U.S.', 'a.', …",
        "             1  has a tab, newline or return, which matching makes a space: 'tab\\\\there'",
        "",
    ]


def test_describe_takes_the_name_of_the_list_that_comes_along(curate):
    done = curate("metadata", "describe", "wordnet")
    assert done.returncode == 0, done.stderr
    assert "any        wordnet          86,554\n" in done.stdout


def test_describe_is_safe_for_a_terminal(curate, tmp_path):
    (tmp_path / "e.json").write_text(json.dumps({"\x1b[1m": ["\x1b[2J.", "ok"]}))
    done = curate("metadata", "describe", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
