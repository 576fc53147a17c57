"""What several trainings of each recipe came to: means with their spread over seeds, as a table and a picture."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from filters import svg

#: Whose tasks are a check from outside: they are shown, but are in no mean.
OUTSIDE = ("digits",)

#: Inches of a recipe's bar with the space round it, and of what stands above, between and below the two rows of panels:
#: titles and figures are as tall however few recipes there are.
_BAR_IN, _TOP_IN, _BETWEEN_IN, _BOTTOM_IN = 0.325, 0.32, 0.57, 0.36


class Spread(NamedTuple):
    """Of a score over seeds; `deviation` is the sample's, 0 of one seed."""

    mean: float
    deviation: float


def spread(values: Sequence[float]) -> Spread:
    """The mean and standard deviation."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


def means(seeds: Sequence[Mapping[str, float]]) -> list[float]:
    """Each seed's mean over the tasks, but those from outside."""
    return [statistics.fmean(v for key, v in scores.items() if key not in OUTSIDE) for scores in seeds]


def table(study: Mapping[str, Any]) -> str:
    """The study as a Markdown table, each figure with its standard deviation over seeds.

    Args:
        study: `recipes` by name, each with `rows`, `images`, `passes` and `seeds`: scores by task's key of each seed.
    """
    keys = list(next(iter(study["recipes"].values()))["seeds"][0])
    lines = [["recipe", "rows", "images", "each seen", "mean", *keys], ["---"] * (5 + len(keys))]
    for name, found in study["recipes"].items():
        scores = [means(found["seeds"]), *([one[key] for one in found["seeds"]] for key in keys)]
        cells = [name, f"{found['rows']:,}", f"{found['images']:,}", f"{found['passes']:.1f} times"]
        lines.append([*cells, *(_figure(spread(values)) for values in scores)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _figure(found: Spread) -> str:
    return f"{found.mean:.3f} ± {found.deviation:.3f}"


def picture(study: Mapping[str, Any]) -> bytes:
    """A panel for the mean and one a task: a bar a recipe, its spread, and a dot a seed. SVG, the same bytes each time.

    Args:
        study: as in `table`, with `chance` by task's key.
    """
    recipes, keys = study["recipes"], list(study["chance"])
    panel = _BAR_IN * len(recipes)
    height = _TOP_IN + panel + _BETWEEN_IN + panel + _BOTTOM_IN

    def draw(figure: Any) -> None:
        panels = figure.subplots(2, -(-(len(keys) + 1) // 2), sharey=True).ravel()
        for axes in panels[len(keys) + 1 :]:
            axes.set_visible(False)
        _panel(panels[0], "mean of the world's tasks", {name: means(one["seeds"]) for name, one in recipes.items()})
        for axes, key in zip(panels[1:], keys, strict=False):
            _panel(axes, key, {name: [seed[key] for seed in one["seeds"]] for name, one in recipes.items()})
            axes.axvline(study["chance"][key], color="#888888", linewidth=1, linestyle=":")
        figure.subplots_adjust(left=0.13, right=0.98, top=1 - _TOP_IN / height, bottom=_BOTTOM_IN / height,
                               wspace=0.1, hspace=_BETWEEN_IN / panel)  # fmt: skip

    return svg.drawn("study", (13, height), draw, {"font.size": 9, "axes.titlesize": 10})


def _panel(axes: Any, title: str, scores: Mapping[str, Sequence[float]]) -> None:
    found = [spread(values) for values in scores.values()]
    places = range(len(found))
    axes.barh(places, [one.mean for one in found], xerr=[one.deviation for one in found], height=0.6, color="#a9c4e4")
    for place, values in zip(places, scores.values(), strict=True):
        axes.plot(values, [place] * len(values), "o", color="#2f5d95", markersize=3)
    axes.set_yticks(places, list(scores))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_title(title, loc="left", parse_math=False)
