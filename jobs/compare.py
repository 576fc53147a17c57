"""`curate compare RUN RUN…`: how finished runs differ, as a table and a picture."""

import argparse
import itertools
import os
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jobs.cli import folder
from jobs.main import listed
from metadata.errors import CurateError, printable

#: Of the table's first column, and of the others, in characters: 118 for seven columns.
_NAME, _FIGURE = 33, 14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, and where the comparison goes."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        type=folder,
        nargs="+",
        help="the folder of a finished run; or a subset file (.npy), of which rows and overlaps alone are known",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=folder,
        help="where compare.json and compare.svg go, a path or address (default: runs/compare-NAME-NAME)",
    )


def run(args: argparse.Namespace) -> int:
    """Compares, and prints the table; returns the exit code."""
    from pipeline.compare import compare
    from pipeline.failures import os_sentence

    out = args.out or _default_out(args.runs)
    try:
        report = compare(args.runs, out)
    except OSError as error:
        raise CurateError(os_sentence(error)) from error
    for line in _table(report):
        print(line.rstrip())
    print(f"\nLook at    {out}/compare.json   every number")
    print(f"           {out}/compare.svg    the picture")
    return 0


def _default_out(runs: Sequence[str]) -> str:
    names = [os.path.basename(path).removesuffix(".npy") or "run" for path in runs]
    return f"runs/compare-{'-'.join(names)}"[:200]


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the table."""
    runs = report["runs"]
    yield from (f"{run['label']}  {_end(run['run'], 110)}" for run in runs)
    taken = ["samples"] if any(run["subset"]["rows"] > run["subset"]["distinct"] for run in runs) else []
    heads = ["rows", "in", "kept", "share", *taken, "distinct uids", "in no other"]
    yield from _aligned(heads, (_rows(run, bool(taken)) for run in runs))
    steps = (step for run in runs for step in _steps(run))
    yield from _aligned(["dropped by", "of", "dropped", "share", _after("which is")], steps)
    yield from _aligned(["in common", "uids", "Jaccard", "of the first", "of the second"], _overlaps(report))
    for name in report["measured"]:
        heads = [printable(name, _NAME), "without", "least", "25%", "median", "75%", "most"]
        yield from _aligned(heads, (_spread(run, name) for run in runs))
    for pair in report["words"]:
        yield from _words(pair, {run["label"]: _captions(run) for run in runs if run["captions_looked_at"]})
    for note in report["notes"]:
        yield ""
        yield from textwrap.wrap(f"note: {note}", 118, subsequent_indent="  ", break_on_hyphens=False)


def _aligned(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """An empty line and a table, its first column words and the others figures; nothing without lines."""
    for number, line in enumerate(lines):
        if not number:
            yield ""
            yield _line(heads)
        yield _line(line)


def _line(cells: Sequence[str]) -> str:
    return _padded(cells[0], _NAME) + "".join(f"{cell:>{_FIGURE}}" for cell in cells[1:])


def _padded(text: str, width: int) -> str:
    """`text` with spaces after it, for a terminal on which a letter of East Asia takes two places."""
    taken = sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return text + " " * max(0, width - taken)


def _after(text: str) -> str:
    """Words as a last column, which begin where a figure's column does."""
    return f"   {text}".ljust(_FIGURE)


def _end(text: str, limit: int) -> str:
    safe = printable(text, len(text) * 10)
    return safe if len(safe) <= limit else "…" + safe[1 - limit :]


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _rows(run: Mapping[str, Any], has_samples: bool) -> list[str]:
    rows, subset = run["rows"], run["subset"]
    of = [f"{rows['in']:,}", f"{rows['kept']:,}", _share(rows["kept"], rows["in"])] if rows else None
    return [
        f"{run['label']}  {printable(run['recipe'] or 'a subset file', _NAME - 3)}",
        *(of or ["unknown", f"{subset['distinct']:,}", ""]),
        *([f"{subset['rows']:,}"] if has_samples else []),
        f"{subset['distinct']:,}",
        f"{subset['in_no_other']:,}",
    ]


def _steps(run: Mapping[str, Any]) -> Iterator[list[str]]:
    from pipeline.finished import numbered

    steps = run["rows"]["dropped"] if run["rows"] else []
    for name, step in zip(numbered(step["step"] for step in steps), steps, strict=True):
        name = f"{run['label']}  {printable(name, _NAME - 3)}"
        figures = [f"{step['in']:,}", f"{step['dropped']:,}", _share(step["dropped"], step["in"])]
        yield [name, *figures, _after(printable(listed(step["fitted"]), 42))]


def _overlaps(report: Mapping[str, Any]) -> Iterator[list[str]]:
    for pair in report["overlaps"]:
        shares = [f"{pair['jaccard']:.4f}", f"{pair['of_first']:.1%}", f"{pair['of_second']:.1%}"]
        yield [" and ".join(pair["runs"]), f"{pair['shared']:,}", *shares]
    if len(report["runs"]) > 2:
        yield ["all", f"{report['in_all']:,}"]


def _spread(run: Mapping[str, Any], name: str) -> list[str]:
    spread = (run["measures"] or {}).get(name)
    if spread is None:
        return [run["label"], "unknown"]
    return [run["label"], f"{spread['without']:,}", *map(_figure, spread["quartiles"].values())]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.5g}"


def _captions(run: Mapping[str, Any]) -> str:
    looked_at = run["captions_looked_at"]
    is_sample = looked_at < run["measures"]["caption words"]["values"]
    return f"{run['label']} of {'a sample of ' if is_sample else ''}{looked_at:,}"


def _words(pair: Mapping[str, Any], captions: Mapping[str, str]) -> Iterator[str]:
    """The words that differ most, side by side: to the left what the first run has more often."""
    one, other = pair["runs"]
    sides = [[(printable(word["word"], 24), word["share"], word["other_share"]) for word in side]
             for side in (pair["more_in_first"], pair["more_in_second"])]  # fmt: skip
    if not any(sides):
        return
    yield ""
    yield f"share of captions with a word: {captions[one]}, {captions[other]}"
    yield _side(f"more in {one}", one, other) + "    " + _side(f"more in {other}", other, one)
    for left, right in itertools.zip_longest(*sides):
        yield "    ".join(
            _side(side[0], f"{side[1]:.2%}", f"{side[2]:.2%}") if side else _side("", "", "") for side in (left, right)
        )


def _side(word: str, share: str, other: str) -> str:
    return _padded(word, 32) + f"{share:>9}{other:>9}"
