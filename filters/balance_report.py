"""What balancing tells of itself: its sums, every entry's count before and after, and a picture of both."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters import svg
from filters.balance import EXPECTED_UNIT
from filters.base import Told
from metadata.errors import printable

#: Entries named at each end of the picture.
_NAMED = 18


def tell(entries: pa.Table, languages: Sequence[str], tally: dict[str, np.ndarray], fitted: dict[str, Any]) -> Told:
    """The report of a balance.

    Args:
        entries: the list, of metadata.entries.SCHEMA.
        languages: of the list; () for none.
        tally: see filters.balance.EntryTally.
        fitted: what Balanced describes itself as.
    """
    count, kept = tally["count"], tally["kept"]
    t = _t(entries, languages, fitted["t"])
    with np.errstate(divide="ignore"):
        probability = np.minimum(1.0, t / count)
    tail = count < t
    record = {
        "rows_expected": round(int(tally["expected"][0]) / EXPECTED_UNIT, 1),
        "rows_kept": int(tally["rows"][0]),
        "rows_matching_nothing": fitted["rows"] - fitted["rows_matching"],
        "matches_per_row": _share(count.sum(), fitted["rows_matching"]),
        "entries_without_match": int((count == 0).sum()),
        "entries_above_t": int((count > t).sum()),
        "tail_share_before": _share(count[tail].sum(), count.sum()),
        "head_share_before": _share(count[~tail].sum(), count.sum()),
        "tail_share_after": _share(kept[tail].sum(), kept.sum()),
        "head_share_after": _share(kept[~tail].sum(), kept.sum()),
    }
    if "languages_without_entries" in fitted:
        record["rows_of_languages_without_entries"] = sum(fitted["languages_without_entries"].values())
    table = pa.table({"entry": entries["entry"], "count": count, "kept": kept, "probability": probability})
    if languages:
        table = table.add_column(1, "language", entries["language"])
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return Told(record, {"entry_counts.parquet": sink.getvalue(), "balance.svg": _draw(table, record, fitted["t"])})


def _t(entries: pa.Table, languages: Sequence[str], t: float | dict[str, float]) -> np.ndarray:
    """Each entry's t."""
    if isinstance(t, dict):
        return np.array([t[language] for language in entries["language"].to_pylist()])
    return np.full(entries.num_rows, float(t))


def _share(part: float, whole: float) -> float:
    return round(float(part / whole), 4) if whole else 0.0


def _draw(table: pa.Table, record: dict[str, Any], t: float | dict[str, float]) -> bytes:
    """SVG: matches added up from the rarest entry to the most frequent, before and after; the entries at both ends."""
    count, kept = table["count"].to_numpy(), table["kept"].to_numpy()
    order = np.lexsort((np.arange(len(count)), count))
    order = order[count[order] > 0]

    def draw(figure: Any) -> None:
        from matplotlib.ticker import EngFormatter

        # Fixed, as a layout by what is drawn measures all texts once more, half of the time, and ticks are short.
        figure.subplots_adjust(left=0.07, right=0.99, bottom=0.09, top=0.95, wspace=0.06)
        curve, names = figure.subplots(1, 2, width_ratios=(1.25, 1))
        ranks = np.linspace(0, 100, len(order)) if len(order) > 1 else np.array([100.0])
        thin = slice(None, None, max(1, len(order) // 2000))
        for values, label, colour in ((count, "before", "#4c78a8"), (kept, "after", "#e45756")):
            summed = np.cumsum(values[order])
            curve.plot(ranks[thin], summed[thin], label=f"{label}: {int(summed[-1]) if len(summed) else 0:,} matches",
                       color=colour, linewidth=2)  # fmt: skip
        curve.set_xlabel(f"entries that match, from the rarest to the most frequent ({len(order):,} in all), %")
        curve.set_ylabel("matches, added up")
        curve.yaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 3M
        said = f"t = {t:,.6g}" if not isinstance(t, dict) else f"{len(t)} languages"
        shares = f"tail share {record['tail_share_before']:.1%} before, {record['tail_share_after']:.1%} after"
        curve.set_title(f"{said}, {shares}; {record['rows_kept']:,} rows kept", loc="left", fontsize=10)
        curve.legend(frameon=False)
        _name(names, table, order)

    return svg.drawn("balance", (12, 6.2), draw)


def _name(axes: Any, table: pa.Table, order: np.ndarray) -> None:
    """Lists the most frequent entries and the rarest, each with its count before and after."""
    axes.set_axis_off()
    texts, count, kept = table["entry"], table["count"].to_numpy(), table["kept"].to_numpy()
    ends = (("most frequent", order[::-1][:_NAMED], 0.0), ("rarest that match", order[:_NAMED], 0.53))
    for title, chosen, x in ends:
        axes.text(x, 1.0, title, weight="bold", fontsize=9, transform=axes.transAxes)
        axes.text(x + 0.44, 1.0, "before → after", fontsize=8, ha="right", color="#666666", transform=axes.transAxes)
        for line, n in enumerate(chosen, 1):
            y = 1.0 - line / (_NAMED + 1)
            said = {"fontsize": 8, "transform": axes.transAxes, "parse_math": False}
            axes.text(x, y, printable(texts[int(n)], 24), **said)
            axes.text(x + 0.44, y, f"{count[n]:,} → {kept[n]:,}", ha="right", **said)
