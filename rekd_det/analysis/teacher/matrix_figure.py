"""The figure of the matrix of top-K sets."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rekd_det.analysis.utils.figures import new_figure

#: more categories can't be named legibly; those with most rows are shown
MAX_SHOWN = 100


def matrix_figure(frequency: np.ndarray, names: list[str], order: np.ndarray, rows: np.ndarray, top_k: int) -> Figure:
    """A heat map of the shares, categories in clustered order, the background last.

    Args:
        frequency: ``(C, C)`` or, with a background column, ``(C, C + 1)``.
        names: C names.
        order: the categories' order.
        rows: rows per category, ``(C,)``.
        top_k: K.
    """
    common = set(np.argsort(-rows, kind="stable")[:MAX_SHOWN].tolist())
    common &= set(np.flatnonzero(rows).tolist())
    shown = [int(c) for c in order if int(c) in common]
    # Categories without rows stay columns if they are in a top-K set, and so does the background.
    others = [int(c) for c in order if not rows[c] and np.nansum(frequency[:, c]) > 0]
    columns = shown + others[: MAX_SHOWN - len(shown)] + list(range(len(frequency), frequency.shape[1]))
    values = frequency[np.ix_(shown, columns)]
    height, width = (2.6 + 0.19 * max(n, 14) for n in values.shape)
    figure, (axis,) = new_figure(width + 1.0, height)
    axis.grid(False)
    image = axis.imshow(values, cmap="magma_r", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    labels = [names[c] if c < len(names) else "background" for c in columns]
    size = 8 if len(shown) <= 40 else 7
    axis.set_xticks(range(len(columns)), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(len(shown)), [f"{names[c]} ({int(rows[c]):,})" for c in shown], fontsize=size)
    axis.set(
        title=f"How often is this category among the teacher's top {top_k}?",
        ylabel="label of the row (rows)",
        xlabel="category in the top-K set",
    )
    if len(shown) <= 24:
        for (y, x), value in np.ndenumerate(values):
            if value >= 0.005:
                colour = "white" if value > 0.55 else "black"
                axis.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axis, shrink=0.6, label="share of rows")
    return figure
