"""Pictures as SVG by matplotlib: the same bytes for the same numbers."""

import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def drawn(
    name: str, size: tuple[float, float], draw: Callable[[Any], None], settings: Mapping[str, Any] | None = None
) -> bytes:
    """The SVG of a figure.

    Args:
        name: of the picture: the ids of its parts follow from it.
        size: width and height in inches.
        draw: puts onto a matplotlib Figure what is to be seen.
        settings: of matplotlib's, by name, besides those that all pictures have.
    """
    import matplotlib

    # The id of an SVG's parts is random but for this salt, and its date is that of the run.
    common: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name}
    common |= {"axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(common | dict(settings or {})), warnings.catch_warnings():
        # Letters stay letters in the picture, so it is the reader's fonts that must have them.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        draw(figure)
        sink = io.BytesIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()
