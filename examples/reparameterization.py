"""Why VAEs reparameterize: noise of the gradient's estimators; and three ways to a positive scale.

The gradient of E_q[f(z)] in the parameters of q can go through the draw, z = mean + scale * noise,
or through log q alone (the score function, REINFORCE), which needs nothing of f but its values.
Both are unbiased; the second is far noisier, the more so the more dimensions z has, unless a
baseline is taken off f. In Pyro the distribution decides: one without rsample gets the score
function, and a decaying average of f as its baseline for the asking.
"""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from torch import nn
from torch.distributions import kl_divergence
from torch.nn.functional import softplus

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import BLUE, CLASSES, INK, ORANGE, SKY, TEAL, Figure, styled, titled

LATENT_DIM, BATCH, WARM_UP, SEEDS = 8, 50, 50, 3
MEAN, SCALE, DIMENSIONS = 0.5, 0.5, (1, 4, 16, 64)
SETTINGS = {"digits": {"epochs": 60, "hidden": (100,)}, "mnist": {"epochs": 3, "hidden": (200,)}}
# The function, and what it takes to a scale of one.
SCALES = {
    "exp": (torch.exp, 0.0),
    "softplus": (softplus, math.log(math.e - 1)),
    "square": (torch.square, 1.0),
}


class Estimator(NamedTuple):
    """How to estimate a gradient in Pyro.

    Attributes:
        objective: an ELBO of Pyro, or of this package.
        normal: what the guide draws z from, with or without rsample.
        baseline: whether to ask for a baseline: for each row, the average of its past values.
        shuffled: whether a row is another datum each time, as in training, so that its average is
            that of all data.
    """

    objective: pyro.infer.ELBO
    normal: type[dist.Normal] = dist.Normal
    baseline: bool = False
    shuffled: bool = False

    def gradients(self, model: Callable, guide: Callable, x: torch.Tensor, number: int):
        """Yield gradients in the guide's parameters, flat."""
        pyro.clear_param_store()  # where Pyro keeps the baselines
        with poutine.trace(param_only=True) as shown:
            guide(x)
        parameters = [site["value"].unconstrained() for site in shown.trace.nodes.values()]
        if self.baseline:
            asked = {"baseline": {"use_decaying_avg_baseline": True}}
            guide = poutine.infer_config(guide, config_fn=lambda site: asked)
        warm_up = WARM_UP if self.baseline else 0
        for step in range(warm_up + number):
            rows = torch.randperm(len(x)) if self.shuffled else slice(None)
            self.objective.loss_and_grads(model, guide, x[rows])
            if step >= warm_up:
                yield torch.cat([p.grad.flatten() for p in parameters])
            for parameter in parameters:
                parameter.grad = None


SCORE = NonreparameterizedNormal
ESTIMATORS = {
    "reparameterized": Estimator(Trace_ELBO()),
    "sticking the landing": Estimator(pv.ELBO(gradient="stl")),
    "score function": Estimator(Trace_ELBO(), SCORE),
    "score, mean baseline": Estimator(TraceGraph_ELBO(), SCORE, baseline=True, shuffled=True),
    "score, baseline per datum": Estimator(TraceGraph_ELBO(), SCORE, baseline=True),
}
TOY = ("reparameterized", "score function", "score, baseline per datum")
COLOURS = dict(zip(ESTIMATORS, (BLUE, SKY, ORANGE, TEAL, CLASSES[1]), strict=True))


class Posterior(nn.Module):
    """A posterior of one's own: any module that returns a Pyro distribution."""

    def __init__(self, network: nn.Module, positive: Callable = softplus) -> None:
        super().__init__()
        self.network, self.positive, self.normal = network, positive, dist.Normal

    def forward(self, x: torch.Tensor) -> dist.TorchDistribution:
        """Return q(z | x)."""
        mean, raw = self.network(x).unbind(-2)
        return self.normal(mean, 1e-5 + self.positive(raw)).to_event(1)


def toy(estimator: Estimator, dim: int, draws: int) -> torch.Tensor:
    """Return gradients of KL(N(mean, scale²) || N(0, I)) in the mean, shape (draws, dim).

    Each row of the plate has a mean of its own, so that one pass gives independent gradients.
    """

    def model(x: torch.Tensor) -> None:
        with pyro.plate("draws", draws):
            pyro.sample("z", dist.Normal(torch.zeros(dim), 1.0).to_event(1))

    def guide(x: torch.Tensor) -> None:
        mean = pyro.param("mean", torch.full((draws, dim), MEAN))
        with pyro.plate("draws", draws):
            pyro.sample("z", estimator.normal(mean, SCALE).to_event(1))

    (found,) = estimator.gradients(model, guide, torch.empty(0), 1)
    return found.reshape(draws, dim)


def print_toy(draws: int) -> dict[str, float]:
    """Print the noise by dimension, and how far the means are from the exact gradient."""
    numbers, largest = {}, 0.0
    rows = [["dimensions of z", "exact gradient", *TOY]]
    for dim in DIMENSIONS:
        mean = torch.full((dim,), MEAN, requires_grad=True)
        kl = kl_divergence(dist.Normal(mean, SCALE), dist.Normal(0.0, 1.0)).sum()
        (exact,) = torch.autograd.grad(kl, mean)
        cells = []
        for name in TOY:
            found = toy(ESTIMATORS[name], dim, draws)
            sums = found.sum(-1)
            in_errors = (sums.mean() - exact.sum()) / (sums.std() / math.sqrt(draws))
            largest = max(largest, in_errors.abs().item())
            numbers[f"{name}, {dim}"] = noise = found.var(0).sum().item()
            cells.append(f"{noise:.3g}")
        rows.append([str(dim), f"{exact[0]:.1f} in each", *cells])
    print(f"KL(N({MEAN}, {SCALE}²) || N(0, I)): noise of the gradient in the mean, trace of the")
    print(f"covariance over {draws:,} draws\n")
    print(*align(rows), sep="\n")
    print(f"\nlargest deviation from the exact gradient: {largest:.1f} standard errors\n")
    return numbers | {"largest deviation": largest}


def print_encoder(vae: pv.VAE, x: torch.Tensor, number: int) -> tuple[dict, dict]:
    """Print the noise of the encoder's gradient; return it, and each gradient's deviation."""
    numbers, deviations, found = {}, {}, {}
    for name, estimator in ESTIMATORS.items():
        torch.manual_seed(0)
        vae.posterior.normal = estimator.normal
        rows = list(estimator.gradients(vae.model, vae.guide, x, number))
        found[name] = torch.stack(rows) / len(x)
    vae.posterior.normal = dist.Normal
    # Along one direction, fixed by other draws, the means can be compared.
    half = number // 2
    direction = found["reparameterized"][:half].mean(0)
    direction = direction / direction.norm()
    known = found["reparameterized"][half:] @ direction
    table = [["", "noise", "to reparameterized", "mean - reparameterized, in errors"]]
    for name, rows in found.items():
        squares = (rows - rows.mean(0)).square().sum(-1) * number / (number - 1)
        deviations[name] = squares.sqrt()
        noise, error = squares.mean().item(), squares.std().item() / math.sqrt(number)
        numbers[name] = noise
        along = rows @ direction
        spread = (along.var() / number + known.var() / half).sqrt()
        in_errors = ((along.mean() - known.mean()) / spread).item()
        first = name == "reparameterized"
        ratio = noise / numbers["reparameterized"]
        cells = [f"{noise:.3g} ± {error:.1g}", f"{ratio:.2g}", "" if first else f"{in_errors:+.1f}"]
        table.append([name, *cells])
        if not first:
            numbers[f"{name}, in errors"] = in_errors
    print(f"gradient of the trained encoder, {len(x)} images, {number} gradients: trace of the")
    print("covariance, per image\n")
    print(*align(table), sep="\n")
    return numbers, deviations


def build(train: pv.Data, scale: str, *, hidden: tuple[int, ...], seed: int) -> pv.VAE:
    """Build a VAE whose posterior starts at a scale of about one, whatever the function."""
    config = pv.Config(latent_dim=LATENT_DIM, hidden=hidden, seed=seed)
    vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
    positive, one = SCALES[scale]
    network = vae.posterior.network
    network.initialize_output(torch.tensor([[0.0], [one]]))
    return pv.VAE(vae.prior, vae.likelihood, Posterior(network, positive))


def main(data: str = "digits", *, smoke: bool = False) -> dict[str, float]:
    """Print the tables, draw the figure, and return the numbers by name."""
    settings = SETTINGS[data]
    pyro.set_rng_seed(0)
    numbers = print_toy(1000 if smoke else 20_000)

    train, valid, _ = pv.load(data)
    curves = {}
    for scale in SCALES:
        runs = []
        for seed in range(2 if smoke else SEEDS):
            vae = build(train, scale, hidden=settings["hidden"], seed=seed)
            epochs = 3 if smoke else settings["epochs"]
            history = pv.fit(vae, train, valid, epochs=epochs, seed=seed)
            runs.append([epoch.valid_elbo for epoch in history.epochs])
            if (scale, seed) == ("softplus", 0):
                trained = vae.cpu()
        curves[scale] = torch.tensor(runs)
    encoder, deviations = print_encoder(trained, train.x[:BATCH], 20 if smoke else 300)
    numbers |= {f"encoder, {name}": value for name, value in encoder.items()}

    last = len(curves["exp"][0])
    shown = milestones(last)
    rows = [["scale by", *(f"epoch {epoch}" for epoch in shown)]]
    for scale, runs in curves.items():
        numbers[f"ELBO, {scale}"] = runs[:, -1].mean().item()
        means, spreads = runs.mean(0), runs.std(0)
        rows.append([scale, *(f"{means[e - 1]:.2f} ± {spreads[e - 1]:.2f}" for e in shown)])
    print("\nvalidation ELBO, a lower bound of log p(x), in nats: mean of ", end="")
    print(f"{len(runs)} seeds ± standard deviation between them\n")
    print(*align(rows), sep="\n")
    figure = draw(numbers, deviations, curves)
    print(f"\nfigure: {pv.plots.save(figure, f'reparameterization-{data}.png')}")
    return numbers


def milestones(last: int) -> list[int]:
    """Epochs to look at."""
    return [*(epoch for epoch in (1, 3, 10, 30) if epoch < last), last]


@styled()
def draw(numbers: dict, deviations: dict, curves: dict) -> Figure:
    """Show noise by dimension, noise of the encoder's gradient, and training curves."""
    figure = Figure((13.6, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(0.8, 1.2, 1))
    for name in TOY:
        noise = [numbers[f"{name}, {dim}"] for dim in DIMENSIONS]
        left.plot(DIMENSIONS, noise, color=COLOURS[name], marker="o")
    left.set(xscale="log", yscale="log", xlabel="dimensions of z", ylabel="noise of the gradient")
    left.set_title("Gradient of a KL divergence")
    left.set_xticks(DIMENSIONS, [str(dim) for dim in DIMENSIONS])
    left.minorticks_off()
    left.grid(axis="y")

    every = torch.cat(list(deviations.values())).log10()
    edges = torch.logspace(every.min() - 0.05, every.max() + 0.05, 70)
    for name, values in deviations.items():
        middle.hist(values, bins=edges, color=COLOURS[name], alpha=0.8, linewidth=0, label=name)
    middle.set(xscale="log", xlabel="distance of one gradient from the mean", yticks=[])
    middle.spines["left"].set_visible(False)
    middle.set_title("Gradient of a trained encoder")
    figure.legend(loc="outside lower center", ncols=len(ESTIMATORS), frameon=False)

    colours = (CLASSES[3], INK, CLASSES[5])
    for i, ((scale, runs), colour) in enumerate(zip(curves.items(), colours, strict=True)):
        right.plot(torch.arange(1, runs.shape[1] + 1), runs.mean(0), color=colour)
        right.text(0.7, 0.25 - 0.08 * i, scale, color=colour, transform=right.transAxes)
    right.set(xscale="log", xlabel="epoch", ylabel="validation ELBO, nats")
    shown = milestones(runs.shape[1])
    right.set_xticks(shown, [str(epoch) for epoch in shown])
    right.minorticks_off()
    right.set_title("Training by the function of the scale")
    right.grid(axis="y")
    title = "Through the draw a gradient is quiet; by score function it needs a good baseline"
    return titled(figure, title, "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--smoke", action="store_true", help="a few epochs and draws only")
    given = parser.parse_args()
    main(given.data, smoke=given.smoke)
