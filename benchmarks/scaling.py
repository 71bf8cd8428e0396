"""How cost grows with data, latent dimensions and samples: ``python benchmarks/scaling.py``.

The VAE of ``speed.py`` (784-400-d, softplus, Bernoulli) on random binary data, on the plain path
without compilation. Every point is the fastest of a few repetitions, taken in turns over the sizes;
a slope is that of log seconds against log size by least squares over the larger half of the sizes.
"""

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.ticker import FuncFormatter, NullLocator

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots import Figure, save
from pyro_vae.plots.style import BLUE, TEAL, styled, titled

EVIDENCE, EPOCH = "log p(x)", "training epoch"
COLOURS = {EVIDENCE: BLUE, EPOCH: TEAL}
BATCH = 256


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes that are measured, and those that are kept where another one varies."""

    evidence_data: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    epoch_data: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16_384)
    latent_dims: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256)
    samples: tuple[int, ...] = (100, 300, 1000, 3000, 10_000, 30_000, 100_000)
    usual_latent_dim: int = 50
    usual_samples: int = 1000
    usual_evidence_data: int = 64
    usual_epoch_data: int = 4096
    data_by_samples: int = 4
    repetitions: int = 2


QUICK = Settings(
    evidence_data=(4, 8, 16),
    epoch_data=(256, 512, 1024),
    latent_dims=(2, 16, 128),
    samples=(100, 300, 1000),
    usual_samples=100,
    usual_evidence_data=8,
    usual_epoch_data=512,
    repetitions=1,
)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Seconds by size."""

    panel: str
    what: str
    kept: str
    sizes: Sequence[int]
    seconds: Callable[[int], float]


def program(latent_dim: int) -> pv.VAE:
    """An untrained VAE; what a step or a weight costs does not depend on its parameters."""
    config = pv.Config(latent_dim=latent_dim, hidden=(400,), activation="softplus")
    return pv.VAE.from_config(config, event_shape=(784,))


def data(number: int) -> torch.Tensor:
    """Random binary data, ``(number, 784)``."""
    return (torch.rand(number, 784, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def evidence_seconds(vae: pv.VAE, number: int, samples: int) -> float:
    """Seconds of ``log_evidence``."""
    x = data(number)
    started = time.perf_counter()
    pv.log_evidence(vae.model, vae.guide, x, samples=samples, progress=False)
    return time.perf_counter() - started


def epoch_seconds(vae: pv.VAE, number: int) -> float:
    """Seconds of an epoch of ``fit``: the second one, without what a run does once."""
    history = pv.fit(vae, data(number), epochs=2, batch_size=BATCH, device="cpu", progress=False)
    first, second = history.epochs
    return second.seconds - first.seconds


def curves(settings: Settings) -> list[Curve]:
    """What is measured."""
    usual, few = program(settings.usual_latent_dim), settings.usual_evidence_data
    programs = {latent_dim: program(latent_dim) for latent_dim in settings.latent_dims}
    samples, many = settings.usual_samples, settings.usual_epoch_data
    return [
        Curve(
            "data N",
            EVIDENCE,
            f"K = {samples:,}",
            settings.evidence_data,
            lambda n: evidence_seconds(usual, n, samples),
        ),
        Curve(
            "data N",
            EPOCH,
            f"batches of {BATCH}",
            settings.epoch_data,
            lambda n: epoch_seconds(usual, n),
        ),
        Curve(
            "latent dimensions d",
            EVIDENCE,
            f"N = {few}, K = {samples:,}",
            settings.latent_dims,
            lambda d: evidence_seconds(programs[d], few, samples),
        ),
        Curve(
            "latent dimensions d",
            EPOCH,
            f"N = {many:,}",
            settings.latent_dims,
            lambda d: epoch_seconds(programs[d], many),
        ),
        Curve(
            "samples K",
            EVIDENCE,
            f"N = {settings.data_by_samples}",
            settings.samples,
            lambda k: evidence_seconds(usual, settings.data_by_samples, k),
        ),
    ]


def measure(curve: Curve, repetitions: int) -> np.ndarray:
    """Fastest of the repetitions by size, in seconds."""
    curve.seconds(min(curve.sizes))  # warm
    rounds = [[curve.seconds(size) for size in curve.sizes] for _ in range(repetitions)]
    return np.min(rounds, axis=0)


def slope(sizes: Sequence[int], seconds: np.ndarray) -> float:
    """Exponent of the growth over the larger half of the sizes."""
    late = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[late:]), np.log(seconds[late:]), 1)[0])


@styled()
def scaling_figure(measured: list[tuple[Curve, np.ndarray]]) -> Figure:
    """Draw seconds by size, a panel for each size that varies."""
    panels = list(dict.fromkeys(curve.panel for curve, _ in measured))
    figure = Figure((4.3 * len(panels), 4.2), layout="constrained")
    sides = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(sides, panels, strict=True):
        axes.set(xscale="log", yscale="log", xlabel=panel)
        for curve, seconds in (row for row in measured if row[0].panel == panel):
            axes.plot(
                curve.sizes,
                seconds,
                color=COLOURS[curve.what],
                marker="o",
                markersize=5,
                label=f"{curve.what}, {curve.kept}\nslope {slope(curve.sizes, seconds):.2f}",
            )
            if panel.startswith("latent"):
                axes.set_xticks(curve.sizes[::2])
        axes.grid(True)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.legend(frameon=False, fontsize=10, loc="upper left", labelspacing=0.8)
    top = max(seconds.max() for _, seconds in measured)
    low = min(seconds.min() for _, seconds in measured)
    sides[0].set(ylabel="seconds", ylim=(low / 1.5, top * (top / low) ** 0.45))
    growth = [
        rf"$\mathbf{{{curve.panel[-1]}}}^{{\mathbf{{{slope(curve.sizes, seconds):.2f}}}}}$"
        for curve, seconds in measured
        if curve.what == EVIDENCE
    ]
    return titled(figure, f"The cost of log p(x) grows as {', '.join(growth)}", "")


def table(measured: list[tuple[Curve, np.ndarray]]) -> list[str]:
    """Seconds by size, and slopes."""
    rows = [["", "varies", "slope", "size: seconds"]]
    for curve, seconds in measured:
        pairs = zip(curve.sizes, seconds, strict=True)
        points = "  ".join(f"{size:,}: {value:.3g}" for size, value in pairs)
        name = f"{curve.what}, {curve.kept}"
        rows.append([name, curve.panel, f"{slope(curve.sizes, seconds):.2f}", points])
    return align(rows)


def main(settings: Settings, out: Path) -> None:
    """Measure, print the table, draw the figure."""
    # Untrained, the guide is a poor proposal, and k̂ says so.
    warnings.simplefilter("ignore", pv.UnreliableEvidence)
    measured = [(curve, measure(curve, settings.repetitions)) for curve in curves(settings)]
    print("\n".join(table(measured)))
    print(f"\nfigure: {save(scaling_figure(measured), out / 'scaling.png')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and small sizes")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for scaling.png")
    given = parser.parse_args()
    main(QUICK if given.quick else Settings(), given.out)
