"""Figures of data, latent spaces, training and evidence, from plain arrays or tensors.

Every function has a default title (an empty one leaves it out) and raises ``ValueError`` for
input that is empty, ragged, not finite or not of the shape it says. Pictures are ``(*, H, W)``,
``(*, 1, H, W)``, ``(*, 3, H, W)`` or ``(*, D)``, D a square of at least 16; clipped to [0, 1].
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

__all__ = [
    "comparison",
    "evidence_diagnostics",
    "images",
    "interpolation",
    "latent_space",
    "learning_curves",
    "manifold",
    "reconstructions",
    "save",
]

Data: TypeAlias = torch.Tensor | npt.ArrayLike
Labels: TypeAlias = Data | Sequence[object] | None
Means: TypeAlias = Mapping[str, tuple[float, float]] | None
Floats: TypeAlias = npt.NDArray[np.float64]
Curves: TypeAlias = list[tuple[Floats, Floats]]

INK, MUTED, EDGE, LIGHT = "#1f2933", "#5f6b78", "#c5ccd4", "#e9edf1"
BLUE, SKY, ORANGE, TEAL = "#2a6fbb", "#7fb8e6", "#d9541e", "#0b8a74"
CLASSES = (BLUE, "#f2a007", TEAL, "#c8325f", SKY, "#7a4fb5", "#93b83c", "#8a6a45", ORANGE, MUTED)
LATENT = ("$z_1$", "$z_2$")
PARETO_LIMIT = 0.7


@contextmanager
def _style() -> Iterator[None]:
    """Draw in one style whatever the caller's settings, and leave those as they were."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("text", color=INK)
        matplotlib.rc("font", size=11)
        matplotlib.rc("figure", titlesize=14, titleweight="bold")
        matplotlib.rc("axes", titlesize=12, titleweight="bold", titlelocation="left", titlepad=10)
        matplotlib.rc("axes", edgecolor=EDGE, labelcolor=MUTED, axisbelow=True)
        matplotlib.rc("axes.spines", top=False, right=False)
        matplotlib.rc("axes.formatter", useoffset=False)
        matplotlib.rc("xtick", color=EDGE, labelcolor=MUTED, labelsize=10)
        matplotlib.rc("ytick", color=EDGE, labelcolor=MUTED, labelsize=10)
        matplotlib.rc("grid", color=LIGHT)
        matplotlib.rc("patch", facecolor=SKY, edgecolor="white", force_edgecolor=True, linewidth=0.6)
        yield


@_style()
def images(
    x: Data, *, columns: int | None = None, title: str | None = None, labels: Labels = None
) -> Figure:
    """Show data as a tight grid of pictures; what is no picture as profiles or distribution.

    Args:
        x: Pictures ``(N, H, W)``. Other data, and flat whole numbers beyond 1, get profiles
            (more than two features), a scatter plot (two) or a histogram (one).
        columns: Pictures per row; by default a grid a little wider than high.
        title: Title.
        labels: One label per picture, written beneath it.
    """
    data = _array(x, "x")
    texts = [] if labels is None else _labels(labels, len(data)).tolist()
    _require(columns is None or columns > 0, "columns: at least 1", columns)
    pictures = _pictures(data, "x")
    if pictures is None:
        return _features(data.reshape(len(data), -1), title)
    count, height, width = pictures.shape[:3]
    columns = min(count, columns or math.ceil(math.sqrt(1.7 * count * height / width)))
    gap = math.ceil(height / 14)
    below = math.ceil(height / 3) if texts else gap
    axes = _mosaic(pictures, columns, below, gap)
    for index, text in enumerate(texts):
        centre = index % columns * (width + gap) + (width - 1) / 2
        bottom = index // columns * (height + below) + 1.03 * height - 0.5
        axes.text(centre, bottom, str(text), size=9, color=MUTED, ha="center", va="top")
    return _titled(axes.figure, title, f"{count} data")


@_style()
def reconstructions(x: Data, mean: Data, *, title: str | None = None) -> Figure:
    """Show every datum with its reconstruction beneath; no pictures: one against the other.

    Args:
        x: Data, as in :func:`images`.
        mean: Reconstructions, of the same shape.
        title: Title.
    """
    data = _array(x, "x")
    both = np.stack([data, _array(mean, "mean", data.shape)])
    pictures = _pictures(both, "x and mean", lead=2)
    if pictures is None:
        axes = _scatter(both.reshape(2, -1).T, ("data", "reconstruction"), BLUE)
        axes.axline((0, 0), slope=1, color=ORANGE, linewidth=1.2, zorder=0)
        return _titled(axes.figure, title, "Reconstructions against data")
    count, height, width, channels = pictures.shape[1:]
    columns, gap, between = min(count, 10), math.ceil(height / 14), math.ceil(0.3 * height)
    pairs = (pictures[0], np.ones((count, gap, width, channels)), pictures[1])
    axes = _mosaic(np.concatenate(pairs, axis=1), columns, between, gap)
    tops = np.arange(math.ceil(count / columns)) * (2 * height + gap + between)
    middles = np.concatenate([tops, tops + height + gap]) + (height - 1) / 2
    axes.set_yticks(middles, ["data"] * len(tops) + ["reconstruction"] * len(tops))
    return _titled(axes.figure, title, "Data and their reconstructions")


@_style()
def learning_curves(
    histories: Mapping[str, Mapping[str, Data]], *, evidence: Means = None, title: str | None = None
) -> Figure:
    """Show the ELBO by epoch, past the steep first ones, and the gap it leaves to log p(x).

    Args:
        histories: For each model the columns ``epoch``, ``train_elbo`` and, if any,
            ``valid_elbo`` (NaN or None where not evaluated), in nats per datum.
        evidence: For some models mean log p(x) of the validation data and its standard error.
        title: Title.
    """
    known = {name: _array(pair, name, (2,)) for name, pair in (evidence or {}).items()}
    expected = f"evidence: names among the histories {list(histories)}, at least one"
    _require(bool(histories) and known.keys() <= histories.keys(), expected, list(known))
    curves = {name: _curves(name, columns) for name, columns in histories.items()}
    late = [y[int(0.15 * len(y)) :] for pair in curves.values() for _, y in pair]
    shown = np.concatenate([*late, *(m + e * np.array([-2, 2]) for m, e in known.values())])
    room = 0.08 * float(np.ptp(shown)) or 1.0
    columns, one = min(len(curves), 3), len(curves) == 1
    rows = math.ceil(len(curves) / columns)
    size = (8.4, 4.4) if one else (4.9 * columns, 0.5 + 3.4 * rows)
    figure = Figure(size, layout="constrained")
    for index, (name, pair) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, index + 1, xlabel="epoch")
        axes.set_ylim(shown.min() - room, shown.max() + room)
        axes.set(title="" if one else name, ylabel="" if index % columns else "nats per datum")
        _elbo_panel(axes, pair, known.get(name))
    default = "ELBO during training" + " and its gap to log p(x)" * bool(known)
    return _titled(figure, title, default)


@_style()
def latent_space(
    codes: Data,
    labels: Labels = None,
    *,
    title: str | None = None,
    axis_names: tuple[str, str] = LATENT,
) -> Figure:
    """Show latent codes in the plane, coloured by class, each class named at its centroid.

    Args:
        codes: Codes, ``(N, 2)``; of more columns the first two principal components are shown,
            and the axes say with which share of the variance.
        labels: One class per code, numbers or texts.
        title: Title.
        axis_names: Names of the two axes, for codes of two columns.
    """
    points = _array(codes, "codes")
    planar = points.ndim == 2 and min(points.shape) > 1
    _require(planar, "codes: shape (N, D), both at least 2", points.shape)
    if points.shape[1] > 2:
        points = points - points.mean(0)
        _, scales, directions = np.linalg.svd(points, full_matrices=False)
        points = points @ directions[:2].T
        one, two = scales[:2] ** 2 / max((scales**2).sum(), 1e-300)
        axis_names = (f"component 1 ({one:.0%} of variance)", f"component 2 ({two:.0%})")
    if labels is None:
        return _titled(_scatter(points, axis_names, BLUE).figure, title, "Latent codes")
    kinds, members = np.unique(_labels(labels, len(points)), return_inverse=True)
    axes = _scatter(points, axis_names, np.array(CLASSES)[members % len(CLASSES)])
    for index, kind in enumerate(kinds):
        text = axes.text(*points[members == index].mean(0), str(kind), ha="center", va="center")
        text.set(color=CLASSES[index % len(CLASSES)], fontsize=17, fontweight="bold")
        text.set_path_effects([withStroke(linewidth=4.5, foreground="white")])
    return _titled(axes.figure, title, "Latent codes by class")


@_style()
def manifold(
    grid: Data, *, title: str | None = None, extent: Sequence[float] | None = None
) -> Figure:
    """Show decoded latents as one seamless picture.

    Args:
        grid: Pictures ``(rows, columns, H, W)``, row 0 on top.
        title: Title.
        extent: Latent coordinates (left, right, bottom, top) of the outermost pictures' centres.
    """
    pictures = _pictures(_array(grid, "grid"), "grid: pictures (rows, columns, H, W)", lead=2)
    rows, columns, height, width = pictures.shape[:4]
    axes = _mosaic(pictures.reshape(-1, *pictures.shape[2:]), columns, 0, 0)
    if extent is not None:
        left, right, bottom, top = _array(extent, "extent", (4,))
        axes.set_xticks(*_ticks(left, right, columns, width))
        axes.set_yticks(*_ticks(top, bottom, rows, height))
        axes.set(xlabel=LATENT[0], ylabel=LATENT[1])
    return _titled(axes.figure, title, "Pictures decoded across the latent space")
