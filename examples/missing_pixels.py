"""Train with missing pixels, and fill them in: a model of the observed ones needs no others.

Pixels are missing at random, in training and in the test. ``pv.Masked`` leaves out the likelihood
of what is missing, so that training maximizes a bound of log p(observed pixels)
(Mattei and Frellsen 2019, https://arxiv.org/abs/1812.02633). Each image is then filled in by the
posterior given what is seen of it: the mean of p(x | z) over draws of z, weighted by importance.

The score is the negative log-likelihood of the hidden pixels given the seen ones, jointly,
log p(all) - log p(seen), two evidences of the same model, per hidden pixel. Beside it a pixel's own
mean in training (each pixel for itself), and the same model trained without holes, which is what
the holes cost. Its encoder has never seen holes, so it gets a new one, trained with the rest held.
"""

import argparse
import warnings
from dataclasses import dataclass, replace

import torch

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import BLUE, GREY, MINUS, TEAL, Figure, styled, titled

SETTINGS = {
    "digits": {"latent_dim": 8, "hidden": (150,), "epochs": 120, "number": 360},
    "mnist": {"latent_dim": 32, "hidden": (200, 200), "epochs": 10, "number": 300},
}
SHARES = (0.25, 0.5, 0.75, 0.9)  # of pixels missing
DRAWS = 500
COLOURS = {"pixel mean": GREY, "trained with holes": BLUE, "trained without": TEAL}


@dataclass(frozen=True)
class Score:
    """Of each test image, per hidden pixel: negative log-likelihood, squared error of the filling.

    Attributes:
        nats: -log p(hidden | seen) by image, ``(N,)``; of hidden pixels jointly, per pixel.
        squared: mean squared error of the filled-in means, ``(N,)``.
        filled: images with the hidden pixels filled in, ``(N, H, W)``.
        unreliable: share of the images whose log p(x) is doubtful.
    """

    nats: torch.Tensor
    squared: torch.Tensor
    filled: torch.Tensor
    unreliable: float = 0.0


def holes(x: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Mask of what is seen: True with probability 1 - share, at least one pixel an image."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(x.shape, generator=generator)
    least = noise.flatten(1).amin(1).reshape(-1, 1, 1)
    return (noise < 1 - share) | (noise == least)


@torch.no_grad()
def fill_in(vae: pv.VAE, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return E[x | seen pixels], the decoder's mean over the posterior of z.

    Draws of the guide, weighted by p(z, seen) / q(z): what the guide lacks, the weights mend.
    """
    torch.manual_seed(0)
    seen = x.where(mask, 0.0)
    q = vae.posterior(seen)
    z = q.sample((DRAWS,))
    means = vae.decode(z)
    log_likelihood = vae.likelihood(z).base_dist.log_prob(seen).where(mask, 0.0).sum((-2, -1))
    log_weights = vae.prior().log_prob(z) + log_likelihood - q.log_prob(z)
    weights = log_weights.softmax(0)[..., None, None]
    return torch.where(mask, x, (weights * means).sum(0))


def new_encoder(vae: pv.VAE, posterior: torch.nn.Module) -> pv.VAE:
    """Give the same model, held as it is, another encoder to train."""
    vae.likelihood.requires_grad_(False)
    return pv.VAE(vae.prior, vae.likelihood, posterior)


def score(vae: pv.VAE, x: torch.Tensor, mask: torch.Tensor, samples: int) -> Score:
    """Score how a VAE fills in the pixels that are not seen."""
    # A proposal fitted to each image, as an encoder is of little use far from its training.
    options = {"samples": samples, "method": "laplace"}
    with warnings.catch_warnings():  # the table says it
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        whole = pv.log_evidence(vae.model, vae.guide, x, **options)
        seen = pv.log_evidence(vae.model, vae.guide, x, mask=mask, **options)
    parts = zip(x.split(50), mask.split(50), strict=True)
    filled = torch.cat([fill_in(vae, *part) for part in parts])
    bad = (whole.unreliable() | seen.unreliable()).double().mean().item()
    return replace(summary(x, mask, seen.log_px - whole.log_px, filled), unreliable=bad)


def summary(x: torch.Tensor, mask: torch.Tensor, nats: torch.Tensor, filled: torch.Tensor) -> Score:
    """Divide by the number of hidden pixels."""
    hidden = (~mask).flatten(1).sum(1).double()
    return Score(nats / hidden, (x - filled).square().flatten(1).sum(1) / hidden, filled)


def pixel_means(train: torch.Tensor, seen: torch.Tensor, x: torch.Tensor, mask) -> Score:
    """Fill in each pixel's mean over the training images where it is seen."""
    mean = ((train * seen).sum(0) + 0.5) / (seen.sum(0) + 1)
    log_likelihood = torch.distributions.Bernoulli(mean).log_prob(x).double()
    nats = -log_likelihood.where(~mask, 0.0).flatten(1).sum(1)
    return summary(x, mask, nats, torch.where(mask, x, mean))


def main(data: str = "digits", *, smoke: bool = False) -> dict[str, float]:
    """Print the table, draw the figure, and return the numbers by name."""
    settings = dict(SETTINGS[data])
    number, epochs = settings.pop("number"), settings.pop("epochs")
    number, epochs, samples = (20, 3, 50) if smoke else (number, epochs, 1000)
    shares = SHARES[1:2] if smoke else SHARES
    train, _, test = (split.x for split in pv.load(data, binarize="static"))
    test = test[:number]
    config = pv.Config(**settings)
    options = {"learning_rate": 2e-3, "schedule": "one-cycle", "epochs": epochs, "seed": 0}
    options["compiled"] = data == "mnist" and not smoke

    def build() -> pv.VAE:
        return pv.VAE.from_config(config, event_shape=train.shape[1:], data=train)

    complete = build()
    pv.fit(complete, train, **options)
    print(f"{data}, {len(train)} training images, {len(test)} test images; nats per hidden pixel\n")
    rows = [["missing", "filled in by", "-log p(hidden | seen)", "to trained without"]]
    rows[0] += ["squared error", "doubtful"]
    found, numbers, masks = {}, {}, {}
    for share in shares:
        seen, mask = holes(train, share, seed=1), holes(test, share, seed=2)
        vae = build()
        pv.fit(pv.Masked(vae), (train, seen), **options)
        renewed = new_encoder(complete, build().posterior)
        pv.fit(pv.Masked(renewed), (train, seen), **options)
        scores = {
            "pixel mean": pixel_means(train, seen, test, mask),
            "trained with holes": score(vae.cpu(), test, mask, samples),
            "trained without": score(renewed.cpu(), test, mask, samples),
        }
        found[share], masks[share] = scores, mask
        for name, one in scores.items():
            gap = one.nats - scores["trained without"].nats
            cells = [shown(one.nats), "" if name == "trained without" else shown(gap, "+")]
            bad = "" if name == "pixel mean" else f"{one.unreliable:.1%}"
            rows.append([f"{share:.0%}", name, *cells, shown(one.squared), bad])
            numbers |= {f"{name}, {share}": one.nats.mean().item()}
            numbers |= {f"{name}, {share}, squared": one.squared.mean().item()}
            numbers |= {f"{name}, {share}, gap": gap.mean().item()}
            numbers |= {f"{name}, {share}, gap error": gap.std().item() / len(gap) ** 0.5}
    print(*align(rows), sep="\n")
    figure = draw(found, test, masks[0.5], 0.5)
    print(f"\nfigure: {pv.plots.save(figure, f'missing-pixels-{data}.png')}")
    return numbers


def shown(values: torch.Tensor, sign: str = "") -> str:
    """Write a mean over images with its standard error."""
    return f"{values.mean():{sign}.4f} ± {values.std() / len(values) ** 0.5:.4f}"


@styled()
def draw(
    found: dict[float, dict[str, Score]], x: torch.Tensor, mask: torch.Tensor, share: float
) -> Figure:
    """Show images with holes and how they are filled in, and the score by share missing."""
    figure = Figure((12.6, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    count = 10
    holed = torch.where(mask, x, torch.nan)
    rows = {"seen": holed} | {name: one.filled for name, one in found[share].items()} | {"truth": x}
    pictures = torch.stack([some[:count] for some in rows.values()])
    pv.plots.picture_rows(left, pictures, list(rows))
    left.set_title(f"{share:.0%} of the pixels missing, in training too")
    for name, colour in COLOURS.items():
        nats = [scores[name].nats for scores in found.values()]
        means = [values.mean().item() for values in nats]
        errors = [2 * values.std().item() / len(values) ** 0.5 for values in nats]
        right.errorbar(list(found), means, errors, color=colour, marker="o", capsize=3, label=name)
    right.legend(frameon=False)
    right.set_xticks(list(found), [f"{one:.0%}" for one in found])
    right.set(xlabel="pixels missing", ylabel=f"nats per hidden pixel, {MINUS}log p(hidden | seen)")
    right.grid(axis="y")
    gain = (found[share]["pixel mean"].nats - found[share]["trained with holes"].nats).mean()
    cost = (found[share]["trained with holes"].nats - found[share]["trained without"].nats).mean()
    title = f"With {share:.0%} missing, the model gains {gain:.2f} nats per hidden pixel over "
    return titled(figure, title + f"means; the holes cost it {cost:.2f}", "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--smoke", action="store_true", help="a few epochs and one share only")
    given = parser.parse_args()
    main(given.data, smoke=given.smoke)
