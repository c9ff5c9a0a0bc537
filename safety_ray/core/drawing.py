"""The style of all figures: an empty figure, its colors, and the PNG of a figure.

The colors are of Okabe and Ito's palette, which people with any common color blindness can distinguish.
"""

from __future__ import annotations

import io
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

VERMILLION, BLUE, GREEN, PURPLE, GREY = "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#8a857c"
ORANGE, SKY = "#E69F00", "#56B4E9"
INK, SOFT, LINE = "#1c1b19", "#6a665f", "#e4e0d8"
"""colors of texts, of frames and secondary texts, and of the grid"""
ERROR_BARS: dict[str, Any] = {"fmt": "none", "ecolor": INK, "elinewidth": 0.9, "alpha": 0.7}
"""arguments of `Axes.errorbar` for the intervals of bars"""


def figure(width: float, height: float, dpi: int = 130) -> Figure:
    """Return an empty figure of `width` x `height` inches, without pyplot's global state."""
    made = Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    return made


def open_frame(axes: Axes) -> None:
    """Hide the upper and the right side of the frame."""
    axes.spines[["top", "right"]].set_visible(False)


def style_bars(axes: Axes, grid: Literal["x", "y"]) -> None:
    """Give a bar chart its frame, ticks and a grid for the values, which are along the axis `grid`."""
    open_frame(axes)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.grid(axis=grid, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=9.5)


def png(drawn: Figure) -> bytes:
    """Return the figure as a PNG, with the same bytes in every run."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
