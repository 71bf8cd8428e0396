"""log p(x) against the values of a setting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from .style import BLUE, GREY, ORANGE, SKY, Data, as_array, require, styled, titled

__all__ = ["evidence_by_value"]

_WIDE = 4  # ratio of the largest to the smallest value, from which their axis is logarithmic


@styled()
def evidence_by_value(
    values: Data,
    log_px: Data,
    seed_errors: Data,
    sampling_errors: Data,
    *,
    alike: Sequence[bool],
    each: Sequence[Data],
    active: Sequence[Data] | None = None,
    name: str = "value",
    title: str | None = None,
) -> Figure:
    """Show mean log p(x) against a setting, with its errors of seeds and of data, and active units.

    Args:
        values: Values of the setting, ``(M,)``.
        log_px: Mean log p(x) of each one's trainings, ``(M,)``, in nats per datum.
        seed_errors: Standard errors over seeds, drawn thick; NaN draws none.
        sampling_errors: Standard errors over data, drawn thin, likewise.
        alike: Which models are the best or not distinguishable from it; the others are hollow.
        each: For each value the mean log p(x) of its trainings.
        active: For each value the active latent dimensions of its trainings.
        name: Name of the setting.
        title: Title.
    """
    x = as_array(values, "values")
    require(x.ndim == 1, "values: shape (M,)", x.shape)
    order = np.argsort(x)
    means = as_array(log_px, "log_px", x.shape)
    bars = [
        as_array(given, "errors", x.shape, finite=False) for given in (seed_errors, sampling_errors)
    ]
    require(len(alike) == len(each) == len(x), f"alike and each: {len(x)} of each", len(each))
    panels = 1 if active is None else 2
    figure = Figure((6.2 * panels, 4.4), layout="constrained")
    left, *others = figure.subplots(1, panels, squeeze=False)[0]
    left.plot(x[order], means[order], color=SKY, linewidth=1.4, zorder=1)
    for errors, width, label in zip(bars, (5, 1.6), ("seeds", "data"), strict=True):
        if not np.isnan(errors).all():
            left.vlines(
                x, means - errors, means + errors, BLUE, linewidth=width, label=f"± s.e. of {label}"
            )
    good = np.array(alike, dtype=bool)
    for some, face, label in ((good, BLUE, "best, or alike"), (~good, "white", "worse")):
        if some.any():
            left.scatter(
                x[some],
                means[some],
                60,
                face,
                edgecolors=BLUE,
                linewidths=1.6,
                zorder=3,
                label=label,
            )
    _dots(left, x, each, "one training" if max(map(np.size, each)) > 1 else "")
    left.set(ylabel="mean log p(x), nats per datum")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=len(names), frameon=False)
    for right in others:
        assert active is not None
        counts = [as_array(one, "active").ravel() for one in active]
        right.plot(x[order], x[order], color=GREY, linewidth=1.2, linestyle=":")
        right.plot(x[order], [counts[i].mean() for i in order], color=SKY, linewidth=1.4)
        _dots(right, x, counts, "")
        right.set(ylabel="active latent dimensions", ylim=(0, 1.15 * max(map(np.max, counts)) + 1))
    for axes in (left, *others):
        if x.min() > 0 and x.max() / x.min() >= _WIDE:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(x[order], [f"{value:g}" for value in x[order]])
        axes.set_xlabel(name)
        axes.grid(True)
    for right in others:
        right.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    return titled(figure, title, f"log p(x) by {name}: {x[means.argmax()]:g} is highest")


def _dots(axes: Axes, x: Data, each: Sequence[Data], label: str) -> None:
    """Draw a dot for each training."""
    for value, several in zip(np.asarray(x), each, strict=True):
        y = as_array(several, "each").ravel()
        axes.scatter([value] * len(y), y, 16, ORANGE, zorder=4, label=label, linewidths=0)
        label = ""
