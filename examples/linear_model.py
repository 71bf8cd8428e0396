"""The linear latent-variable model in closed form, by EM and by SVI, beside a deep VAE.

Of probabilistic PCA, x = W z + mean + noise with z ~ N(0, I), all is known in closed form: the
parameters of largest likelihood, the posterior, log p(x). So here one can watch that
log p(x) = ELBO + KL(q || posterior), and that EM climbs by closing this gap (E step: q becomes the
posterior) and raising the bound (M step). A VAE whose networks are linear maps is the same model,
trained by SVI, and gets to the same place.

References: Tipping and Bishop (1999), https://doi.org/10.1111/1467-9868.00196; on linear VAEs,
Lucas et al. (2019), https://arxiv.org/abs/1911.02469.
"""

import argparse
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import BLUE, GREY, INK, ORANGE, Figure, styled, titled

LATENT_DIM = 4
SETTINGS = {
    "digits": {"number": 1257, "em": 60, "linear": 600, "learning_rate": 3e-2, "deep": 150},
    "mnist": {"number": 5000, "em": 300, "linear": 200, "learning_rate": 3e-3, "deep": 30},
}


@dataclass(frozen=True)
class LinearModel:
    """x = W z + mean + noise: two Pyro programs, and what they are in closed form."""

    weight: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor

    def prior(self) -> dist.TorchDistribution:
        """Return p(z)."""
        eye = torch.eye(self.weight.shape[1], dtype=self.weight.dtype)
        return dist.MultivariateNormal(torch.zeros_like(eye[0]), eye)

    def likelihood(self, z: torch.Tensor) -> dist.TorchDistribution:
        """Return p(x | z)."""
        return dist.Normal(z @ self.weight.T + self.mean, self.variance.sqrt()).to_event(1)

    def marginal(self) -> dist.TorchDistribution:
        """Return p(x), of covariance W W' + variance I."""
        diagonal = self.variance.expand_as(self.mean)
        return dist.LowRankMultivariateNormal(self.mean, self.weight, diagonal)

    def posterior(self, x: torch.Tensor) -> dist.TorchDistribution:
        """Return p(z | x), of one covariance for all x."""
        gain = self.weight / self.variance
        precision = self.prior().precision_matrix + gain.T @ self.weight
        return dist.MultivariateNormal(
            (x - self.mean) @ gain @ precision.inverse(), precision_matrix=precision
        )

    def elbo(self, x: torch.Tensor, q: dist.TorchDistribution) -> torch.Tensor:
        """Return the mean ELBO of a normal q(z | x), its expectations in closed form."""
        spread = (self.weight.T @ self.weight * covariance(q)).sum((-2, -1)) / self.variance
        expected = self.likelihood(q.mean).log_prob(x) - spread / 2
        return (expected - kl_divergence(q, self.prior())).mean()

    def model(self, x: torch.Tensor) -> None:
        """Declare p(z) p(x | z)."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        """Declare the exact posterior."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


def covariance(q: dist.TorchDistribution) -> torch.Tensor:
    """Return the covariance of a normal, full or diagonal."""
    known = isinstance(q, dist.MultivariateNormal)
    return q.covariance_matrix if known else q.variance.diag_embed()


def closed_form(x: torch.Tensor) -> LinearModel:
    """Return the parameters of largest likelihood: the leading principal components."""
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    variance = values[:-LATENT_DIM].mean()
    weight = vectors[:, -LATENT_DIM:] * (values[-LATENT_DIM:] - variance).sqrt()
    return LinearModel(weight, x.mean(0), variance)


def m_step(x: torch.Tensor, q: dist.TorchDistribution) -> LinearModel:
    """Return the parameters that maximize the ELBO of q: a regression of x on its latents."""
    centred, z = x - x.mean(0), q.mean
    weight = centred.T @ z @ (z.T @ z + covariance(q).sum(0)).inverse()
    variance = (centred.square().sum() - (centred @ weight * z).sum()) / x.numel()
    return LinearModel(weight, x.mean(0), variance)


def em(x: torch.Tensor, iterations: int) -> tuple[LinearModel, torch.Tensor]:
    """Run EM from random weights; return also log p(x), ELBO and KL after each M step."""
    weight = 0.1 * torch.randn(x.shape[1], LATENT_DIM, dtype=x.dtype)
    model, steps = LinearModel(weight, x.mean(0), x.var()), []
    for _ in range(iterations):
        q = model.posterior(x)
        model = m_step(x, q)
        kl = kl_divergence(q, model.posterior(x)).mean()
        steps.append(torch.stack([model.marginal().log_prob(x).mean(), model.elbo(x, q), kl]))
    return model, torch.stack(steps)


def linear_vae(
    train: pv.Data, posterior: str, *, epochs: int, learning_rate: float
) -> tuple[pv.VAE, LinearModel]:
    """Train a VAE without hidden layers by SVI; return also the linear model that it is."""
    config = pv.Config(
        likelihood="normal", posterior=posterior, latent_dim=LATENT_DIM, hidden=(), seed=0
    )
    vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
    # Noise-free where q is the posterior, which it can become here.
    objective = pv.ELBO(gradient="stl")
    options = {"learning_rate": learning_rate, "schedule": "one-cycle", "seed": 0}
    pv.fit(vae, train, objective=objective, epochs=epochs, **options)
    layer = vae.cpu().likelihood.network.output
    parameters = (layer.weight, layer.bias, vae.likelihood.scale.square())
    return vae, LinearModel(*(p.detach().double() for p in parameters))


def print_steps(steps: torch.Tensor) -> dict[str, float]:
    """Print log p(x) = ELBO + KL along EM."""
    residual = steps[:, 1] + steps[:, 2] - steps[:, 0]
    rows = [["EM iteration", "log p(x)", "ELBO", "KL(q || posterior)", "ELBO + KL - log p(x)"]]
    for i in (1, 2, 3, 5, 10, 20, 40, len(steps)):
        values = [f"{value:.6f}" for value in steps[i - 1]]
        rows.append([str(i), *values, f"{residual[i - 1]:.0e}"])
    print(*align(rows), sep="\n")
    largest, least = residual.abs().max().item(), steps[:, 0].diff().min().item()
    print("\nq: the posterior before the M step. Nats per datum, of densities of gray values.")
    print(f"largest |ELBO + KL - log p(x)|: {largest:.0e}; least rise of log p(x): {least:.0e}\n")
    return {"largest |ELBO + KL - log p(x)|": largest, "least rise of log p(x)": least}


def main(data: str = "digits", *, smoke: bool = False) -> dict[str, float]:
    """Print the tables, draw the figure, and return the numbers by name."""
    settings = SETTINGS[data]
    train, _, test = pv.load(data, binarize="gray")
    train, test = train.head(settings["number"]), test.head(20 if smoke else 360)
    x, test_x = (split.x.flatten(1).double() for split in (train, test))
    pyro.set_rng_seed(0)
    print(f"{data}, {len(x)} training data of {x.shape[1]} gray values, {LATENT_DIM} latents\n")

    exact = closed_form(x)
    fitted, steps = em(x, 60 if smoke else settings["em"])
    numbers = print_steps(steps)
    models = {
        "closed form": (exact, exact.posterior(x)),
        "EM": (fitted, fitted.posterior(x)),
    }
    for name, posterior in {"full": "full", "diagonal": "normal"}.items():
        options = {"learning_rate": settings["learning_rate"]}
        options["epochs"] = 3 if smoke else settings["linear"]
        vae, linear = linear_vae(train, posterior, **options)
        with torch.no_grad():
            q = vae.posterior(train.x)
            q = dist.MultivariateNormal(q.mean.double(), covariance(q).double())
        models[f"SVI of a linear VAE, {name} q"] = linear, q
    evidence = pv.log_evidence(vae.model, vae.guide, test, samples=100 if smoke else 1000)

    rows = [["", "log p(x), train", "to closed form", "ELBO", "log p(x), test", "cosine"]]
    for name, (model, q) in models.items():
        log_px, elbo = model.marginal().log_prob(x).mean().item(), model.elbo(x, q).item()
        numbers |= {name: log_px, f"ELBO, {name}": elbo}
        gap = round(log_px - numbers["closed form"], 4) + 0.0  # no -0.0000
        log_px_test = model.marginal().log_prob(test_x).mean()
        unit = model.weight / model.weight.norm(dim=0)
        cosine = (unit.T @ unit).fill_diagonal_(0).abs().max()
        means = (log_px, gap, elbo, log_px_test)
        rows.append([name, *(f"{mean:.4f}" for mean in means), f"{cosine:.2f}"])

    config = pv.Config(likelihood="normal", latent_dim=LATENT_DIM, seed=0)
    deep = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
    options = {"learning_rate": 2e-3, "schedule": "one-cycle", "seed": 0}
    pv.fit(deep, train, epochs=3 if smoke else settings["deep"], **options)
    deep.cpu()
    samples = 100 if smoke else 1000
    found = pv.log_evidence(deep.model, deep.guide, test, samples=samples, method="laplace")
    mean = found.mean()
    numbers["deep VAE, test"] = mean.value
    rows.append(["deep VAE", "", "", "", f"{mean.value:.2f} ± {mean.mc_error:.2f}", ""])
    print(*align(rows), sep="\n")
    print("\ncosine: the largest between columns of W; a diagonal q turns them orthogonal.")

    same = pv.log_evidence(exact.model, exact.guide, test_x, samples=2).log_px
    error = (same - exact.marginal().log_prob(test_x)).abs().max().item()
    in_errors = (evidence.log_px - linear.marginal().log_prob(test_x)) / evidence.standard_error
    numbers["log_evidence, exact guide"] = error
    numbers["log_evidence, in errors"] = in_errors.square().mean().sqrt().item()
    print(f"\nlog_evidence against the closed form, {len(test_x)} test data:")
    print(f"the posterior as guide, K = 2: largest deviation {error:.0e} nats")
    print(f"the last linear VAE, K = {evidence.samples:,}: root mean square deviation ", end="")
    print(f"{numbers['log_evidence, in errors']:.2f} standard errors")

    gain = mean.value - exact.marginal().log_prob(test_x).mean().item()
    figure = draw(steps, numbers["closed form"], gain, train, exact, deep)
    print(f"\nfigure: {pv.plots.save(figure, f'linear-model-{data}.png')}")
    return numbers


@styled()
def draw(
    steps: torch.Tensor,
    known: float,
    gain: float,
    train: pv.Data,
    linear: LinearModel,
    deep: pv.VAE,
) -> Figure:
    """Show EM meeting the closed form, and data beside draws of the linear and the deep model."""
    figure = Figure((13, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    log_px, elbo, _ = steps[:10].T.numpy()
    iteration = range(1, len(log_px) + 1)
    left.axhline(known, color=INK, linewidth=1.4)
    left.fill_between(iteration, elbo, log_px, color=ORANGE, alpha=0.25, linewidth=0)
    left.plot(iteration, elbo, color=GREY, marker="o")
    left.plot(iteration, log_px, color=BLUE, marker="o")
    height = known - elbo[0]
    words = [("log p(x)", BLUE), ("KL(q || posterior)", ORANGE), ("ELBO of the last q", GREY)]
    for i, (text, colour) in enumerate(words):
        left.text(5, known - (0.2 + 0.09 * i) * height, text, color=colour)
    left.text(10, known + 0.03 * height, f"closed form {known:.2f}", color=INK, ha="right")
    left.set(xlabel="iteration", ylabel="nats per datum", ylim=(None, known + 0.12 * height))
    left.set_title("log p(x) = ELBO + KL along EM")

    columns = 11
    z = torch.randn(2 * columns, LATENT_DIM, dtype=torch.float64)
    drawn = linear.likelihood(z).mean, deep.sample(2 * columns, seed=0, mean=True)
    pictures = [p.reshape(-1, *train.event_shape) for p in (train.x[: 2 * columns], *drawn)]
    names = ["data", "linear,\nmean of x\ngiven z ~ p(z)", "deep,\nthe same"]
    pv.plots.picture_rows(right, torch.cat(pictures).unflatten(0, (-1, columns)), names)
    title = f"EM climbs to the exact solution; a deep model of {LATENT_DIM} latents has "
    title += f"{gain:.0f} nats more per test image"
    return titled(figure, title, "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--smoke", action="store_true", help="a few epochs only")
    given = parser.parse_args()
    main(given.data, smoke=given.smoke)
