"""Figures of checks: replicated statistics, and ranks in their band."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .style import (
    BLUE,
    EDGE,
    INK,
    LIGHT,
    MUTED,
    ORANGE,
    SKY,
    TEAL,
    Data,
    Floats,
    as_array,
    require,
    styled,
    titled,
)

__all__ = ["calibration_curves", "predictive_checks"]

_BINS, _NAMED = 20, 2


@styled()
def predictive_checks(
    replicated: Mapping[str, Data],
    observed: Mapping[str, float],
    p_values: Mapping[str, float],
    *,
    misfits: Collection[str] = (),
    title: str | None = None,
) -> Figure:
    """Show each statistic of replicated data as a histogram, with that of the data as a line.

    Args:
        replicated: Values for the replicates by name of the statistic, each ``(R,)``.
        observed: Values for the data.
        p_values: p-values.
        misfits: Names of statistics that tell of misfit, whose line is in colour.
        title: Title.
    """
    expected = f"observed and p_values: the names {list(replicated)}"
    same = replicated.keys() == observed.keys() == p_values.keys() and bool(replicated)
    require(same, expected, [*observed, *p_values])
    columns = min(len(replicated), 4 if len(replicated) > 6 else 3)
    rows = math.ceil(len(replicated) / columns)
    figure = Figure((0.6 + 3.1 * columns, 0.9 + 2.35 * rows), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06, hspace=0.08)  # type: ignore[union-attr, call-arg]
    for index, (name, given) in enumerate(replicated.items()):
        values = as_array(given, f"replicated: {name}").ravel()
        axes = figure.add_subplot(rows, columns, index + 1)
        _replicates(axes, values, observed[name], ORANGE if name in misfits else TEAL)
        p = p_values[name]
        said = f"p = {p:.3f}" if p >= 0.0005 else "p < 0.001"
        axes.set_title(name)
        colour, weight = (ORANGE, "bold") if name in misfits else (MUTED, "normal")
        axes.set_xlabel(said, color=colour, weight=weight)
    bad = len(set(misfits))
    default = "Data (line) among replicates of the model: " + (
        f"{bad} of {len(replicated)} statistics tell of misfit" if bad else "no misfit seen"
    )
    return titled(figure, title, default)


@styled()
def calibration_curves(
    ranks: Mapping[str, Data],
    inside: Mapping[str, Data],
    *,
    band: tuple[Data, Data, Data],
    names: Sequence[str] = (),
    title: str | None = None,
) -> Figure:
    """Show how far ranks are from uniform, and the coverage of central intervals.

    The left panels have a line for each of D dimensions: the empirical distribution function of its
    ranks minus that of uniform ones. Lines that leave the band are in colour.

    Args:
        ranks: By kind of draws, two of them, ranks on [0, 1], each ``(M, D)``.
        inside: Whether each dimension is inside the band, bool, each ``(D,)``.
        band: Places t on [0, 1], and the least and greatest distribution function there.
        names: Names of the dimensions; those farthest outside are written at their lines.
        title: Title.
    """
    require(len(ranks) == 2 and ranks.keys() == inside.keys(), "two kinds of draws", list(ranks))
    grid, low, high = (as_array(part, "band") for part in band)
    arrays = {name: as_array(given, f"ranks: {name}") for name, given in ranks.items()}
    fits = {
        name: as_array(inside[name], f"inside: {name}", array.shape[1:]).astype(bool)
        for name, array in arrays.items()
    }
    figure = Figure((12.6, 4.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 0.92))
    ends = np.concatenate([[0], grid, [1]])
    lower, upper = (np.concatenate([[0], side - grid, [0]]) for side in (low, high))
    reach = 1.15 * max(
        float(np.abs([lower, upper]).max()),
        *(float(np.abs(_excess(array, grid)).max()) for array in arrays.values()),
    )
    for axes, (name, array) in zip((left, middle), arrays.items(), strict=True):
        axes.fill_between(ends, lower, upper, color=LIGHT, linewidth=0)
        for edge in (lower, upper):
            axes.plot(ends, edge, color=EDGE, linewidth=1)
        curves = np.pad(_excess(array, grid), ((1, 1), (0, 0)))
        good = fits[name]
        for d in np.argsort(~good, kind="stable"):
            colour, width = (BLUE, 1.4) if good[d] else (ORANGE, 1.8)
            axes.plot(ends, curves[:, d], color=colour, linewidth=width, alpha=0.75)
        far = np.abs(curves).max(0) * ~good
        for d in np.argsort(-far)[:_NAMED] if names else ():
            if far[d]:
                _name(axes, ends, curves[:, d], names[d])
        count, total = int(good.sum()), good.size
        axes.set_title(
            f"{name}: {count} of {total} inside the band", color=TEAL if count == total else ORANGE
        )
        axes.set(xlabel="rank of the truth", xlim=(0, 1), ylim=(-reach, reach))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
        axes.axhline(0, color=EDGE, linewidth=1, zorder=1)
    left.set_ylabel("distribution function minus uniform")
    middle.tick_params(axis="y", labelleft=False)
    _coverage(right, arrays)
    return titled(figure, title, "Calibration on simulated data, before and after weighting")


def _name(axes: Axes, x: Floats, y: Floats, name: str) -> None:
    """Write the name of a line at its farthest place from zero."""
    place = int(np.abs(y).argmax())
    up = bool(y[place] > 0)
    text = axes.annotate(
        name, (x[place], y[place]), (0, 4 if up else -4), textcoords="offset points", color=ORANGE
    )
    side = "left" if x[place] < 0.25 else "right" if x[place] > 0.75 else "center"
    text.set(ha=side, va="bottom" if up else "top")


def _replicates(axes: Axes, values: Floats, observed: float, colour: str) -> None:
    """Draw a histogram of replicates and the line of the data."""
    edges = _edges(values)
    heights, _ = np.histogram(values, edges)
    axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=SKY)
    axes.axvline(observed, color=colour, linewidth=2.6)
    places = [edges[0], edges[-1], observed]
    room = 0.06 * (max(places) - min(places)) or 1.0
    axes.set_xlim(min(places) - room, max(places) + room)
    axes.set_ylim(0, 1.12 * heights.max())
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=4)


def _edges(values: Floats) -> Floats:
    """Edges of bins; of values on a lattice each holds as many of its places."""
    distinct = np.unique(values)
    if distinct.size == 1:
        room = abs(distinct[0]) / 20 or 0.5
        return np.linspace(distinct[0] - room, distinct[0] + room, 8)
    gaps = np.diff(distinct) / np.diff(distinct).min()
    extent = distinct[-1] - distinct[0]
    if np.abs(gaps - gaps.round()).max() > 1e-3:
        return np.linspace(distinct[0], distinct[-1], _BINS + 1)
    step = np.diff(distinct).min()
    width = step * math.ceil(extent / step / _BINS)
    count = math.floor(extent / width + 1e-6) + 1
    edges: Floats = distinct[0] - step / 2 + width * np.arange(count + 1)
    return edges


def _excess(ranks: Floats, grid: Floats) -> Floats:
    """Distribution function of each column of ranks minus the uniform one, ``(T, D)``."""
    ordered = np.sort(ranks, axis=0)
    counts = [np.searchsorted(column, grid, side="right") for column in ordered.T]
    below: Floats = np.stack(counts, 1) / len(ranks)
    return below - grid[:, None]


def _coverage(axes: Axes, ranks: Mapping[str, npt.NDArray[np.float64]]) -> None:
    """Draw how often central intervals hold the truth, against their level."""
    levels = np.linspace(0, 1, 41)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":")
    for (name, array), colour in zip(ranks.items(), (ORANGE, TEAL), strict=True):
        shares = (np.abs(array - 0.5)[None] <= levels[:, None, None] / 2).mean(1)
        axes.fill_between(
            levels, shares.min(1), shares.max(1), color=colour, alpha=0.18, linewidth=0
        )
        axes.plot(levels, shares.mean(1), color=colour, label=name)
    axes.set_title("Do intervals hold the truth?")
    axes.set(xlabel="level of a central interval", ylabel="share that hold it", xlim=(0, 1))
    axes.set(ylim=(0, 1), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
        axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(True)
    axes.legend(frameon=False, loc="upper left")
