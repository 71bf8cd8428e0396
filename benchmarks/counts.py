"""Counts: held-out log p(x | exposure) of Poisson factor models, and of VAEs of counts.

Data are simulated from two latents, with a library size and other zeros, so that the best possible
value is known: log p(x | e) of the truth, by quadrature. The maximum-likelihood Poisson factor
model is scikit-learn's NMF with the Kullback-Leibler loss, and beside it stands PCA on log counts.
Both give rates, and no p(x): as Pyro programs they get a log-normal or normal prior of their codes,
fitted to those of the training data, and ``pv.log_evidence`` does the rest.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.decomposition import NMF, PCA

import pyro_vae as pv
from pyro_vae.common.errors import UnreliableEvidence

GENES, LATENTS, GATE = 20, 2, 0.1


def rates(z: torch.Tensor, seed: int) -> torch.Tensor:
    """Rates at exposure one, of a curved manifold: no factor model is the truth."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, LATENTS, GENES, generator=generator, dtype=torch.float64)
    base = torch.randn(GENES, generator=generator, dtype=torch.float64)
    return (base + 0.6 * z @ first + torch.sin(z @ second)).exp()


def log_prob(x: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """Log density of zero-inflated Poisson counts, summed over genes."""
    poisson = torch.xlogy(x, rate) - rate - torch.lgamma(x + 1)
    counted = poisson + math.log1p(-GATE)
    zero = torch.logaddexp(counted, torch.full_like(counted, math.log(GATE)))
    return torch.where(x == 0, zero, counted).sum(-1)


def simulate(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts of library sizes that differ by a factor of ten."""
    torch.manual_seed(seed)
    exposure = dist.LogNormal(torch.full((rows,), 0.5).double(), 0.7).sample()
    mean = exposure[:, None] * rates(torch.randn(rows, LATENTS).double(), 0)
    x = dist.Poisson(mean).sample() * (torch.rand_like(mean) > GATE)
    return x.float(), exposure.float()


def exact(x: torch.Tensor, exposure: torch.Tensor, points: int = 181) -> torch.Tensor:
    """Log p(x | e) of the truth by quadrature on a grid of both latents."""
    line = torch.linspace(-4.5, 4.5, points, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + 2 * math.log(9 / (points - 1))
    rate = rates(z, 0)
    pairs = zip(x.double(), exposure.double(), strict=True)
    return torch.stack([(log_prob(row, e * rate) + prior).logsumexp(0) for row, e in pairs])


class Factors:
    """Rates of codes with a normal prior: a Poisson factor model as a Pyro program."""

    def __init__(self, codes: np.ndarray, decode: object, unit: float) -> None:
        self.mean = torch.tensor(codes.mean(0), dtype=torch.float32)
        covariance = np.cov(codes.T) + 1e-6 * np.eye(codes.shape[1])
        self.scale_tril = torch.tensor(np.linalg.cholesky(covariance), dtype=torch.float32)
        self.decode, self.unit = decode, unit

    def model(self, x: torch.Tensor, exposure: torch.Tensor) -> None:
        """Draw codes and counts."""
        with pyro.plate("data", len(x)):
            prior = dist.MultivariateNormal(self.mean, scale_tril=self.scale_tril)
            z = pyro.sample("z", prior)
            mean = self.decode(z) * (exposure / self.unit)[..., None]
            pyro.sample("x", dist.Poisson(mean.clamp(1e-6, 1e8)).to_event(1), obs=x)

    def guide(self, x: torch.Tensor, exposure: torch.Tensor) -> None:
        """Draw codes of the prior; the evaluation fits its proposals from there."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(self.mean, scale_tril=self.scale_tril))


def nmf(x: torch.Tensor, exposure: torch.Tensor, factors: int) -> Factors:
    """Poisson factor model by maximum likelihood: NMF of counts per exposure, KL loss."""
    unit = exposure.mean().item()
    scaled = (x * (unit / exposure)[:, None]).numpy()
    options = {"beta_loss": "kullback-leibler", "solver": "mu", "max_iter": 1000, "tol": 1e-5}
    found = NMF(factors, random_state=0, init="nndsvda", **options)
    codes = found.fit_transform(scaled)
    parts = torch.tensor(found.components_, dtype=torch.float32)
    return Factors(np.log(codes + 1e-3 * codes.mean()), lambda z: z.exp() @ parts, unit)


def pca(x: torch.Tensor, exposure: torch.Tensor, factors: int) -> Factors:
    """PCA on log(1 + counts per exposure), as rates."""
    unit = exposure.mean().item()
    logs = torch.log1p(x * (unit / exposure)[:, None]).numpy()
    found = PCA(factors).fit(logs)
    parts = torch.tensor(found.components_, dtype=torch.float32)
    mean = torch.tensor(found.mean_, dtype=torch.float32)
    return Factors(
        found.transform(logs), lambda z: (z @ parts + mean).clamp_min(1e-3).expm1(), unit
    )


def vae(
    x: torch.Tensor, exposure: torch.Tensor, likelihood: str, epochs: int, seed: int
) -> pv.CountVAE:
    """Train a VAE of counts."""
    options = {"likelihood_dispersion": "value"} if "negative" in likelihood else {}
    config = pv.Config(
        program="counts", likelihood=likelihood, latent_dim=LATENTS, hidden=(64, 64), seed=seed,
        **options,
    )  # fmt: skip
    model = pv.build_program(config, event_shape=x.shape[1:], data=(x, exposure))
    training = {"epochs": epochs, "learning_rate": 3e-3, "schedule": "one-cycle", "seed": seed}
    pv.fit(model, (x, exposure), device="cpu", progress=False, **training)
    return model


def independent(x: torch.Tensor, exposure: torch.Tensor, test: tuple) -> torch.Tensor:
    """Log p of independent Poisson counts, the mean rates of the training data."""
    rate = x.double().sum(0) / exposure.double().sum()
    counts = dist.Poisson(test[1].double()[:, None] * rate.clamp_min(1e-9))
    return counts.log_prob(test[0].double()).sum(-1)


def main() -> None:
    """Print a line for each model, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--test", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--method", default="laplace")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    warnings.simplefilter("ignore", UnreliableEvidence)
    train, test = simulate(args.rows, args.seed), simulate(args.test, args.seed + 1000)
    truth = exact(*test)
    rows = {}

    def show(
        name: str, log_px: torch.Tensor, mc_error: float, doubtful: float, start: float
    ) -> None:
        error = log_px.std().item() / len(log_px) ** 0.5
        gap = truth - log_px
        rows[name] = {
            "log_px": log_px.mean().item(), "sampling_error": error, "mc_error": mc_error,
            "below_truth": gap.mean().item(), "paired_error": gap.std().item() / len(gap) ** 0.5,
            "doubtful": doubtful, "cpu_seconds": time.process_time() - start,
        }  # fmt: skip
        print(name, json.dumps({k: round(v, 3) for k, v in rows[name].items()}), flush=True)

    start = time.process_time()
    show("truth (quadrature)", truth, 0.0, 0.0, start)
    show("independent Poisson", independent(*train, test), 0.0, 0.0, start)
    makers = {
        **{f"NMF, {k} factors": lambda k=k: nmf(*train, k) for k in (2, 5)},
        **{f"PCA of log counts, {k}": lambda k=k: pca(*train, k) for k in (2, 5)},
        **{
            f"VAE, {name}": lambda name=name: vae(*train, name, args.epochs, args.seed)
            for name in ("poisson", "negative-binomial", "zero-inflated-poisson",
                         "zero-inflated-negative-binomial")
        },
    }  # fmt: skip
    for name, make in makers.items():
        start = time.process_time()
        program = make()
        options = {"samples": args.samples, "method": args.method, "search": False}
        found = pv.log_evidence(program.model, program.guide, test, seed=0, **options)
        doubtful = found.unreliable().double().mean().item()
        show(name, found.corrected(), found.mean().mc_error, doubtful, start)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "counts.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
