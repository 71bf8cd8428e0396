"""Figures of tables: each column's values beside those that a model makes."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..common.schema import Column, Schema
from .style import BLUE, GREY, MUTED, Data, Floats, as_array, require, styled, titled

__all__ = ["marginals"]

_MOST = 36
_BINS = 24
_SHOWN = 8  # categories with a label


@styled()
def marginals(
    schema: Schema, draws: Data, data: Data | None = None, *, title: str | None = None
) -> Figure:
    """Show how each column's values are spread, in the table's units: draws of a model, and data.

    Args:
        schema: the columns; the first 36 are shown.
        draws: rows that a model made, as the schema codes them, ``(M, D)``.
        data: rows of the table, ``(N, D)``, NaN where missing.
        title: Title.
    """
    made = as_array(draws, "draws", finite=False)
    known = made[:0] if data is None else as_array(data, "data", finite=False)
    wide = all(x.ndim == 2 and x.shape[1] == len(schema) for x in (known, made))
    require(wide, f"rows: shape (N, {len(schema)})", (known.shape, made.shape))
    shown = list(schema)[:_MOST]
    columns = min(6, max(2, math.ceil(math.sqrt(len(shown)))))
    rows = math.ceil(len(shown) / columns)
    figure = Figure((2.7 * columns, 0.9 + 2.1 * rows), layout="constrained")
    for place, column in enumerate(shown):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.set_title(column.name[:28], fontsize=10)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        pair = [x[:, place][~np.isnan(x[:, place])] for x in (known, made)]
        _draw(axes, column, *pair)
        axes.tick_params(labelsize=8)
    words = "" if data is None else "grey: the data's values; blue: those of the model"
    figure.supxlabel(words, color=MUTED, fontsize=10)
    return titled(figure, title, "Columns of the model" + " and of the data" * (data is not None))


def _draw(axes: Axes, column: Column, known: Floats, made: Floats) -> None:
    if column.is_named:
        places = np.arange(len(column.categories))
        for values, colour, width in ((known, GREY, 0.8), (made, BLUE, 0.35)):
            share = np.bincount(values.astype(int), minlength=len(places)) / max(len(values), 1)
            axes.bar(places, share, width, color=colour, alpha=0.5 if colour == GREY else 1)
        few = len(places) <= _SHOWN
        axes.set_xticks(places if few else [])
        axes.set_xticklabels([str(c)[:9] for c in column.categories] if few else [])
        return
    if column.is_density:
        known, made = (x * column.scale + column.offset for x in (known, made))
    both = np.concatenate([known, made])
    low, high = np.quantile(both, [0.002, 0.998]) if len(both) else (0.0, 1.0)
    if column.kind == "count":
        step = max(1, math.ceil((high - low + 1) / _BINS))
        edges = np.arange(low - 0.5, high + step + 0.5, step)
    else:
        edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    if len(known):
        axes.hist(known, edges.tolist(), density=True, color=GREY, alpha=0.5, linewidth=0)
    if len(made):
        axes.hist(made, edges.tolist(), density=True, color=BLUE, histtype="step", linewidth=1.6)
