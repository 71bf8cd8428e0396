"""Why not maximize the likelihood by plain Monte Carlo: log p(x) from the prior, and from better q.

p(x) is the mean of p(x | z) over draws of z from the prior, so one could just average. That is
unbiased, but most draws explain nothing: of K draws only K / (1 + cv²) are worth something, where
1 + cv² = E[p(x | z)²] / p(x)² grows like exp(KL(posterior || prior)), exponentially in what x tells
of z. That second moment is the evidence of a program that observes x twice, so that the number of
draws needed is known even where nobody could draw them.

Pixels of 0 and 1 tell little of z, gray ones much. Proposals: the prior, the encoder, and a normal
fitted to each image (the rung "laplace" of the ladder).
"""

import argparse
import warnings
from dataclasses import dataclass

import pyro
import torch
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import BLUE, INK, MINUS, ORANGE, TEAL, Figure, styled, titled

LATENT_DIM, REPEATS = 8, 3
TARGET = 0.1  # standard error of an image's log p(x) to reach, in nats
COLOURS = {"prior": ORANGE, "encoder": BLUE, "fitted": TEAL}
PIXELS = {"0/1": ("dynamic", "bernoulli"), "gray": ("gray", "normal")}
SETTINGS = {
    "digits": {"hidden": (100,), "epochs": 200, "images": 16},
    "mnist": {"hidden": (200,), "epochs": 10, "images": 8},
}


@dataclass(frozen=True)
class Result:
    """Estimates of log p(x) of some images, and the draws they need.

    Attributes:
        x: the images.
        reference: a long run from the fitted proposal.
        annealed: another way to the same numbers, for the first images.
        runs: for each proposal and number of draws, independent repeats.
        needed: draws for a standard error of ``TARGET``, by proposal, for each image.
        kl: KL(encoder || prior) of each image, in nats.
    """

    x: torch.Tensor
    reference: pv.Evidence
    annealed: pv.Evidence
    runs: dict[str, dict[int, list[pv.Evidence]]]
    needed: dict[str, torch.Tensor]
    kl: torch.Tensor

    @property
    def hardest(self) -> int:
        """The image that needs most draws from the prior."""
        return int(self.needed["prior"].argmax())

    def estimate(self, name: str, draws: int, image: int | None = None) -> tuple[float, float]:
        """Mean log p(x), or that of one image, and its standard deviation between repeats."""
        runs = torch.stack([run.log_px for run in self.runs[name][draws]])
        values = runs.mean(1) if image is None else runs[:, image]
        return values.mean().item(), values.std().item()


def second_moment(vae: pv.VAE, x: torch.Tensor, **options) -> torch.Tensor:
    """Return log E[p(x | z)²] over the prior for each image: the evidence of x observed twice."""

    def twice(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            given_z = vae.likelihood(pyro.sample("z", vae.prior()))
            pyro.sample("x", given_z, obs=x)
            pyro.sample("x again", given_z, obs=x)

    return pv.log_evidence(twice, vae.guide, x, **options).log_px


def measure(
    data: str,
    pixels: str,
    numbers: list[int],
    *,
    epochs: int,
    images: int | None = None,
    repeats: int = REPEATS,
) -> Result:
    """Train a VAE, and estimate log p(x) of test images with each number of draws."""
    settings, (binarize, likelihood) = SETTINGS[data], PIXELS[pixels]
    train, valid, test = pv.load(data, binarize=binarize)
    config = pv.Config(likelihood=likelihood, latent_dim=LATENT_DIM, hidden=settings["hidden"])
    vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
    options = {"learning_rate": 2e-3, "schedule": "one-cycle", "seed": 0}
    pv.fit(vae, train, valid, epochs=epochs, **options)
    vae.cpu()
    x = test.x[: images or settings["images"]]

    def prior(x: torch.Tensor) -> None:
        """A guide that does not look at x."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", vae.prior())

    proposals = {
        "prior": (prior, "guide", numbers),
        "encoder": (vae.guide, "guide", numbers[:-1]),
        "fitted": (vae.guide, "laplace", numbers[:-1]),
    }
    runs = {
        name: {
            k: [
                pv.log_evidence(vae.model, guide, x, samples=k, method=method, seed=seed)
                for seed in range(repeats)
            ]
            for k in counts
        }
        for name, (guide, method, counts) in proposals.items()
    }
    long = {"samples": numbers[-1], "method": "laplace", "seed": repeats}
    reference = pv.log_evidence(vae.model, vae.guide, x, **long)
    squared_variation = torch.expm1(second_moment(vae, x, **long) - 2 * reference.log_px)
    needed = {"prior": squared_variation / TARGET**2}
    for name in ("encoder", "fitted"):
        run = runs[name][numbers[-2]][0]
        needed[name] = run.draws * run.standard_error.square() / TARGET**2
    with torch.no_grad():
        kl = kl_divergence(vae.posterior(x), vae.prior())
    return Result(
        x=x,
        reference=reference,
        annealed=pv.log_evidence(vae.model, vae.guide, x[:4], method="annealed"),
        runs=runs,
        needed=needed,
        kl=kl,
    )


def print_estimates(name: str, result: Result, numbers: list[int]) -> dict[str, float]:
    """Print log p(x) by proposal and number of draws; return the main numbers."""
    hardest = result.hardest
    rows = [[name, *COLOURS, "hardest image, prior"]]
    for k in numbers:
        pairs = [result.estimate(q, k) if k in result.runs[q] else None for q in COLOURS]
        pairs.append(result.estimate("prior", k, hardest))
        rows.append(
            [f"{k:,} draws", *("" if p is None else f"{p[0]:.2f} ± {p[1]:.2f}" for p in pairs)]
        )
    mean, single = result.reference.mean(), result.reference.log_px[hardest].item()
    known = f"{mean.value:.2f} ± {mean.mc_error:.2f}"
    rows.append([f"{numbers[-1]:,} draws, reference", "", "", known, f"{single:.2f}"])
    print(*align(rows), sep="\n")
    first = slice(len(result.annealed))
    gap = (result.annealed.log_px - result.reference.log_px[first]).mean().item()
    error = result.annealed.mean().mc_error
    measured = result.runs["prior"][numbers[-1]][0].ess.median().item()
    predicted = (numbers[-1] / (1 + result.needed["prior"] * TARGET**2)).median().item()
    print(f"annealed - reference, {len(result.annealed)} images: {gap:+.3f} ± {error:.3f}")
    print(
        f"effective draws from the prior, median: {predicted:.3g} of {numbers[-1]:,} predicted, "
        f"{measured:.3g} by their own account\n"
    )
    return {
        "reference": mean.value,
        "annealed - reference": gap,
        "annealed error": error,
        "prior": result.estimate("prior", numbers[-1])[0],
        "fitted": result.estimate("fitted", numbers[-2])[0],
        "effective, predicted": predicted,
        "effective, measured": measured,
        "needed from the prior": result.needed["prior"].median().item(),
    }


def main(data: str = "digits", *, smoke: bool = False) -> dict[str, dict[str, float]]:
    """Print the tables, draw the figure, and return the main numbers for each kind of pixels."""
    numbers = [10, 100] if smoke else [10, 100, 1000, 10_000, 100_000]
    options = {name: SETTINGS[data][name] for name in ("epochs", "images")}
    options |= {"epochs": 3, "images": 5, "repeats": 2} if smoke else {}
    with warnings.catch_warnings():  # that such estimates are not to trust is the point here
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        results = {pixels: measure(data, pixels, numbers, **options) for pixels in PIXELS}
    found = {}
    images = options["images"]
    print(f"log p(x) in nats, mean of {images} test images ± standard deviation between repeats\n")
    for pixels, result in results.items():
        found[pixels] = print_estimates(f"{data}, {pixels} pixels", result, numbers)

    rows = [[f"draws for a standard error of {TARGET} nats", *COLOURS, "KL(encoder || prior)"]]
    for pixels, result in results.items():
        for what, quantile in {"median image": 0.5, "hardest": 1.0}.items():
            counts = [f"{need.quantile(quantile):.2g}" for need in result.needed.values()]
            rows.append(
                [f"{pixels} pixels, {what}", *counts, f"{result.kl.quantile(quantile):.1f}"]
            )
    print(*align(rows), sep="\n")
    print("(the prior's by the second moment; the others' by their own account, too few if heavy)")
    print(f"\nfigure: {pv.plots.save(draw(results), f'prior-sampling-{data}.png')}")
    return found


@styled()
def draw(results: dict[str, Result]) -> Figure:
    """Show the estimates against the number of draws: two means, and one hard image."""
    figure = Figure((13.2, 4.4), layout="constrained")
    panels = [(pixels, result, None) for pixels, result in results.items()]
    panels.append(("gray", results["gray"], results["gray"].hardest))
    sides = figure.subplots(1, 3, sharey=True)
    ticks = (-100, -10, -1, -0.1, 0, 0.1, 1)
    for axes, (pixels, result, image) in zip(sides, panels, strict=True):
        reference = result.reference.log_px
        known = (reference.mean() if image is None else reference[image]).item()
        axes.axhline(0, color=INK, linewidth=1.4)
        for name, runs in result.runs.items():
            means, spreads = zip(*(result.estimate(name, k, image) for k in runs), strict=True)
            below = [mean - known for mean in means]
            axes.errorbar(list(runs), below, spreads, color=COLOURS[name], marker="o", capsize=3)
        axes.set(xscale="log", xlabel="draws of z")
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_yticks(ticks, [f"{tick:g}".replace("-", MINUS) for tick in ticks])
        axes.set_title(f"{pixels} pixels, " + ("mean" if image is None else "hardest image"))
        axes.grid(axis="y")
    sides[0].set_ylabel("estimate of log p(x) - reference, nats")
    for i, (name, colour) in enumerate(COLOURS.items()):
        sides[0].text(0.6, 0.18 - 0.075 * i, name, color=colour, transform=sides[0].transAxes)
    return titled(figure, "Draws from the prior fall short by many nats once x tells much of z", "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--smoke", action="store_true", help="a few epochs and draws only")
    given = parser.parse_args()
    main(given.data, smoke=given.smoke)
