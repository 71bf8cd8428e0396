"""One style for all figures, checks of their input, and saving them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar, cast

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator

from ..common.files import write_atomically
from ..common.verbs import verb

__all__ = [
    "BLUE",
    "CLASSES",
    "EDGE",
    "GREY",
    "INK",
    "LATENT",
    "LIGHT",
    "MINUS",
    "MUTED",
    "ORANGE",
    "PARETO_LIMIT",
    "SKY",
    "TEAL",
    "Data",
    "Figure",
    "Floats",
    "Labels",
    "Means",
    "Pair",
    "as_array",
    "beside",
    "nats",
    "require",
    "save",
    "styled",
    "tick_places",
    "titled",
]

Data: TypeAlias = torch.Tensor | npt.ArrayLike
Labels: TypeAlias = Data | Sequence[object] | None
Means: TypeAlias = Mapping[str, tuple[float, float, float]] | None
Pair: TypeAlias = tuple[str, str]
Floats: TypeAlias = npt.NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])

INK, MUTED, EDGE, LIGHT = "#1f2933", "#5f6b78", "#c5ccd4", "#e9edf1"
BLUE, SKY, ORANGE, TEAL, GREY = "#2a6fbb", "#7fb8e6", "#d9541e", "#0b8a74", "#86919d"
CLASSES = (BLUE, "#f2a007", TEAL, "#c8325f", SKY, "#7a4fb5", "#93b83c", "#8a6a45", ORANGE, MUTED)
LATENT = ("$z_1$", "$z_2$")
MINUS = "\N{MINUS SIGN}"
PARETO_LIMIT = 0.7


@contextmanager
def _style() -> Iterator[None]:
    """Draw in one style whatever the caller's settings, and leave those unchanged."""
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
        matplotlib.rc("lines", linewidth=2.2)
        matplotlib.rc("axes", prop_cycle=f"cycler(color=['{SKY}'])")
        matplotlib.rc("patch", edgecolor="white", force_edgecolor=True, linewidth=0.6)
        yield


def styled() -> Callable[[F], F]:
    """Make a function draw in the package's style, and alone, as settings are the process's."""

    def decorate(draw: F) -> F:
        return cast(F, verb(_style()(draw)))

    return decorate


@styled()
def save(figure: Figure, path: str | Path) -> Path:
    """Save a figure at 200 dpi, atomically, and return its path.

    The suffix of ``path``, png, pdf or svg, sets the format.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    require(suffix in (".png", ".pdf", ".svg"), "path: suffix .png, .pdf or .svg", path)
    kind = suffix.removeprefix(".")

    def write(file: BinaryIO) -> None:
        figure.savefig(file, format=kind, dpi=200, bbox_inches="tight", pad_inches=0.15)

    return write_atomically(path, write)


def require(condition: bool, expected: str, got: object) -> None:
    """Raise a ``ValueError`` that says what was expected, unless a condition holds."""
    if not condition:
        raise ValueError(f"expected {expected}; got {got}.")


def as_array(
    values: Data | Sequence[object],
    name: str,
    shape: tuple[int, ...] = (),
    *,
    finite: bool = True,
    dtype: type[float] | None = float,
) -> npt.NDArray[Any]:
    """Copy values to an array of the shape asked for."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    try:
        array = np.array(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected {name}: a rectangular array of numbers; {error}.") from error
    require(array.ndim > 0 and array.size > 0, f"{name}: a filled array", f"shape {array.shape}")
    require(not shape or shape == array.shape, f"{name}: shape {shape}", array.shape)
    known = not finite or dtype is None or bool(np.isfinite(array).all())
    require(known, f"{name}: finite numbers", "NaN or infinity")
    return array


def titled(figure: FigureBase, title: str | None, default: str) -> Figure:
    """Give a figure its title."""
    figure.suptitle(default if title is None else title, x=0.01, ha="left")
    return cast(Figure, figure)


def tick_places(first: float, last: float, count: int, side: int) -> tuple[Floats, list[str]]:
    """Pixels and texts of round coordinates along a row of pictures."""
    if count == 1 or first == last:
        return np.array([(count * side - 1) / 2]), [f"{(first + last) / 2:g}".replace("-", MINUS)]
    low, high = min(first, last), max(first, last)
    rounds = np.asarray(MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)) + 0.0
    rounds = rounds[(rounds > low - 1e-9) & (rounds < high + 1e-9)]
    places = (rounds - first) / (last - first) * (count - 1)
    return (places + 0.5) * side - 0.5, [f"{v:g}".replace("-", MINUS) for v in rounds]


def nats(value: float, error: float = math.nan, errors: Floats | None = None) -> str:
    """Write a number and its error, with more than two digits if every error is small."""
    largest = error if errors is None else errors.max(initial=0)
    digits = min(max(2, -math.floor(math.log10(largest))), 5) if largest > 0 else 2
    text = f"{value:.{digits}f} ± {error:.{digits}f}" if error >= 0 else f"{value:.{digits}f}"
    return text.replace("-", MINUS)


def beside(axes: Axes, y: float, text: str, colour: str, weight: str = "normal") -> None:
    """Write a label to the right of a chart, at a height of its y-axis."""
    place = axes.get_yaxis_transform()
    axes.text(1.02, y, text, transform=place, color=colour, va="center", weight=weight)
