"""Which prior is better? A study with several seeds, paired differences and both of their errors.

The script to copy for a paper. Each prior is trained from several seeds with the same budget, and
log p(x) of the same test images is compared image by image: images differ by tens of nats, models
by one or two, and the images' part cancels in the differences. Two errors remain. One is that of
the images, which more test data shrink. The other is that of the training (initial weights, order,
noise), which only more seeds shrink; a table of one seed cannot show it.

Runs are kept in a folder. Started again, the script goes on where it was; with more seeds or
priors it trains only those.
"""

import argparse
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy import stats

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import BLUE, EDGE, INK, ORANGE, SKY, Figure, styled, titled

BASELINE = "normal"
PRIORS = [BASELINE, "mixture", "vamp", "flow"]
SETTINGS = {
    "digits": {"latent_dim": 8, "hidden": (100,), "epochs": 60, "prior_components": 20},
    "mnist": {"latent_dim": 32, "hidden": (200, 200), "epochs": 10, "prior_components": 100},
}


@dataclass(frozen=True)
class Result:
    """One prior: log p(x) of each test image under each seed's model, and what else is told.

    Attributes:
        log_px: bias-corrected, nats, ``(seeds, images)``.
        mc_error: Monte-Carlo error of its mean.
        usage: of each seed, see ``pyro_vae.runs.Usage``.
    """

    log_px: torch.Tensor
    mc_error: float
    usage: list

    def minus(self, other: "Result") -> "Difference":
        """Return the paired difference, image by image and seed by seed."""
        return Difference(self.log_px - other.log_px)


@dataclass(frozen=True)
class Difference:
    """Paired differences of log p(x), ``(seeds, images)``, and their mean with its two errors."""

    values: torch.Tensor

    @property
    def mean(self) -> float:
        """Mean over seeds and images, nats per image."""
        return self.values.mean().item()

    @property
    def image_error(self) -> float:
        """Standard error from the finite number of images, for these trained models."""
        images = self.values.mean(0)
        return images.std().item() / math.sqrt(len(images))

    @property
    def seed_error(self) -> float:
        """Standard error from the finite number of seeds, for these images; NaN for one seed."""
        seeds = self.values.mean(1)
        return seeds.std().item() / math.sqrt(len(seeds))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval for new images and new seeds; Student's, as few seeds know little."""
        error = math.hypot(self.image_error, self.seed_error)
        # Welch and Satterthwaite: the seeds' part has as many degrees of freedom as seeds less one.
        freedom = (len(self.values) - 1) * (error / self.seed_error) ** 4
        half = stats.t.ppf(0.975, freedom) * error
        return self.mean - half, self.mean + half


def run(data: str, priors: list[str], seeds: int, out: Path, smoke: bool) -> dict[str, Result]:
    """Run one study for each seed; collect log p(x) by prior."""
    settings = dict(SETTINGS[data]) | ({"epochs": 3} if smoke else {})
    found: dict[str, list] = {name: [] for name in priors}
    for seed in range(seeds):
        config = pv.Config(
            data=data,
            learning_rate=2e-3,
            schedule="one-cycle",
            compiled=data == "mnist" and not smoke,
            seed=seed,
            **settings,
        )
        folder = out / f"seed-{seed}"
        options = {
            "samples": 100 if smoke else 1000,
            "number": 20 if smoke else 500,
            "resume": True,
        }
        # auto: priors must not differ by how well the encoder serves as a proposal.
        study = pv.study("prior", priors, config, folder, method="auto", seed=seed, **options)
        for name in priors:
            evidence = pv.Evidence.load(folder / name / "evidence.json")
            found[name].append((evidence, study.usage[name]))
    return {
        name: Result(
            torch.stack([evidence.corrected() for evidence, _ in pairs]),
            math.hypot(*(evidence.mean().mc_error for evidence, _ in pairs)) / seeds,
            [usage for _, usage in pairs],
        )
        for name, pairs in found.items()
    }


def main(
    data: str = "digits", *, seeds: int = 3, out: str | None = None, smoke: bool = False
) -> dict[str, float]:
    """Print the table, draw the figure, and return the numbers by name."""
    priors = [p for p in PRIORS if p != "flow" or importlib.util.find_spec("zuko")]
    seeds = 2 if smoke else seeds
    folder = Path(out or f"prior-study-{data}" + "-smoke" * smoke)
    results = run(data, priors, seeds, folder, smoke)

    head = ["prior", "log p(x)", "± images", "MC err", "to N(0, I)", "± images", "± seeds"]
    rows = [[*head, "95 % interval", "rate", "active", "training"]]
    numbers = {}
    for name, result in results.items():
        whole, paired = Difference(result.log_px), result.minus(results[BASELINE])
        numbers |= {name: whole.mean, f"{name}, rate": sum(u.rate for u in result.usage) / seeds}
        cells = [""] * 4
        if name != BASELINE:
            low, high = paired.interval
            cells = [f"{paired.mean:+.2f}", f"{paired.image_error:.2f}"]
            cells += [f"{paired.seed_error:.2f}", f"{low:+.2f} to {high:+.2f}"]
            numbers |= {f"{name}, difference": paired.mean, f"{name}, low": low}
            numbers |= {f"{name}, high": high, f"{name}, seed error": paired.seed_error}
        active, seconds = (
            sum(getattr(usage, what) for usage in result.usage) / seeds
            for what in ("active", "seconds")
        )
        spent = [f"{numbers[f'{name}, rate']:.1f}", f"{active:.1f}", f"{seconds:.0f} s"]
        errors = [f"{whole.image_error:.2f}", f"{result.mc_error:.3f}"]
        rows.append([name, f"{whole.mean:.2f}", *errors, *cells, *spent])
    print("\n", *align(rows), sep="\n")
    images = results[BASELINE].log_px.shape[1]
    print(
        f"\nnats per image; {seeds} seeds, {images} test images of {data}; differences are paired"
    )
    print(f"\nfigure: {pv.plots.save(draw(results), f'prior-study-{data}.png')}")
    return numbers


@styled()
def draw(results: dict[str, Result]) -> Figure:
    """Show log p(x), whose errors overlap, beside paired differences, whose do not."""
    figure = Figure((12, 1.9 + 0.6 * len(results)), layout="constrained")
    sides = figure.subplots(1, 2, sharey=True)
    base = results[BASELINE]
    for row, (name, result) in enumerate(results.items()):
        whole, paired = Difference(result.log_px), result.minus(base)
        half = 1.96 * whole.image_error
        spans = [(whole, (whole.mean - half, whole.mean + half), SKY)]
        if name != BASELINE:
            spans.append((paired, paired.interval, BLUE))
        for axes, (difference, span, colour) in zip(sides, spans, strict=False):
            axes.hlines(row, *span, color=colour, linewidth=4)
            seeds = difference.values.mean(1)
            axes.scatter(seeds, [row] * len(seeds), 34, ORANGE, zorder=3, edgecolors="white")
            axes.vlines(difference.mean, row - 0.18, row + 0.18, color=INK, zorder=4)
    sides[1].axvline(0, color=EDGE, linewidth=1.4)
    text = "N(0, I), seed by seed and image by image"
    sides[1].annotate(text, (0, 0), (10, 0), textcoords="offset points", va="center", fontsize=10)
    sides[0].set(xlabel="mean log p(x), nats", title="log p(x)")
    sides[0].set_yticks(range(len(results)), list(results), fontsize=11, color=INK)
    sides[0].set_ylim(len(results) - 0.5, -0.5)
    sides[1].set(xlabel="paired difference to N(0, I), nats", title="the same, paired")
    for axes in sides:
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    pairs = [one.minus(base) for name, one in results.items() if name != BASELINE]
    alone, paired = Difference(base.log_px).image_error, max(p.image_error for p in pairs)
    title = f"Pairing shrinks the images' error from {alone:.2f} to {paired:.2f} nats; "
    return titled(figure, title + "seeds add theirs (orange: one seed; bars: 95 %)", "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each prior, at least 2")
    parser.add_argument("--out", help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="a few epochs and two seeds only")
    given = parser.parse_args()
    main(given.data, seeds=given.seeds, out=given.out, smoke=given.smoke)
