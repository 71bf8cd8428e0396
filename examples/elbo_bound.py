"""The ELBO as a bound: log p(x) = ELBO + KL(q || posterior), digit by digit, by quadrature.

With two latents everything is known: log p(x) and the exact posterior from a grid of z, the ELBO
from Gauss-Hermite quadrature under q. What the ELBO misses is how far q is from the posterior, so
the gap is a picture. Averaging K importance weights inside the logarithm gives the bound L_K, whose
gap is Jensen's: it falls as var(w / p(x)) / 2K where that variance is finite. Of a normal q it is
not, as its tails are lighter than the posterior's; with half of the draws from the prior it is.

References: Burda et al. (2016), https://arxiv.org/abs/1509.00519; Maddison et al. (2017) on the
asymptote, https://arxiv.org/abs/1705.09279.
"""

import argparse
import math
import warnings
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.patches import Ellipse
from torch.distributions import kl_divergence
from torch.nn.functional import softplus

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.evidence.diagnostics import log_mean_exp
from pyro_vae.plots.style import BLUE, INK, MINUS, ORANGE, SKY, Figure, styled, titled

STEP, NODES = 0.02, 40
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SHARE = 0.5  # of draws from the prior, in the proposal of finite variance
REGULAR = 100  # variance of the weights up to which a thousand of them show the asymptote
PROPOSALS = {"q": 0.0, "q and prior": SHARE}
COLOURS = {"q": ORANGE, "q and prior": BLUE}
MASSES = (0.99, 0.9, 0.5)
SETTINGS = {
    "digits": {"hidden": (100,), "epochs": 400, "learning_rate": 1e-2},
    "mnist": {"hidden": (200, 200), "epochs": 10, "learning_rate": 2e-3},
}
# Test images, half-width of the square of z, draws for each image.
SIZE = {"digits": (100, 7.0, 20_000), "mnist": (40, 12.0, 4000)}


@dataclass(frozen=True)
class Exact:
    """What quadrature on a grid of z tells of each image.

    Attributes:
        log_px: log p(x), in nats.
        kl: KL(q || p(z | x)), in nats.
        variance: of the importance weights w / p(x), q and prior mixed.
    """

    log_px: torch.Tensor
    kl: torch.Tensor
    variance: torch.Tensor


def proposal(vae: pv.VAE, x: torch.Tensor, share: float) -> dist.TorchDistribution:
    """Return q(z | x), or its mixture with the prior N(0, I)."""
    q = vae.posterior(x)
    if share == 0:
        return q
    weights = torch.tensor([1 - share, share], dtype=q.mean.dtype).expand(len(x), 2)
    mean = torch.stack([q.mean, torch.zeros_like(q.mean)], 1)
    scale = torch.stack([q.stddev, torch.ones_like(q.mean)], 1)
    parts = dist.Normal(mean, scale).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(weights), parts)


def log_joint(vae: pv.VAE, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Return log p(x, z) of each image at each z, shape (images, len(z))."""
    logits = vae.likelihood(z).base_dist.logits.flatten(1)
    log_px = x.flatten(1) @ logits.T - softplus(logits).sum(1)
    return log_px + vae.prior().log_prob(z)


@torch.no_grad()
def quadrature(vae: pv.VAE, x: torch.Tensor, *, limit: float = 7.0, step: float = STEP) -> Exact:
    """Integrate over the square of half-width ``limit``, row by row."""
    axis = torch.arange(round(-limit / step), round(limit / step) + 1, dtype=x.dtype) * step
    q, mixed = vae.posterior(x), proposal(vae, x, SHARE)
    evidence = torch.full_like(x[:, 0, 0], -math.inf)
    second, excess, mass = evidence.clone(), torch.zeros_like(evidence), torch.zeros_like(evidence)
    for row in axis:
        z = torch.stack([row.expand_as(axis), axis], -1)
        joint = log_joint(vae, x, z)
        log_q, log_mixed = (f.log_prob(z[:, None]).T for f in (q, mixed))
        evidence = evidence.logaddexp(joint.logsumexp(1))
        second = second.logaddexp((2 * joint - log_mixed).logsumexp(1))
        excess += (log_q.exp() * (log_q - joint)).sum(1)
        mass += log_q.exp().sum(1)
    log_px, area = evidence + 2 * math.log(step), step**2
    variance = torch.expm1(second + math.log(area) - 2 * log_px)
    return Exact(log_px, area * (excess + mass * log_px), variance)


@torch.no_grad()
def elbo(vae: pv.VAE, x: torch.Tensor, *, nodes: int = NODES) -> torch.Tensor:
    """Return the ELBO of each image: Gauss-Hermite quadrature, and the KL in closed form."""
    q = vae.posterior(x)
    points, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(nodes))
    places = torch.cartesian_prod(points, points)
    weights = torch.cartesian_prod(weights, weights).prod(1) / weights.sum() ** 2
    values = [vae.likelihood(q.mean + q.stddev * place).log_prob(x) for place in places]
    return weights @ torch.stack(values) - kl_divergence(q, vae.prior())


@torch.no_grad()
def log_weights(vae: pv.VAE, x: torch.Tensor, share: float, draws: int) -> torch.Tensor:
    """Draw log w = log p(x, z) - log q(z), shape (draws, images)."""
    q, parts = proposal(vae, x, share), []
    for _ in range(draws // 100):
        z = q.sample((100,))
        parts.append(vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x) - q.log_prob(z))
    return torch.cat(parts)


def bound(log_w: torch.Tensor, log_px: torch.Tensor, k: int) -> tuple[float, float, float, float]:
    """Return L_k, its error, Jensen's gap log p(x) - L_k and its error: means over the images.

    The mean weight over p(x), less one, has mean zero. Taken off, it leaves the gap alone, with far
    less noise than L_k itself.
    """
    blocks = log_w[: len(log_w) // k * k].reshape(-1, k, log_w.shape[1]).transpose(0, 1)
    log_ratio = log_mean_exp(blocks) - log_px
    found = []
    for values in (log_ratio + log_px, torch.expm1(log_ratio) - log_ratio):
        error = (values.var(0).sum() / len(values)).sqrt() / values.shape[1]
        found += [values.mean().item(), error.item()]
    return tuple(found)


def print_sums(test: pv.Data, exact: Exact, bounds: torch.Tensor) -> dict[str, float]:
    """Print for some images, from the best q to the worst, how ELBO and KL add up to log p(x)."""
    table = torch.stack([exact.log_px, bounds, exact.kl, bounds + exact.kl - exact.log_px], 1)
    order = exact.kl.argsort()
    shown = order[torch.linspace(0, len(order) - 1, 8).round().long()].tolist()
    lines = {f"{test.y[i]} (number {i})": table[i] for i in shown}
    lines[f"mean of {len(order)}"] = table.mean(0)
    rows = [["test digit", "log p(x)", "ELBO", "KL(q || posterior)", "ELBO + KL - log p(x)"]]
    for name, (*values, residual) in lines.items():
        rows.append([name, *(f"{value:.6f}" for value in values), f"{residual:.0e}"])
    print(*align(rows), sep="\n")
    largest = table[:, 3].abs().max().item()
    print(f"\nlargest |ELBO + KL - log p(x)|: {largest:.0e}")
    means = dict(zip(("log p(x)", "ELBO", "KL"), table.mean(0).tolist(), strict=False))
    return means | {"residual": largest}


def print_bounds(curves: dict[str, list], variance: float, number: int) -> dict[str, float]:
    """Print L_K and Jensen's gap for each K and proposal, beside the asymptote."""
    numbers = {"variance": variance}
    rows = [["K", "L_K of q", "gap", "L_K of q and prior", "gap", "var / 2K"]]
    for k, *pair in zip(SIZES, *curves.values(), strict=True):
        cells = []
        for name, (value, error, gap, gap_error) in zip(curves, pair, strict=True):
            cells += [f"{value:.4f} ± {error:.4f}", f"{gap:.2g} ± {gap_error:.1g}"]
            numbers |= {f"L_{k}, {name}": value, f"L_{k}, {name}, error": error}
            numbers |= {f"gap {k}, {name}": gap, f"gap {k}, {name}, error": gap_error}
        rows.append([f"{k:,}", *cells, f"{variance / 2 / k:.2g}"])
    print(*align(rows), sep="\n")
    print(f"\n{number} images whose weights, {SHARE:.0%} of z from the prior, have a variance")
    print(f"below {REGULAR} on the grid; its mean: {variance:.2f}")
    return numbers


def main(data: str = "digits", *, smoke: bool = False) -> dict[str, float]:
    """Print the tables, draw the figure, and return the numbers by name."""
    settings = SETTINGS[data]
    train, _, test = pv.load(data, binarize="threshold")
    config = pv.Config(latent_dim=2, hidden=settings["hidden"], seed=0)
    vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
    options = {"learning_rate": settings["learning_rate"], "schedule": "one-cycle", "seed": 0}
    options |= {"epochs": 5} if smoke else {"epochs": settings["epochs"]}
    pv.fit(vae, train, compiled=data == "mnist" and not smoke, **options)
    vae.cpu().double()
    images, limit, draws = (10, 7.0, 2000) if smoke else SIZE[data]
    x, step = test.x[:images].double(), 5 * STEP if smoke else STEP

    exact, bounds = quadrature(vae, x, limit=limit, step=step), elbo(vae, x)
    print(f"{data}, nats per image: log p(x) and KL on a grid, ELBO by Gauss-Hermite\n")
    numbers = print_sums(test, exact, bounds)
    for name, grid in {"step": (limit, 2 * step), "limit": (limit - 1, step)}.items():
        other = quadrature(vae, x, limit=grid[0], step=grid[1]).log_px
        numbers[name] = (other - exact.log_px).abs().max().item()
    print(f"log p(x) with twice the step of {step}: {numbers['step']:.0e} at most; ", end="")
    print(f"on a square smaller by 1: {numbers['limit']:.0e}")
    with warnings.catch_warnings():  # it is held against the grid, whatever its verdict
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        evidence = pv.log_evidence(vae.model, vae.guide, x, samples=5000, defensive=SHARE)
    in_errors = (evidence.log_px - exact.log_px) / evidence.standard_error
    numbers["log_evidence, in errors"] = in_errors.square().mean().sqrt().item()
    print("log_evidence, K = 5,000: root mean square deviation ", end="")
    print(f"{numbers['log_evidence, in errors']:.2f} standard errors, ", end="")
    print(f"{evidence.share_unreliable():.0%} of the estimates are doubtful\n")

    curves, regular = {}, exact.variance < REGULAR
    pyro.set_rng_seed(0)
    for name, share in PROPOSALS.items():
        log_w = log_weights(vae, x[regular], share, draws)
        curves[name] = [bound(log_w, exact.log_px[regular], k) for k in SIZES]
    variance, number = exact.variance[regular].mean().item(), int(regular.sum())
    numbers |= print_bounds(curves, variance, number)
    objective = pv.IWAE(particles=10)
    losses = torch.tensor([objective.loss(vae.model, vae.guide, x[regular]) for _ in range(50)])
    spread = losses.std().item() / number / math.sqrt(len(losses))
    deviation = -losses.mean().item() / number - numbers["L_10, q"]
    numbers["IWAE, in errors"] = deviation / math.hypot(spread, numbers["L_10, q, error"])
    print(f"pv.IWAE(particles=10) - L_10: {numbers['IWAE, in errors']:+.1f} standard errors")

    figure = draw(vae, x, exact, bounds, evidence, curves, variance)
    print(f"\nfigure: {pv.plots.save(figure, f'elbo-bound-{data}.png')}")
    return numbers


@torch.no_grad()
def contours(axes, vae: pv.VAE, x: torch.Tensor) -> None:
    """Draw the exact posterior of an image, filled, and the guide's ellipses of the same mass."""
    q = vae.posterior(x)
    mean, scale = q.mean[0], q.stddev[0]

    def log_density(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        z = torch.cartesian_prod(first, second)
        return torch.cat([log_joint(vae, x, part)[0] for part in z.split(10_000)])

    axis = torch.arange(-9, 9, 0.06, dtype=x.dtype)
    joint = log_density(axis, axis)
    likely = torch.cartesian_prod(axis, axis)[joint > joint.max() - 5]
    low = torch.minimum(likely.amin(0), mean - 3.2 * scale)
    high = torch.maximum(likely.amax(0), mean + 3.2 * scale)
    middle, half = (low + high) / 2, 0.65 * (high - low).max()
    sides = [centre + torch.linspace(-half, half, 201, dtype=x.dtype) for centre in middle]
    density = log_density(*sides)
    density = (density - density.max()).exp()
    values = density.sort(descending=True).values
    masses = values.cumsum(0) / values.sum()
    levels = [values[(masses < mass).sum()].item() for mass in MASSES]
    field = density.reshape(201, 201).T
    axes.contourf(*sides, field, [*levels, 1], colors=["#d5e5f5", SKY, BLUE])
    for mass in MASSES:
        width, height = 2 * math.sqrt(-2 * math.log(1 - mass)) * scale
        shape = Ellipse(mean.tolist(), width, height, fill=False, edgecolor=ORANGE, linewidth=1.6)
        axes.add_patch(shape)
    axes.set(aspect="equal", xlabel="$z_1$")
    axes.locator_params(nbins=4)
    inset = axes.inset_axes((0.0, 0.78, 0.22, 0.22))
    inset.imshow(x[0].numpy(), cmap="gray")
    inset.set(xticks=[], yticks=[])


@styled()
def draw(
    vae: pv.VAE,
    x: torch.Tensor,
    exact: Exact,
    bounds: torch.Tensor,
    evidence: pv.Evidence,
    curves: dict[str, list[tuple[float, float, float, float]]],
    variance: float,
) -> Figure:
    """Show four exact posteriors beside q, the decomposition by image, and Jensen's gap by K."""
    figure = Figure((13.2, 8.4), layout="constrained")
    grid = figure.add_gridspec(2, 4, height_ratios=(1, 1))
    four = exact.kl.argsort()[torch.tensor([0, 0.5, 0.9, 1]).mul(len(x) - 1).round().long()]
    for column, i in enumerate(four.tolist()):
        axes = figure.add_subplot(grid[0, column])
        contours(axes, vae, x[i : i + 1])
        title = f"log p(x) {exact.log_px[i]:.2f}\n= ELBO {bounds[i]:.2f} + KL {exact.kl[i]:.2f}"
        axes.set_title(title.replace("-", MINUS))
        if column == 0:
            axes.set_ylabel("$z_2$")

    left, right = figure.add_subplot(grid[1, :2]), figure.add_subplot(grid[1, 2:])
    gap, error = evidence.log_px - bounds, evidence.standard_error
    low, high = exact.kl.min().item() / 1.5, exact.kl.max().item() * 1.5
    left.plot([low, high], [low, high], color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
    left.errorbar(exact.kl, gap, error, fmt="o", color=SKY, markersize=4, elinewidth=1.2)
    left.plot(exact.kl[four], gap[four], "o", color=BLUE, markersize=8, zorder=3)
    left.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    left.set(xlabel="KL(q || posterior) on the grid, nats", ylabel="log_evidence $-$ ELBO, nats")
    left.set_title(f"{len(x)} test images (dark: those above)")
    left.grid()

    asymptote = [variance / 2 / k for k in SIZES]
    right.plot(SIZES, asymptote, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
    for name, curve in curves.items():
        _, _, gap, error = zip(*curve, strict=True)
        right.errorbar(SIZES, gap, error, color=COLOURS[name], marker="o", markersize=5, capsize=3)
    right.set(xscale="log", yscale="log", xlabel="K", ylabel="log p(x) $-$ $L_K$, nats")
    right.set_title("Jensen's gap of $K$ weights")
    words = [("draws from q", ORANGE), ("half of them from the prior", BLUE), ("its var / 2K", INK)]
    for i, (text, colour) in enumerate(words):
        right.text(0.04, 0.27 - 0.09 * i, text, color=colour, transform=right.transAxes)
    right.grid(axis="y")
    title = "What the ELBO misses is how far q (orange) is from the exact posterior (blue)"
    return titled(figure, title, "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--smoke", action="store_true", help="few epochs, images and draws")
    given = parser.parse_args()
    main(given.data, smoke=given.smoke)
