"""The picture of a comparison: rows, overlaps, how captions, scores and sizes lie, and the words that differ most."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from filters import quantile, svg
from metadata.errors import printable
from pipeline.finished import numbered
from pipeline.kept import Spread

#: Of runs; of steps, again from the first where there are more.
_RUNS = ("#4c78a8", "#e45756", "#54a24b", "#f58518", "#b279a2", "#72b7b2", "#9d755d", "#eeca3b", "#ff9da6", "#79706e")
_STEPS = ("#f2cf5b", "#f58518", "#e45756", "#b279a2", "#9d755d", "#72b7b2", "#bab0ac")

#: The page in inches. Everything has its place on it: what matplotlib lays out differs in the last bits each time.
_WIDTH, _PANELS_A_ROW, _RUN, _LEGEND, _SPREAD, _WORDS = 13.0, 3, 0.42, 0.5, 2.5, 4.6


def draw(report: Mapping[str, Any], spreads: Sequence[Mapping[str, Spread]]) -> bytes:
    """SVG, the same bytes for the same comparison.

    Args:
        report: see pipeline.compare.
        spreads: of each run, by measure.
    """
    pairs = [pair for pair in report["words"] if pair["more_in_first"] or pair["more_in_second"]]
    known = [run["rows"]["dropped"] for run in report["runs"] if run["rows"]]
    steps = list(dict.fromkeys(name for dropped in known for name in numbered(step["step"] for step in dropped)))
    legend_top = 1.1 + _RUN * len(report["runs"]) + 0.18 * _rows(["kept", *steps])
    spreads_top = legend_top + _LEGEND
    words_top = spreads_top + _SPREAD * _rows(report["measured"])

    def draw_all(figure: Any) -> None:
        height = _RUN * len(report["runs"])
        _draw_rows(_axes(figure, 2.6, 0.4, 6.4, height), report["runs"], steps)
        _draw_overlaps(_axes(figure, 9.6, 0.4, 3.1, height), report)
        if report["measured"]:
            _draw_legend(_axes(figure, 0.7, legend_top, _WIDTH - 1, _LEGEND), report["runs"])
        for axes, name in _panels(figure, spreads_top, _SPREAD, 0.75, report["measured"]):
            _draw_spread(axes, name, report["runs"], spreads)
        for axes, pair in _panels(figure, words_top, _WORDS, 0.95, pairs):
            _draw_words(axes, pair)

    size = (_WIDTH, words_top + _WORDS * _rows(pairs))
    return svg.drawn("compare", size, draw_all, {"font.size": 9, "axes.titlesize": 10})


def _rows(panels: Sequence[Any]) -> int:
    return -(-len(panels) // _PANELS_A_ROW)


def _axes(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    """Axes at that place of the page, in inches from its upper left."""
    whole = figure.get_figheight()
    return figure.add_axes((left / _WIDTH, 1 - (top + height) / whole, width / _WIDTH, height / whole))


def _panels(figure: Any, top: float, height: float, below: float, what: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Axes for each of `what`, in rows of that height, of which so much is for what is written below and between."""
    for number, each in enumerate(what):
        row, column = divmod(number, _PANELS_A_ROW)
        yield _axes(figure, 0.7 + 4.15 * column, top + row * height, 3.4, height - below), each


def _titled(run: Mapping[str, Any]) -> str:
    subset = run["subset"]
    samples = f", {subset['rows']:,} samples" if subset["rows"] > subset["distinct"] else ""
    name = printable(run["recipe"] or "a subset file", 30)
    return f"{run['label']}: {name}\n{subset['distinct']:,} rows{samples}"


def _draw_rows(axes: Any, runs: Sequence[Mapping[str, Any]], steps: Sequence[str]) -> None:
    """A bar a run: the share of its rows that it keeps, and that each step drops."""
    colours = {step: _STEPS[n % len(_STEPS)] for n, step in enumerate(steps)}
    drawn = set()
    for line, run in enumerate(runs):
        rows = run["rows"]
        if rows is None:
            axes.text(0.01, line, "what they were chosen from is unknown", va="center", fontsize=8)
            continue
        names = numbered(step["step"] for step in rows["dropped"])
        dropped = [(f"dropped by {name}", step["dropped"], colours[name])
                   for name, step in zip(names, rows["dropped"], strict=True)]  # fmt: skip
        left = 0.0
        for label, n, colour in [("kept", rows["kept"], _RUNS[0]), *dropped]:
            width = n / max(1, rows["in"])
            axes.barh(line, width, left=left, color=colour, edgecolor="white", height=0.7,
                      label=None if label in drawn else printable(label, 40))  # fmt: skip
            drawn.add(label)
            if width > 0.07:
                axes.text(left + width / 2, line, f"{n:,}", ha="center", va="center", fontsize=8)
            left += width
    axes.set_yticks(range(len(runs)), [_titled(run) for run in runs], parse_math=False)
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_title("rows: kept, and dropped by each step", loc="left")
    if drawn:
        below = (0, -0.3 / (_RUN * len(runs)))
        legend = axes.legend(frameon=False, ncols=_PANELS_A_ROW, loc="upper left", bbox_to_anchor=below, fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _draw_overlaps(axes: Any, report: Mapping[str, Any]) -> None:
    """The matrix of Jaccard indices."""
    labels = [run["label"] for run in report["runs"]]
    matrix = np.eye(len(labels))
    for pair in report["overlaps"]:
        one, other = map(labels.index, pair["runs"])
        matrix[one, other] = matrix[other, one] = pair["jaccard"]
    axes.pcolormesh(matrix, cmap="Blues", vmin=0, vmax=1, edgecolors="white")
    for (line, column), jaccard in np.ndenumerate(matrix):
        colour = "white" if jaccard > 0.6 else "black"
        axes.text(column + 0.5, line + 0.5, f"{jaccard:.2f}", ha="center", va="center", color=colour, fontsize=8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(np.arange(len(labels)) + 0.5, labels)
        axis.set_tick_params(length=0)
    axes.invert_yaxis()
    axes.set_title("uids in common: Jaccard index", loc="left")


def _draw_legend(axes: Any, runs: Sequence[Mapping[str, Any]]) -> None:
    """The colours of the runs that something was measured of, once for all their curves."""
    axes.set_axis_off()
    for run, colour in zip(runs, _RUNS, strict=False):
        if run["measures"]:
            axes.plot([], [], color=colour, label=run["label"])
    axes.legend(frameon=False, ncols=len(_RUNS), loc="upper left", borderaxespad=0, borderpad=0)


def _draw_spread(
    axes: Any, name: str, runs: Sequence[Mapping[str, Any]], spreads: Sequence[Mapping[str, Spread]]
) -> None:
    """A curve a run: the share of its values up to each value. Where they are far apart the scale is logarithmic."""
    known = [(spread[name], colour) for _, spread, colour in zip(runs, spreads, _RUNS, strict=False)
             if name in spread and spread[name].values]  # fmt: skip
    for spread, colour in known:
        halves = np.flatnonzero(spread.counts)
        # A share is that of the values up to the end of its half, and none is known to lie between two ends.
        ends = np.minimum([quantile.score(int(half) << 16 | 0xFFFF) for half in halves], spread.quartiles["most"])
        shares = np.cumsum(spread.counts[halves]) / spread.values
        axes.plot([spread.quartiles["least"], *ends], [0.0, *shares], color=colour, drawstyle="steps-post")
    least = min((spread.quartiles["least"] for spread, _ in known), default=0.0)
    most = max((spread.quartiles["most"] for spread, _ in known), default=0.0)
    is_log = least >= 0 and most > 50 * max(1, least)
    if is_log:
        axes.set_xscale("log")
        axes.set_xlim(max(1.0, least), most)
        axes.xaxis.set_minor_formatter(lambda *_: "")
    if max(-least, most) > 1e6:  # so much is written for each tick that there is room for few
        axes.locator_params(axis="x", **{"numticks" if is_log else "nbins": 4})
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.6g}")
    elif most > 10:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    for share in (0.25, 0.5, 0.75):
        axes.axhline(share, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("rows up to it")
    axes.set_title(printable(name, 40), loc="left", parse_math=False)


def _draw_words(axes: Any, pair: Mapping[str, Any]) -> None:
    """A bar a word: to the right what the first run has more often, to the left what the second has."""
    one, other = pair["runs"]
    sides = ((pair["more_in_first"], 1, one), (pair["more_in_second"][::-1], -1, other))
    words = [(word, sign, label) for side, sign, label in sides for word in side]
    for line, (word, sign, label) in enumerate(words):
        axes.barh(line, sign * word["log2_ratio"], color=_RUNS[ord(label) - ord("A")])
        axes.annotate(printable(word["word"], 24), (0, line), (-4 * sign, 0), textcoords="offset points", va="center",
                      ha="right" if sign > 0 else "left", fontsize=8, parse_math=False)  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(words) - 0.5, -0.5)
    axes.set_yticks([])
    widest = 1.1 * max(1.0, *(word["log2_ratio"] for word, _, _ in words))
    axes.set_xlim(-widest, widest)
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"×{2 ** abs(value):.3g}")
    axes.set_xlabel("smoothed ratio of the shares of captions that have the word", fontsize=8)
    axes.set_title(f"words more in {other}", loc="left")
    axes.set_title(f"more in {one}", loc="right")
