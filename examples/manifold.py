"""The manifold of a two-dimensional latent space, paths across it, and what single latents do.

Decoded through the prior's quantiles, two latents are a map of all digits. A straight line on it
from one digit to another passes over digits; the blend of their pixels does not, and another model
tells by how much: log p(x) of images drawn along the way. With more latents than digits need, some
stay unused: their KL is zero, and to move one of them alone changes nothing.

References: Kingma and Welling (2014), https://arxiv.org/abs/1312.6114; on latents that are switched
off, Burda et al. (2016), https://arxiv.org/abs/1509.00519.
"""

import argparse
import math
import warnings

import pyro
import torch
from torch.nn.functional import pad

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import BLUE, CLASSES, INK, MINUS, ORANGE, Figure, styled, titled

SIDE, STEPS, REACH = 20, 9, 2.5
PAIRS = ((0, 7), (6, 3), (4, 1))
SETTINGS = {
    "digits": {"epochs": 300, "learning_rate": 5e-3, "latents": 16, "pairs": 60},
    "mnist": {"epochs": 20, "learning_rate": 2e-3, "latents": 24, "pairs": 20},
}


def train_vae(train: pv.Data, latent_dim: int, settings: dict, *, smoke: bool) -> pv.VAE:
    """Train a VAE with so many latents."""
    config = pv.Config(latent_dim=latent_dim, seed=0)
    vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
    options = {"learning_rate": settings["learning_rate"], "schedule": "one-cycle", "seed": 0}
    options["compiled"] = len(train) > 10_000 and not smoke
    pv.fit(vae, train, epochs=3 if smoke else settings["epochs"], **options)
    return vae.cpu()


def decoded_grid(vae: pv.VAE) -> torch.Tensor:
    """Decode a grid through the prior's quantiles, second latent upwards."""
    levels = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.02, 0.98, SIDE))
    z = torch.stack(torch.meshgrid(levels.flip(0), levels, indexing="ij"), -1).flip(-1)
    return vae.decode(z)


def paths(vae: pv.VAE, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return gray images from a to b, (steps, pairs, H, W): across the latents, and by pixels."""
    weight = torch.linspace(0, 1, STEPS).reshape(-1, 1, 1, 1)
    across = vae.interpolate(a, b, steps=STEPS)
    return {"line in latent space": across, "blend of pixels": torch.lerp(a, b, weight)}


def log_evidence(vae: pv.VAE, x: torch.Tensor, samples: int) -> pv.Evidence:
    """Return log p(x) of each image by a proposal fitted to it; the table says where to doubt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        options = {"samples": samples, "method": "auto"}
        return pv.log_evidence(vae.model, vae.guide, x, **options)


def traversal(vae: pv.VAE, x: torch.Tensor) -> torch.Tensor:
    """Move each latent of an image alone from -REACH to REACH, (latents, images, steps, H, W)."""
    z = vae.encode(x)[:, None].repeat(1, STEPS, 1)
    moved = []
    for d in range(z.shape[-1]):
        other = z.clone()
        other[..., d] = torch.linspace(-REACH, REACH, STEPS)
        moved.append(vae.decode(other))
    return torch.stack(moved)


def estimate(values: torch.Tensor) -> tuple[float, float]:
    """Return a mean and its standard error."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def main(data: str = "digits", *, smoke: bool = False) -> dict[str, float]:
    """Print the tables, draw the figures, and return the numbers by name."""
    settings = SETTINGS[data]
    train, _, test = pv.load(data, binarize="threshold")
    plane = train_vae(train, 2, settings, smoke=smoke)
    model = train_vae(train, settings["latents"], settings, smoke=smoke)
    samples, numbers = 50 if smoke else 500, {}

    rows = [["", "ELBO", "log p(x)", "Monte-Carlo error", "doubtful"]]
    for name, vae in {"2 latents": plane, f"{settings['latents']} latents": model}.items():
        evidence = log_evidence(vae, test.x[: 40 if smoke else 360], samples)
        mean = evidence.mean()
        numbers[f"log p(x), {name}"] = mean.value
        cells = (f"{v:.2f}" for v in (evidence.elbo.mean(), mean.value, mean.mc_error))
        rows.append([name, *cells, f"{evidence.share_unreliable():.0%}"])
    print(f"{data}, nats per image, {len(evidence)} test images\n")
    print(*align(rows), sep="\n")

    pyro.set_rng_seed(0)
    different = test.y[:-1] != test.y[1:]
    start = different.nonzero().flatten()[: 4 if smoke else settings["pairs"]]
    ways = paths(plane, test.x[start], test.x[start + 1])
    curves = {}
    for name, gray in ways.items():
        drawn = torch.bernoulli(gray.flatten(0, 1))
        curves[name] = log_evidence(model, drawn, samples).log_px.reshape(gray.shape[:2])
    rows = [["share of the way", *curves]]
    for step in range(STEPS):
        pairs = [estimate(curve[step]) for curve in curves.values()]
        rows.append([f"{step / (STEPS - 1):.3g}", *(f"{m:.2f} ± {e:.2f}" for m, e in pairs)])
    print(f"\nlog p(x) by the model of {settings['latents']} latents, along the way between two")
    print(f"test digits, mean of {len(start)} pairs of different classes\n")
    print(*align(rows), sep="\n")
    for name, curve in curves.items():
        fall = curve[STEPS // 2] - (curve[0] + curve[-1]) / 2
        mean, error = estimate(fall)
        numbers |= {f"half way, {name}": mean, f"half way, {name}, error": error}
        print(f"{name}: half way {mean:+.2f} ± {error:.2f} nats to its ends")

    kl = pv.analysis.kl_per_dimension(model.model, model.guide, test.head(1000))["z"]
    moved = traversal(model, test.x[:50])
    change = (moved[:, :, -1] - moved[:, :, 0]).abs().mean((1, 2, 3))
    order = kl.argsort(descending=True)
    active = kl > 0.01
    with torch.no_grad():
        codes = model.posterior(test.x).sample()[:, order[:5]]
    correlation = torch.corrcoef(codes.T).fill_diagonal_(0).abs().max().item()
    rows = [["latent", "KL, nats", f"change of a pixel from -{REACH} to {REACH}"]]
    rows += [[f"{d + 1}", f"{kl[d]:.3f}", f"{change[d]:.4f}"] for d in order.tolist()]
    print()
    print(*align(rows), sep="\n")
    print(f"\n{int(active.sum())} of {len(kl)} latents with KL > 0.01 nats; largest correlation of")
    print(f"two of the first five over test images: {correlation:.2f}")
    numbers |= {"active": int(active.sum()), "correlation": correlation}
    numbers |= {"change, least": change[order[-1]].item(), "change, most": change[order[0]].item()}

    figure = draw_plane(plane, test)
    print(f"\nfigure: {pv.plots.save(figure, f'manifold-{data}.png')}")
    figure = draw_latents(moved[:, 0], kl, order, curves)
    print(f"figure: {pv.plots.save(figure, f'latents-{data}.png')}")
    return numbers


def mosaic(axes, pictures: torch.Tensor, gap: int = 0) -> None:
    """Tile pictures (rows, columns, H, W), rows apart by a white gap."""
    edge = (1, 1, 1, 1) if pictures.shape[-1] < 16 else (0, 0)  # such small ones reach their edges
    padded = pad(pad(pictures, edge), (0, 0, 0, gap), value=1.0)
    rows, columns, height, width = padded.shape
    image = padded.transpose(1, 2).reshape(rows * height, columns * width).numpy()
    axes.imshow(image, cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[], frame_on=False)
    axes.tick_params(length=0)


@styled()
def draw_plane(vae: pv.VAE, test: pv.Data) -> Figure:
    """Show the decoded plane, the codes of test digits by class, and paths by both ways."""
    figure = Figure((13.2, 6.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1))
    axes = left.subplots()
    mosaic(axes, decoded_grid(vae))
    axes.set(xlabel="$z_1$", ylabel="$z_2$", title="Decoded at the prior's quantiles")

    (top, below) = right.subfigures(2, 1, height_ratios=(3, 1))
    axes = top.subplots()
    codes, classes = vae.encode(test.x[:2000]), test.y[:2000]
    axes.scatter(*codes.T, 12, [CLASSES[label] for label in classes], alpha=0.6, linewidths=0)
    for label, colour in enumerate(CLASSES):
        x, y = codes[classes == label].median(0).values.tolist()
        box = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": colour}
        axes.text(x, y, str(label), ha="center", va="center", weight="bold", size=9, bbox=box)
    ends = [[int((test.y == digit).nonzero()[0]) for digit in pair] for pair in PAIRS]
    first, second = torch.tensor(ends).T
    for line in torch.stack([vae.encode(test.x[first]), vae.encode(test.x[second])], 1):
        axes.plot(*line.T, "o-", color=INK, linewidth=1.6, markersize=4)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="$z_1$", ylabel="$z_2$", title="Codes of test digits, and three lines")
    both = paths(vae, test.x[first], test.x[second])
    for axes, (name, pictures) in zip(below.subplots(1, 2), both.items(), strict=True):
        mosaic(axes, pictures.transpose(0, 1), gap=1)
        axes.set_title(name[0].upper() + name[1:])
    return titled(figure, "Two latents make a map of the digits", "")


@styled()
def draw_latents(
    moved: torch.Tensor, kl: torch.Tensor, order: torch.Tensor, curves: dict[str, torch.Tensor]
) -> Figure:
    """Show the traversal of the most active latents and the least, KL by latent, and the paths."""
    figure = Figure((13.2, 5.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    shown = [*order[:7].tolist(), int(order[-1])]
    mosaic(left, moved[shown], gap=1)
    left.set_anchor("NW")
    height = left.get_images()[0].get_array().shape[0] / len(shown)
    places = [height * (i + 0.5) for i in range(len(shown))]
    left.set_yticks(places, [f"{kl[d]:.2f} nats" for d in shown])
    left.set_title(f"One latent moved from {-REACH:g} to {REACH:g}".replace("-", MINUS))

    middle.bar(range(1, len(kl) + 1), kl[order].numpy(), color=BLUE)
    middle.set(xlabel="latents by rank", ylabel="KL(q || prior), nats", title="KL of each latent")
    middle.xaxis.get_major_locator().set_params(integer=True)
    middle.grid(axis="y")
    way = torch.linspace(0, 1, STEPS)
    places = zip(curves.items(), (BLUE, ORANGE), (0.12, 0.04), strict=True)
    for (name, curve), colour, height in places:
        means, errors = zip(*(estimate(row) for row in curve), strict=True)
        right.errorbar(way, means, errors, color=colour, marker="o", markersize=5, capsize=3)
        right.text(0.03, height, name, color=colour, transform=right.transAxes)
    right.set(xlabel="share of the way", ylabel="log p(x), nats", title="From one digit to another")
    low, high = right.get_ylim()
    right.set_ylim(low - 0.2 * (high - low), high)
    right.grid(axis="y")
    title = "A latent without KL does nothing; along a line in latent space log p(x) falls little"
    return titled(figure, title, "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--smoke", action="store_true", help="a few epochs and draws only")
    given = parser.parse_args()
    main(given.data, smoke=given.smoke)
