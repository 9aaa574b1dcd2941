"""What all figures share: a canvas without a display, colours for the colour-blind, and files."""

from __future__ import annotations

from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 10,
    "grid.alpha": 0.3,
}


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1, **kwargs) -> tuple[Figure, list[Axes]]:
    """A figure of ``width x height`` inches and its axes, row by row. Further arguments go to ``Figure.subplots``."""
    with matplotlib.style.context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, list(axes.flat)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG and return its path."""
    figure.savefig(path, dpi=120)
    return path
