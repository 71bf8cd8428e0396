"""Data and decoded latents as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .charts import latent_space
from .style import (
    BLUE,
    CLASSES,
    INK,
    LATENT,
    MUTED,
    ORANGE,
    Data,
    Floats,
    Labels,
    as_array,
    require,
    styled,
    tick_places,
    titled,
)

__all__ = ["are_pictures", "images", "interpolation", "manifold", "picture_rows", "reconstructions"]

_NOISE = 0.5  # by which pixels may leave [0, 1]
_PANELS, _MOST_FEATURES, _FEW = 12, 6, 3
_HOLE = (0.80, 0.86, 0.92)  # pale blue


@styled()
def images(
    x: Data, *, columns: int | None = None, title: str | None = None, labels: Labels = None
) -> Figure:
    """Show data as a tight grid of pictures, or else as series or distributions.

    Args:
        x: Pictures ``(N, H, W)``. Other data are shown as they are: series ``(N, T, C)`` with
            values beyond [0, 1] as lines, tables (and flat integers beyond 1) as the distributions
            of their first six features and of each pair of them.
        columns: Pictures per row; by default a grid a little wider than it is high.
        title: Title.
        labels: One label per picture, written beneath it.
    """
    data = as_array(x, "x")
    texts: Sequence[object] = []
    if labels is not None:
        texts = as_array(labels, "labels", data.shape[:1], dtype=None).tolist()
    require(columns is None or columns > 0, "columns: at least 1", columns)
    pictures = _pictures(data, "x")
    if not pictures.size:
        if data.ndim == 3:
            return _series(data, title)
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
    return titled(axes.figure, title, f"{count} picture" + "s" * (count > 1))


def are_pictures(x: Data) -> bool:
    """Return whether data ``(N, ...)`` are shown as pictures by :func:`images`."""
    data = as_array(x, "x")
    whole = data.max() > 1 and bool((data == data.round()).all())
    return not whole and _pictures(data, "x").size > 0


@styled()
def reconstructions(x: Data, mean: Data, *, title: str | None = None) -> Figure:
    """Show every datum with its reconstruction beneath, or one against the other if not pictures.

    ``x`` are data as in :func:`images`; ``mean`` are the reconstructions, of the same shape.
    """
    data = as_array(x, "x")
    both = np.stack([data, as_array(mean, "mean", data.shape)])
    pictures = _pictures(both, "x and mean", lead=2)
    if not pictures.size:
        title = "Reconstructions against data" if title is None else title
        points = both.reshape(2, -1).T
        figure = latent_space(points, title=title, axis_names=("data", "reconstruction"))
        figure.axes[0].axline((0, 0), slope=1, color=ORANGE, linewidth=1.2, zorder=0)
        return figure
    count, height, width, channels = pictures.shape[1:]
    columns, gap, between = min(count, 10), math.ceil(height / 14), math.ceil(0.3 * height)
    pairs = (pictures[0], np.ones((count, gap, width, channels)), pictures[1])
    axes = _mosaic(np.concatenate(pairs, axis=1), columns, between, gap)
    tops = np.arange(math.ceil(count / columns)) * (2 * height + gap + between)
    middles = np.concatenate([tops, tops + height + gap]) + (height - 1) / 2
    axes.set_yticks(middles, ["data"] * len(tops) + ["reconstruction"] * len(tops))
    return titled(axes.figure, title, "Data and their reconstructions")


@styled()
def manifold(
    grid: Data, *, title: str | None = None, extent: Sequence[float] | None = None
) -> Figure:
    """Show decoded latents as one seamless picture.

    ``grid`` holds pictures ``(rows, columns, H, W)``, row 0 on top; ``extent`` the latent
    coordinates (left, right, bottom, top) of the outermost pictures' centres.
    """
    pictures = _pictures(as_array(grid, "grid"), "grid", lead=2)
    require(pictures.size > 0, "grid: pictures (rows, columns, H, W)", np.shape(grid))
    rows, columns, height, width = pictures.shape[:4]
    axes = _mosaic(pictures.reshape(-1, *pictures.shape[2:]), columns, 0, 0)
    if extent is not None:
        left, right, bottom, top = as_array(extent, "extent", (4,))
        axes.set_xticks(*tick_places(left, right, columns, width))
        axes.set_yticks(*tick_places(top, bottom, rows, height))
        axes.set(xlabel=LATENT[0], ylabel=LATENT[1])
    return titled(axes.figure, title, "Pictures decoded across the latent space")


@styled()
def interpolation(frames: Data, *, title: str | None = None) -> Figure:
    """Show paths ``(steps, N, H, W)``, one per row, from left to right."""
    pictures = _pictures(as_array(frames, "frames"), "frames", lead=2)
    require(pictures.size > 0, "frames: pictures (steps, N, H, W)", np.shape(frames))
    steps, _, height, width = pictures.shape[:4]
    paths = pictures.swapaxes(0, 1).reshape(-1, *pictures.shape[2:])
    axes = _mosaic(paths, steps, math.ceil(height / 8), 0)
    axes.set_xticks(*tick_places(0, 1, steps, width))
    axes.set_xlabel("share of the way")
    return titled(axes.figure, title, "Interpolation in latent space")


def picture_rows(axes: Axes, pictures: Data, names: Sequence[str] = ()) -> None:
    """Draw rows of pictures into axes of a figure; missing pixels (NaN) are pale blue.

    Args:
        axes: Where to draw.
        pictures: Pictures ``(rows, columns, H, W)``.
        names: One for each row, or for each group of equally many, written to the left.
    """
    data = as_array(pictures, "pictures", finite=False)
    require(not np.isinf(data).any(), "pictures: numbers, or NaN for missing ones", "infinity")
    known = _pictures(np.nan_to_num(data), "pictures", lead=2)
    require(known.size > 0, "pictures: pictures (rows, columns, H, W)", data.shape)
    missing = _pictures(np.isnan(data).astype(float), "pictures", lead=2)
    if missing.any():
        known = np.where(missing > 0, (*_HOLE, 1.0)[: max(3, known.shape[-1])], known)
    rows, columns, height = known.shape[:3]
    groups = max(1, len(names))
    require(rows % groups == 0, f"names: as many as rows, {rows}, or a divisor of it", groups)
    gap = math.ceil(height / 14)
    _show(axes, _canvas(known.reshape(-1, *known.shape[2:]), columns, gap, gap))
    if names:
        size = rows // groups * (height + gap)
        axes.set_yticks([(i + 0.5) * size - (gap + 1) / 2 for i in range(groups)], names, color=INK)


def _pictures(data: Floats, name: str, lead: int = 1) -> Floats:
    """Reshape pictures to (..., H, W, channels); empty if the events are not pictures."""
    event, whole = data.shape[lead:], data.max() > 1 and bool((data == data.round()).all())
    side = math.isqrt(event[0]) if len(event) == 1 else 0
    if side >= 4 and side**2 == event[0] and not whole:
        event = (side, side)
    event = (1, *event) if len(event) == 2 else event
    few = len(data.shape) - lead == 2 and event[-1] <= _FEW  # channels of a series of counts
    if len(event) != 3 or event[0] not in (1, 3, 4) or (few if whole else _beyond(data)):
        return np.empty(0)
    require(not whole, f"{name}: pictures in [0, 1]", f"whole numbers up to {data.max():g}")
    return np.moveaxis(data.reshape(*data.shape[:lead], *event), lead, -1).clip(0, 1)


def _beyond(data: Floats) -> bool:
    """Whether values lie so far outside [0, 1] that they are none of pixels, even noisy ones."""
    low, high = np.quantile(data, [0.05, 0.95])
    return bool(low < -_NOISE or high > 1 + _NOISE)


def _mosaic(pictures: Floats, columns: int, below: int, beside: int) -> Axes:
    """Tile pictures (N, H, W, channels), row by row, into a figure of their own."""
    canvas = _canvas(pictures, columns, below, beside)
    high, wide = canvas.shape[:2]
    scale = min(8 / wide, 6.5 / high, 1.1 / min(pictures.shape[1:3]))
    axes = Figure((wide * scale + 1, high * scale + 1), layout="constrained").add_subplot()
    _show(axes, canvas)
    axes.set_anchor("NW")
    return axes


def _canvas(pictures: Floats, columns: int, below: int, beside: int) -> Floats:
    """Tile pictures (N, H, W, channels), row by row, into one image on white."""
    count, height, width, channels = pictures.shape
    down, across = height + below, width + beside
    rows = math.ceil(count / columns)
    canvas = np.ones((rows * down - below, columns * across - beside, channels))
    for index, picture in enumerate(pictures):
        top, left = index // columns * down, index % columns * across
        canvas[top : top + height, left : left + width] = picture
    return canvas


def _show(axes: Axes, canvas: Floats) -> None:
    """Show an image without a frame."""
    axes.imshow(canvas if canvas.shape[2] > 1 else canvas[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[], frame_on=False)
    axes.tick_params(length=0)


def _series(data: Floats, title: str | None) -> Figure:
    """Draw series (N, T, C), a panel each, with a line for each channel."""
    shown, steps = data[:_PANELS], np.arange(1, data.shape[1] + 1)
    columns = min(len(shown), 4)
    rows = math.ceil(len(shown) / columns)
    figure = Figure((2.9 * columns, 0.8 + 1.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, one in zip(panels, shown, strict=False):
        for channel, values in enumerate(one.T):
            axes.plot(steps, values, color=CLASSES[channel % len(CLASSES)], linewidth=1.4)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="y")
    for empty in panels[len(shown) :]:
        empty.set_visible(False)
    figure.supxlabel("step", color=MUTED, size=11)
    named = f"{len(shown)} of {len(data)} series of {data.shape[2]} channel"
    return titled(figure, title, named + "s" * (data.shape[2] > 1))


def _features(data: Floats, title: str | None) -> Figure:
    """Draw data (N, D) that are not pictures: each feature, and each pair of them."""
    count, size = data.shape
    shown = min(size, _MOST_FEATURES)
    some = f"{shown} of {size}" if shown < size else f"{size}"
    title = f"{count} data, {some} feature" + "s" * (size > 1) if title is None else title
    if size == 2:
        return latent_space(data, title=title, axis_names=("$x_1$", "$x_2$"))
    if size == 1:
        only = Figure((8.4, 4.2), layout="constrained").add_subplot()
        only.hist(data[:, 0], bins=_bins(data[:, 0]))
        only.set(xlabel="$x$", ylabel="number of data")
        return titled(only.figure, title, "")
    figure = Figure((1.7 * shown + 0.6, 1.7 * shown + 0.6), layout="constrained")
    grid: Any = figure.subplots(shown, shown, sharex="col", squeeze=False)
    marks = float(np.clip(4000 / count, 2, 14))
    for row, column in np.ndindex(shown, shown):
        axes = grid[row, column]
        if column > row:
            axes.set_visible(False)
        elif column == row:
            axes.hist(data[:, row], bins=_bins(data[:, row]))
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
        else:
            axes.scatter(data[:, column], data[:, row], marks, BLUE, alpha=0.4, linewidths=0)
            axes.yaxis.set_major_locator(MaxNLocator(3))
            axes.tick_params(labelleft=column == 0)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        if row == shown - 1:
            axes.set_xlabel(f"$x_{{{column + 1}}}$")
        if column == 0 and row > 0:
            axes.set_ylabel(f"$x_{{{row + 1}}}$")
    return titled(figure, title, "")


def _bins(values: Floats) -> Any:
    """Edges of a histogram's bars: a bar for each of a few whole numbers."""
    low, high = values.min(), values.max()
    if high - low <= 60 and bool((values == values.round()).all()):
        return np.arange(low - 0.5, high + 1)
    return "auto"
