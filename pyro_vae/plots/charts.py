"""Charts of training, latent space and evidence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import (
    BLUE,
    CLASSES,
    GREY,
    INK,
    LATENT,
    MUTED,
    ORANGE,
    PARETO_LIMIT,
    SKY,
    TEAL,
    Data,
    Floats,
    Labels,
    Means,
    Pair,
    as_array,
    beside,
    nats,
    require,
    styled,
    titled,
)

__all__ = ["comparison", "evidence_diagnostics", "latent_space", "learning_curves"]

_Groups: TypeAlias = Mapping[str, tuple[npt.NDArray[np.bool_], str]]
_MOST_DOUBTFUL = 0.2
_DOUBT_COLOURS = (ORANGE, "#c8325f", "#f2a007", "#7a4fb5", INK)


@styled()
def learning_curves(
    histories: Mapping[str, Mapping[str, Data]], *, evidence: Means = None, title: str | None = None
) -> Figure:
    """Show the ELBO by epoch, without the steep first ones, and its gap to log p(x).

    ``histories`` holds for each model the columns ``epoch``, ``train_elbo`` and, if any,
    ``valid_elbo`` (NaN or None where not evaluated), in nats per datum. ``evidence`` holds for some
    models mean log p(x), its standard error and the mean ELBO of the same data, which gives the
    gap.
    """
    known = {name: as_array(means, name, (3,)) for name, means in (evidence or {}).items()}
    expected = f"evidence: names among the histories {list(histories)}, at least one"
    require(bool(histories) and known.keys() <= histories.keys(), expected, list(known))
    curves = {name: _curves(name, columns) for name, columns in histories.items()}
    late = [y[int(0.2 * len(y)) :] for pair in curves.values() for _, y in pair]
    shown = np.concatenate(
        [*late, *(np.array([m - 2 * e, m + 2 * e, elbo]) for m, e, elbo in known.values())]
    )
    room = 0.08 * float(np.ptp(shown)) or 1.0
    columns, rows = min(len(curves), 3), math.ceil(len(curves) / 3)
    one = len(curves) == 1
    figure = Figure((8.4, 4.4) if one else (4.9 * columns, 0.5 + 3.4 * rows), layout="constrained")
    for index, (name, pair) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, index + 1, xlabel="epoch")
        axes.set_ylim(shown.min() - room, shown.max() + room)
        axes.set(title="" if one else name, ylabel="" if index % columns else "nats per datum")
        axes.tick_params(axis="y", labelleft=index % columns == 0)
        _elbo_panel(axes, pair, known.get(name))
    return titled(figure, title, "ELBO during training" + " and its gap to log p(x)" * bool(known))


@styled()
def latent_space(
    codes: Data, labels: Labels = None, *, title: str | None = None, axis_names: Pair = LATENT
) -> Figure:
    """Show latent codes in the plane, coloured by class, with a name at each class's centroid.

    Args:
        codes: Codes, ``(N, 2)``; of more columns the first two principal components are shown,
            and the axes give their shares of the variance.
        labels: One class per code, numbers or texts.
        title: Title.
        axis_names: Names of the two axes, for codes of two columns.
    """
    points = as_array(codes, "codes")
    planar = points.ndim == 2 and points.shape[1] > 1
    require(planar, "codes: shape (N, D) with D at least 2", points.shape)
    if points.shape[1] > 2:
        points = points - points.mean(0)
        _, powers, directions = np.linalg.svd(points.T @ points)
        points = points @ directions[:2].T
        one, two = powers[:2] / max(powers.sum(), 1e-300)
        axis_names = (f"component 1 ({one:.0%} of variance)", f"component 2 ({two:.0%})")
    axes = Figure((6.8, 6.2), layout="constrained").add_subplot()
    kinds, members = np.array([]), np.zeros(len(points), dtype=int)
    if labels is not None:
        classes = as_array(labels, "labels", points.shape[:1], dtype=None)
        kinds, members = np.unique(classes, return_inverse=True)
    colours = np.array(CLASSES)[members % len(CLASSES)]
    mixed = np.random.default_rng(0).permutation(len(points))  # no class hides another
    size = float(np.clip(24000 / len(points), 9, 40))
    x, y = points[mixed].T
    axes.scatter(x, y, size, colours[mixed].tolist(), alpha=0.6, linewidths=0)
    for index, kind in enumerate(kinds):
        x, y = points[members == index].mean(0)
        box = {"boxstyle": "round,rounding_size=0.8", "facecolor": "white", "linewidth": 2}
        box["edgecolor"] = CLASSES[index % len(CLASSES)]
        axes.text(x, y, str(kind), ha="center", va="center", weight="bold", bbox=box)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(True)
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
    return titled(axes.figure, title, "Latent codes" + " by class" * bool(len(kinds)))


@styled()
def comparison(
    names: Sequence[str],
    values: Data,
    errors: Data,
    *,
    differences: Data | None = None,
    difference_errors: Data | None = None,
    doubtful: Data | None = None,
    title: str | None = None,
) -> Figure:
    """Rank models by mean log p(x), the best on top, with bars of one and two standard errors.

    Args:
        names: Names of the ``M`` models.
        values: Mean log p(x) of each, ``(M,)``, in nats per datum.
        errors: Standard errors of ``values``; NaN draws no bar.
        differences: Mean paired differences, model minus best; the best's own is not read.
        difference_errors: Standard errors of ``differences``.
        doubtful: Share of each model's data whose log p(x) is to doubt, which is written below its
            name; its marks are hollow from 20 % on.
        title: Title.
    """
    means = as_array(values, "values", (len(names),))
    order = np.argsort(-means, kind="stable")
    panels = [("mean log p(x), nats per datum", means, errors)]
    paired = differences is not None or difference_errors is None
    require(paired, "differences with their errors", differences)
    if differences is not None:
        gaps = as_array(differences, "differences", means.shape, finite=False)
        gaps[order[0]] = 0
        bars = means * np.nan if difference_errors is None else difference_errors
        panels.append(("paired difference to the best, nats per datum", gaps, bars))
    figure = Figure((2 + 4.6 * len(panels), 1.5 + 0.5 * len(names)), layout="constrained")
    colours, rows = [BLUE] + [MUTED] * (len(names) - 1), np.arange(len(names))
    shares = (
        np.zeros(means.shape) if doubtful is None else as_array(doubtful, "doubtful", means.shape)
    )
    inner = [
        "white" if shares[i] > _MOST_DOUBTFUL else c for i, c in zip(order, colours, strict=True)
    ]
    sides = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (label, centres, given) in zip(sides, panels, strict=True):
        x, bars = centres[order], as_array(given, "errors", means.shape, finite=False)[order]
        require(not (bars < 0).any(), "errors: none below 0", bars)
        for width, z in ((1.3, 2), (4, 1)):
            axes.hlines(rows, x - z * bars, x + z * bars, colours, linewidth=width)
        axes.scatter(x, rows, 42, inner, edgecolors=colours, linewidths=1.6, zorder=3)
        for row, colour in enumerate(colours):
            text = (
                "best"
                if axes is not sides[0] and not row
                else nats(x[row], bars[row], bars[bars > 0])
            )
            beside(axes, row, text, colour)
        axes.locator_params(axis="x", nbins=6)
        axes.set_yticks(rows, [names[i] for i in order], fontsize=11, color=INK)
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
        for row, share in enumerate(shares[order] if axes is sides[0] else ()):
            if share > 0:
                said = f"{max(share, 0.01):.0%} doubtful"
                place = axes.get_yaxis_transform()
                below = {"ha": "right", "va": "top", "fontsize": 9, "color": ORANGE}
                axes.annotate(said, (0, row), (-4, -8), place, textcoords="offset points", **below)
        axes.spines["left"].set_visible(False)
        axes.grid(True)
    return titled(figure, title, "Models ranked by mean log p(x)")


@styled()
def evidence_diagnostics(
    log_px: Data,
    pareto_k: Data,
    *,
    doubts: Mapping[str, Data] | None = None,
    limit: float = PARETO_LIMIT,
    title: str | None = None,
) -> Figure:
    """Show log p(x) by datum and the Pareto k̂ of its weights, with the doubtful data in colour.

    Args:
        log_px: Estimates, ``(N,)``, in nats.
        pareto_k: Tail shape of each one's importance weights, ``(N,)``; NaN is left out.
        doubts: By reason, which estimates are to doubt, bool, each ``(N,)``, as of
            ``Evidence.doubts()``; a datum has the colour of its first reason and counts for all of
            its own. By default those whose k̂ is above ``limit``.
        limit: Largest k̂ to trust.
        title: Title.
    """
    values = as_array(log_px, "log_px").ravel()
    tails = as_array(pareto_k, "pareto_k", values.shape, finite=False)
    known = ~np.isnan(tails)
    reasons = {"heavy tail": tails > limit} if doubts is None else doubts
    groups, rest = {}, np.ones(values.shape, dtype=bool)
    for reason, colour in zip(reasons, itertools.cycle(_DOUBT_COLOURS), strict=False):
        mine = as_array(reasons[reason], f"doubts: {reason}", values.shape).astype(bool)
        if mine.any():
            groups[f"{reason}: {int(mine.sum())}"] = (mine & rest, colour)
        rest = rest & ~mine
    trusted = int(rest.sum())
    groups = {f"trusted: {trusted}": (rest, SKY), **groups} if trusted else groups
    figure = Figure((11 if known.any() else 6, 4.6), layout="constrained")
    left, *others = figure.subplots(1, 2 if known.any() else 1, squeeze=False)[0]
    error = values.std() / math.sqrt(values.size - 1) if values.size > 1 else math.nan
    _stacked(left, values, np.histogram_bin_edges(values, "auto"), groups)
    left.axvline(values.mean(), color=BLUE)
    left.set_title(f"mean {nats(values.mean(), error)}", color=BLUE)
    left.set(xlabel="log p(x), nats", ylabel="number of data")
    for right in others:
        _tail_panel(right, tails, limit, groups)
        doubtful = values.size - trusted
        said = f"{doubtful} of {values.size} doubtful" if doubtful else f"all {trusted} trusted"
        right.set_title(said, color=ORANGE if doubtful else TEAL)
    if trusted < values.size:
        handles, names = left.get_legend_handles_labels()
        style = {"ncols": len(names), "frameon": False, "reverse": True}
        figure.legend(handles, names, loc="outside lower left", **style)
    return titled(figure, title, "Evidence by datum" + ", and how far to trust it" * len(others))


def _stacked(axes: Axes, values: Floats, edges: Floats, groups: _Groups) -> None:
    """Draw a histogram whose bars are split by group, the doubtful data at the bottom."""
    base = np.zeros(len(edges) - 1)
    for name, (members, colour) in reversed(list(groups.items())):
        heights = np.histogram(values[members], edges)[0]
        axes.bar(edges[:-1], heights, np.diff(edges), base, align="edge", color=colour, label=name)
        base = base + heights
    axes.set_ylim(0, 1.05 * base.max())


def _tail_panel(right: Axes, tails: Floats, limit: float, groups: _Groups) -> None:
    """Draw Pareto k̂ by datum against the limit of trust."""
    known, width = ~np.isnan(tails), (limit or 0.7) / 14  # so that an edge falls on the limit
    inside = tails.clip(-0.5, 1.5)
    inside = np.where(inside > limit, inside, inside - 1e-9)  # the limit itself is below the edge
    first = math.floor(inside[known].min() / width)
    last = math.floor(inside[known].max() / width) + 1
    edges = width * np.arange(first, last + 1)
    shown = {name: (members & known, colour) for name, (members, colour) in groups.items()}
    _stacked(right, inside, edges, shown)
    right.axvline(limit, color=MUTED, linewidth=1.4, linestyle=":")
    missing = int((~known).sum())
    right.set_xlabel(
        "Pareto $\\hat{k}$"
        + f" (to trust up to {limit:.2g}"
        + f"; {missing} without" * bool(missing)
        + ")"
    )


def _curves(name: str, columns: Mapping[str, Data]) -> list[tuple[Floats, Floats]]:
    """Epochs and finite values of the training and, if there is one, the validation ELBO."""
    epoch, pairs = as_array(columns.get("epoch", ()), f"{name}: epoch"), []
    for key in ("train_elbo", "valid_elbo"):
        given = columns.get(key, np.full(epoch.shape, np.nan))
        values = as_array(given, f"{name}: {key}", epoch.shape, finite=False)
        keep = np.isfinite(values)
        require(keep.any() or key == "valid_elbo", f"{name}: a finite train_elbo", values)
        pairs += [(epoch[keep], values[keep])] if keep.any() else []
    return pairs


def _elbo_panel(axes: Axes, pair: list[tuple[Floats, Floats]], known: Floats | None) -> None:
    """Draw the ELBO of one model, and its gap to the evidence, all named at the right."""
    start, end = pair[0][0][0], max(x[-1] for x, _ in pair)
    (low, high), edge, ends = axes.get_ylim(), end + 0.12 * (end - start or 1), []
    for (x, y), name, colour in zip(pair, ("train", "validation"), (GREY, BLUE), strict=False):
        axes.plot(x, y, color=colour, marker="o" if len(x) == 1 else None)
        axes.plot([x[-1], edge], [y[-1], y[-1]], color=colour, linewidth=1, linestyle=":")
        ends.append((y[-1], f"{name} {nats(y[-1])}", colour))
    if known is not None:
        mean, error, elbo = known
        axes.axhspan(mean - error, mean + error, facecolor=TEAL, alpha=0.25, linewidth=0)
        axes.axhline(mean, color=TEAL, linewidth=1.2)
        ends.append((mean, f"log p(x) {nats(mean, error)}", TEAL))
        place = (end + edge) / 2
        arrow = {"arrowstyle": "<->", "color": ORANGE, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.5}
        axes.annotate("", (place, mean), (place, elbo), arrowprops=arrow)
        axes.plot([end, edge], [elbo, elbo], color=ORANGE, linewidth=1.2)
        ends.append((elbo, f"test ELBO {nats(elbo)}", ORANGE))
        ends.append(((mean + elbo) / 2, f"gap {nats(mean - elbo)} nats", ORANGE))
    ends.sort()
    heights = np.array([value for value, _, _ in ends])
    for _ in range(200):  # pushes overlapping labels apart
        overlap = np.maximum(0.075 * (high - low) - np.diff(heights), 0) / 2
        heights += np.append(0, overlap) - np.append(overlap, 0)
    for height, (_, label, colour) in zip(heights, ends, strict=True):
        beside(axes, height, label, colour, "bold" if label[:3] == "gap" else "normal")
    ticks = np.asarray(MaxNLocator(5, integer=True).tick_values(start, end))
    axes.set_xticks(ticks[(ticks >= start) & (ticks <= end)])
    axes.set_xlim(start - 0.02 * (end - start), edge)
    axes.spines["bottom"].set_bounds(start, end)
    axes.grid(axis="y")
