"""`curate metadata build` and `curate metadata describe`: the entry lists that balancing matches."""

import argparse
import contextlib
import dataclasses
import math
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jobs.cli import Action, positive
from metadata.errors import CurateError, printable

if TYPE_CHECKING:
    import pyarrow as pa

    from metadata.wikipedia import Limits, Tick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two things that can be done."""
    actions = parser.add_subparsers(dest="action", required=True, parser_class=Action, metavar="build | describe")
    build = actions.add_parser(
        "build",
        help="make an entry list from WordNet, Wikipedia and lists of one's own",
        description="Makes an entry list. With none of the sources it is the one that comes with this package: WordNet "
        "3.0 and the numbers 0 to 99. Limits are MetaCLIP's, or with --language MetaCLIP 2's.",
    )
    build.add_argument("--out", metavar="FILE.parquet", required=True, help="where the list goes; a path or address")
    _add_sources(build)
    _add_limits(build)
    describe = actions.add_parser(
        "describe",
        help="what is in an entry list, and which entries can never match",
        description="Shows an entry list by language and source, and which entries can never match, and why.",
    )
    describe.add_argument("file", metavar="FILE", help="parquet, JSON or text; `wordnet` is the one of this package")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sources")
    group.add_argument(
        "--wordnet",
        metavar="FOLDER",
        nargs="?",
        const="",
        help="WordNet 3.0: its dict folder, or nltk's data; without a folder, its words as they come with this package",
    )
    group.add_argument(
        "--articles", metavar="DUMP", nargs="+", default=[], help="a Wikipedia's pages-articles: unigrams and bigrams"
    )
    group.add_argument("--views", metavar="FILE", nargs="+", default=[], help="dumps of page views, summed: titles")
    group.add_argument(
        "--add", metavar="FILE", nargs="+", default=[], help="lists to add: parquet, JSON, or .txt with an entry a line"
    )
    group.add_argument(
        "--no-numbers", action="store_true", help="without the numbers 0 to 99, which go with any source but --add"
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--language",
        metavar="CODE",
        help="the list is for captions in this language alone (a label of fastText's lid.176, or `other`), with the "
        "caps of MetaCLIP 2 instead of the least figures below",
    )
    group.add_argument("--wiki", metavar="CODE", help="whose page views count (default: the language's, or en)")
    group.add_argument("--min-count", metavar="N", type=positive, help="of a unigram (default: 100)")
    group.add_argument(
        "--min-mutual-information",
        metavar="BITS",
        type=_bits,
        help="of a bigram: log2(N c(xy)^3 / (c(x) c(y))) (default: 30)",
    )
    group.add_argument("--min-views", metavar="N", type=positive, help="of a title (default: 70)")
    group.add_argument(
        "--prune-bigrams",
        metavar="N",
        type=positive,
        help="hold at most so many pairs of words while counting, and forget those seen least (a pair takes 16 bytes, "
        "at times 70; default: hold all)",
    )


def _bits(text: str) -> float:
    """The type of an option that is a number, -inf and inf too."""
    with contextlib.suppress(ValueError):
        if not math.isnan(number := float(text)):
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is given, but a number of bits is needed")


def run(args: argparse.Namespace) -> int:
    """Builds or describes; returns the exit code."""
    from metadata import entries

    if args.action == "describe":
        _describe(entries.read(args.file))
        return 0
    from pipeline import storage
    from pipeline.failures import os_sentence

    try:
        with storage.atomic(args.out) as file:  # before hours of reading
            found = _build(args)
            entries.write(file, found)
    except OSError as error:
        raise CurateError(os_sentence(error)) from error
    _describe(found)
    print(f"\nLook at    {args.out}")
    return 0


def _build(args: argparse.Namespace) -> "pa.Table":
    """The list that the options ask for."""
    from metadata import entries, wikipedia

    _check_language(args)
    _check_paths(args)
    limits, wiki = _limits(args), args.wiki or args.language or "en"
    added = [entries.read(path) for path in args.add]
    parts = [] if args.wordnet is None else [_wordnet(args.wordnet)]
    with _progress([*args.articles, *args.views]) as tick:
        if args.articles:
            parts.append(wikipedia.from_articles(args.articles, limits, args.language, args.prune_bigrams, tick))
        if args.views:
            parts.append(wikipedia.from_views(args.views, wiki, limits, args.language, tick))
    if not parts and not args.add:
        parts.append(_wordnet(""))
    _warn(args, parts)
    if parts and not args.no_numbers:
        parts.append(entries.numbers())
    found = entries.combine([*parts, *added], args.language)
    if not found.num_rows:
        raise CurateError(f"{args.out}: the limits and caps leave no entry, but a list needs one. Give lower limits, "
                          f"or more sources.")
    return found


def _wordnet(folder: str) -> "pa.Table":
    """The words of the WordNet in `folder`; for "" those that come with this package."""
    import pyarrow.compute as pc

    from metadata import entries, wordnet

    if folder:
        return entries.table(wordnet.words(folder), "wordnet")
    shipped = entries.read("wordnet")
    return shipped.filter(pc.equal(shipped["source"], "wordnet"))


def _check_language(args: argparse.Namespace) -> None:
    """Raises CurateError for a language that no caption is found to be in, or that the sources don't speak."""
    if args.language is None:
        return
    if args.language != "other":
        from filters.language import Language

        Language(args.language).describe()
    if args.language != "en" and not (args.wordnet is not None or args.articles or args.views or args.add):
        raise CurateError(
            f"--language {args.language}: no source is given, but the list that comes with this package is English. "
            f"Give --articles and --views of that Wikipedia, or lists to --add."
        )
    if args.language == "other" and args.views and not args.wiki:
        raise CurateError("--language other: it has no Wikipedia, but --views are of one. Give its --wiki.")


def _check_paths(args: argparse.Namespace) -> None:
    """Raises CurateError for a dump that is given twice, in whatever spelling, and for an --out that is read from.

    What is in such a dump would count twice.
    """
    from pipeline.folder import refuse_inside

    for option, paths in (("--articles", args.articles), ("--views", args.views), ("--add", args.add)):
        refuse_inside(args.out, option, paths)
    for option, paths in (("--articles", args.articles), ("--views", args.views)):
        seen: dict[str, str] = {}
        for path in paths:
            file = os.path.realpath(path)
            if file in seen:
                raise CurateError(f"{option}: {seen[file]} and {path} are one file, but each dump is counted once. "
                                  f"Give it once.")  # fmt: skip
            seen[file] = path


def _warn(args: argparse.Namespace, parts: "list[pa.Table]") -> None:
    """Says so where a dump gave nothing."""
    asked = {"unigram": ("--min-count", args.articles),
             "bigram": ("--min-mutual-information, --prune-bigrams", args.articles),
             "title": ("--min-views", args.views)}  # fmt: skip
    found = {source for part in parts for source in part["source"].unique().to_pylist()}
    for source, (options, dumps) in asked.items():
        if dumps and source not in found:
            print(f"curate: no {source} is in the list, for the limits and caps leave none. See {options} and "
                  f"--language.", file=sys.stderr)  # fmt: skip


def _limits(args: argparse.Namespace) -> "Limits":
    from metadata import wikipedia

    limits = wikipedia.METACLIP if args.language is None else wikipedia.METACLIP_2
    given = {name: getattr(args, name) for name in ("min_count", "min_mutual_information", "min_views")}
    return dataclasses.replace(limits, **{name: value for name, value in given.items() if value is not None})


@contextlib.contextmanager
def _progress(paths: Sequence[str]) -> "Iterator[Tick]":
    """Says on standard error how much of the files is read."""
    from pipeline.progress import Line

    sizes = {path: os.path.getsize(path) if os.path.isfile(path) else 0 for path in paths}
    line = Line("reading dumps", "kB", sum(sizes.values()) // 1000)
    read = dict.fromkeys(paths, 0)

    def tick(path: str, done: int) -> None:
        read[path] = done
        line.show(sum(read.values()) // 1000)

    with line:
        yield tick
    if paths:
        line.show(line.total, last=True)


def _describe(found: "pa.Table") -> None:
    """Prints what is in a list."""
    import pyarrow as pa

    from metadata import entries

    print(f"entries {found.num_rows:>16,}")
    print(f"\n{'language':10} {'source':10} {'entries':>12} {'least':>14} {'median':>14} {'most':>14}")
    groups = found.group_by(["language", "source"], use_threads=False).aggregate(
        [([], "count_all"), ("figure", "list")]
    )
    for row in groups.to_pylist():
        figures = sorted(figure for figure in row["figure_list"] if figure is not None)
        three = (figures[0], statistics.median(figures), figures[-1]) if figures else ()
        shown = "".join(f" {f'{figure:,.2f}'.removesuffix('.00'):>14}" for figure in three)
        language, source = printable(row["language"] or "any", 10), row["source"] or "none"
        print(f"{language:10} {source:10} {row['count_all']:>12,}{shown}".rstrip())
    reasons = entries.never_matches(found["entry"])
    silent = pa.table({"entry": found["entry"], "why": reasons}).filter(reasons.is_valid())
    print(f"\ncan never match {silent.num_rows:>8,}")
    for row in silent.group_by("why", use_threads=False).aggregate([([], "count_all"), ("entry", "list")]).to_pylist():
        examples = ", ".join(repr(printable(entry, 40)) for entry in row["entry_list"][:3])
        print(f"  {row['count_all']:>12,}  {row['why']}: {examples}{', …' if row['count_all'] > 3 else ''}")
