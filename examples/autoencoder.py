"""Autoencoder against VAE: one network trained on reconstruction, on the KL term, and on both.

The ELBO is E_q[log p(x | z)] - KL(q || prior). With its first term alone nothing keeps q wide: its
scale vanishes beside the spread of the codes, q is a point, and the model an autoencoder, whose
codes lie anywhere. With the second alone q is the prior and z says nothing of x. Only with both do
codes tell data apart and fill the prior, so that what is decoded from its draws looks like data.

Reference: Kingma and Welling (2014), https://arxiv.org/abs/1312.6114.
"""

import argparse
import math
import warnings

import pyro
import torch
from pyro import poutine
from sklearn.neighbors import KNeighborsClassifier
from torch.distributions import kl_divergence
from torch.nn.functional import softplus

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import CLASSES, INK, Figure, styled, titled

RADIUS = math.sqrt(-2 * math.log(0.01))  # of the circle that holds 99 % of the prior
SETTINGS = {
    "digits": {"hidden": (100,), "epochs": 400, "learning_rate": 1e-2, "images": 360},
    "mnist": {"hidden": (200, 200), "epochs": 10, "learning_rate": 2e-3, "images": 200},
}


class Unobserved(pv.VAE):
    """A VAE that does not look at x: of its ELBO the KL term is left."""

    def model(self, x: torch.Tensor) -> None:
        """Declare p(z) p(x | z), and count p(z) only."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            with poutine.mask(mask=False):
                pyro.sample("x", self.likelihood(z), obs=x)


# The program to train, and the weight of its KL term.
LOSSES = {
    "reconstruction only": (pv.VAE, 0.0),
    "KL only": (Unobserved, 1.0),
    "both: a VAE": (pv.VAE, 1.0),
}


def share(values: torch.Tensor) -> tuple[float, float]:
    """Return a mean and its standard error."""
    values = values.double()
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


@torch.no_grad()
def exact(vae: pv.VAE, x: torch.Tensor, *, limit: float = 14.0, step: float = 0.04) -> torch.Tensor:
    """Return log p(x) of each image, summed over a grid of z."""
    axis = torch.arange(round(-limit / step), round(limit / step) + 1, dtype=x.dtype) * step
    log_px = torch.full((len(x),), -math.inf, dtype=torch.float64)
    for row in axis:
        z = torch.stack([row.expand_as(axis), axis], -1)
        logits = vae.likelihood(z).base_dist.logits.flatten(1).double()
        log_p = x.flatten(1).double() @ logits.T - softplus(logits).sum(1)
        log_px = log_px.logaddexp((log_p + vae.prior().log_prob(z)).logsumexp(1))
    return log_px + 2 * math.log(step)


@torch.no_grad()
def uncovered(vae: pv.VAE, x: torch.Tensor, draws: int) -> tuple[float, float]:
    """Return the share of the prior's mass that the codes of x miss, and its standard error.

    With q(z) the mean of q(z | x), it is E_prior[max(0, 1 - q(z) / p(z))], the total variation
    distance between the two.
    """
    q, z = vae.posterior(x), vae.prior().sample((draws,))
    log_q = [q.log_prob(part[:, None]).logsumexp(1) for part in z.split(50)]
    log_ratio = torch.cat(log_q) - math.log(len(x)) - vae.prior().log_prob(z)
    return share((1 - log_ratio.exp()).clamp_min(0))


def measure(vae: pv.VAE, train: pv.Data, test: pv.Data, settings: dict, smoke: bool) -> dict:
    """Return each number of a trained model with its standard error."""
    pyro.set_rng_seed(0)
    with torch.no_grad():
        q = vae.posterior(test.x)
        z = q.sample((20,))
        reconstruction = torch.stack([vae.likelihood(row).log_prob(test.x) for row in z])
        codes, learned = z[0], vae.posterior(train.x).sample()
        kl = kl_divergence(q, vae.prior())
    nearest = KNeighborsClassifier(5).fit(learned, train.y)
    right = torch.from_numpy(nearest.predict(codes)) == test.y
    images = test.head(40 if smoke else settings["images"])
    options = {"samples": 500 if smoke else 2000, "method": "auto", "defensive": 0.5}
    evidence = pv.log_evidence(vae.model, vae.guide, images, **options)
    step = 0.2 if smoke else 0.04
    known = exact(vae, images.x, step=step)
    other = exact(vae, images.x, limit=12.0, step=2 * step)
    return {
        "log p(x) on a grid, nats": share(known),
        "  coarser, smaller grid - grid, nats": share(other - known),
        "  log_evidence - grid, nats": share(evidence.log_px - known),
        "  doubtful estimates": share(evidence.unreliable()),
        "reconstruction, nats": share(reconstruction.mean(0)),
        "KL(q || prior), nats": share(kl),
        "width of q / spread of codes": share(q.stddev.mean(1) / codes.std(0).mean()),
        "classes told apart": share(right),
        "codes outside the prior's 99 %": share(codes.norm(dim=1) > RADIUS),
        "prior that no code covers": uncovered(vae, train.x, 200 if smoke else 2000),
    }


def main(data: str = "digits", *, smoke: bool = False) -> dict[str, dict[str, float]]:
    """Print the table, draw the figure, and return the numbers of each model by name."""
    settings = SETTINGS[data]
    train, _, test = pv.load(data, binarize="threshold")
    config = pv.Config(latent_dim=2, hidden=settings["hidden"], seed=0)
    models, found = {}, {}
    for name, (program, beta) in LOSSES.items():
        start = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
        trained = program(start.prior, start.likelihood, start.posterior)
        options = {"learning_rate": settings["learning_rate"], "schedule": "one-cycle", "seed": 0}
        options |= {"epochs": 3 if smoke else settings["epochs"], "beta": beta}
        pv.fit(trained, train, compiled=data == "mnist" and not smoke, **options)
        models[name] = pv.VAE(start.prior, start.likelihood, start.posterior).cpu()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pv.UnreliableEvidence)  # the table says where
            found[name] = measure(models[name], train, test, settings, smoke)

    rows = [["", *found]]
    for name in found["KL only"]:
        pairs = [numbers[name] for numbers in found.values()]
        unit, sign = (1, "") if "nats" in name else (100, " %")
        scaled = [(round(unit * a, 2) + 0.0, unit * b) for a, b in pairs]  # no -0.00
        rows.append([name, *(f"{a:.2f} ± {b:.2f}{sign}" for a, b in scaled)])
    print(f"{data}, two latents, {len(test.x)} test images ({settings['images']} for log p(x))\n")
    print(*align(rows), sep="\n")
    print(
        "\n± standard error over images. Codes: draws of q. Classes: by 5 nearest training codes."
    )
    figure = draw(models, test)
    print(f"\nfigure: {pv.plots.save(figure, f'autoencoder-{data}.png')}")
    return {name: {key: value for key, (value, _) in row.items()} for name, row in found.items()}


@styled()
@torch.no_grad()
def draw(models: dict[str, pv.VAE], test: pv.Data) -> Figure:
    """Show for each model its codes, what draws from the prior decode to, and two paths."""
    figure = Figure((13.2, 8.3), layout="constrained")
    panels = figure.subplots(3, 3, height_ratios=(1, 0.41, 0.21))
    pyro.set_rng_seed(0)
    z = models["KL only"].prior().sample((40,))
    ends = [[int((test.y == digit).nonzero()[0]) for digit in pair] for pair in ((0, 7), (4, 3))]
    first, second = torch.tensor(ends).T
    classes, angle = test.y[:2000], torch.linspace(0, 2 * math.pi, 200)
    for (name, vae), (top, middle, bottom) in zip(models.items(), panels.T, strict=True):
        codes = vae.posterior(test.x[:2000]).sample()
        top.scatter(*codes.T, 12, [CLASSES[y] for y in classes], alpha=0.7, linewidths=0)
        top.plot(RADIUS * angle.cos(), RADIUS * angle.sin(), color=INK, linewidth=1.6)
        reach = 1.12 * max(RADIUS, codes.abs().quantile(0.995).item())
        top.set(title=name[0].upper() + name[1:], xlim=(-reach, reach), ylim=(-reach, reach))
        top.set_aspect("equal")
        pv.plots.picture_rows(middle, vae.decode(z).unflatten(0, (4, 10)))
        paths = vae.interpolate(test.x[first], test.x[second], steps=10)
        pv.plots.picture_rows(bottom, paths.transpose(0, 1))
    for y, colour in enumerate(CLASSES):
        place = {"transform": panels[0, 0].transAxes, "weight": "bold"}
        panels[0, 0].text(0.03 + 0.045 * y, 0.94, str(y), color=colour, **place)
    labels = ("codes, $z_2$ by $z_1$", "decoded draws\nof the prior", "0 to 7,\n4 to 3")
    for axes, label in zip(panels[:, 0], labels, strict=True):
        axes.set_ylabel(label)
    title = "Only both terms make codes tell digits apart and fill the prior (circle: 99 % of it)"
    return titled(figure, title, "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--smoke", action="store_true", help="a few epochs and draws only")
    given = parser.parse_args()
    main(given.data, smoke=given.smoke)
