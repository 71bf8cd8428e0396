"""log_evidence against ground truths: closed forms of the linear Gaussian, and a fine grid."""

import math
import sys
import time
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pyro.ops.stats
import torch

import pyro_vae as pv
from pyro_vae.evidence import bounds, diagnostics, multilevel

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from conftest import LinearGaussian

METHODS = ("guide", "refined", "laplace", "annealed", "auto")


def exactness() -> None:
    """Exact posterior as guide, then the prior."""
    exact = LinearGaussian(latent_dim=10, event_dim=20, n=500)
    worst = 0.0
    for samples, chunk in ((1, 1), (7, 3), (10, 100), (130, 7), (1001, 13)):
        result = pv.log_evidence(exact.model, exact.guide, exact.x, samples=samples, chunk=chunk)
        worst = max(worst, (result.log_px - exact.log_px).abs().max().item())
    print(f"exact posterior as guide, d = 10, 500 data: largest deviation {worst:.1e} nats")
    flat = LinearGaussian(latent_dim=2, event_dim=2, n=500, scale=1.5, seed=1)
    result = pv.log_evidence(flat.model, flat.prior_guide, flat.x, samples=20_000)
    z = (result.log_px - flat.log_px) / result.standard_error
    print(
        f"prior as guide, d = 2, K = 20,000, 500 data: deviation in standard errors: rms "
        f"{z.square().mean().sqrt():.2f}, largest {z.abs().max():.2f}"
    )
    one = LinearGaussian(n=1, seed=5)
    result = pv.log_evidence(one.model, one.wide_guide, one.x.expand(10_000, -1), samples=500)
    inside = (result.log_px - one.log_px).abs() < 1.96 * result.standard_error
    share = inside.double().mean()
    print(f"coverage of 95 % intervals, d = 3, guide x 1.3, 10,000 replicates: {share:.2%}")


def methods() -> None:
    """Every method on 1,000 replicates of one datum, d = 10, guide wrong by a factor 1.3."""
    one = LinearGaussian(latent_dim=10, event_dim=12, n=1, scale=0.8, seed=3)
    x = one.x.expand(1000, -1)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", one.posterior(x, widen=1.3))

    print("\nlinear Gaussian, d = 10, guide 1.3 times too wide, K = 1,000, 1,000 replicates")
    print("method     mean error     sd   rms in s.e.  coverage  doubtful  seconds")
    for method in METHODS:
        result = pv.log_evidence(one.model, guide, x, samples=1000, method=method)
        error = result.log_px - one.log_px
        z = error / result.standard_error
        print(
            f"{method:<9} {error.mean():+10.5f}  {error.std():.4f}"
            f"  {z.square().mean().sqrt():10.2f}"
            f"  {(z.abs() < 1.96).double().mean():8.1%}  {result.share_unreliable():8.1%}"
            f"  {result.seconds:7.1f}"
        )
    unbiased = pv.evidence.unbiased_log_evidence(one.model, guide, x.repeat(10, 1), base=64)
    print(
        f"multilevel, 10,000 replicates: error {unbiased.mean - one.log_px.item():+.5f} ± "
        f"{unbiased.standard_error:.5f}"
    )


def log_normal_multilevel() -> None:
    """Unbiasedness of the multilevel estimator on log-normal weights."""

    def draw(index, samples, key):
        generator = torch.Generator().manual_seed(hash(key) % 2**31)
        return torch.randn(samples, len(index), generator=generator, dtype=torch.float64)

    result = multilevel(draw, 20_000, base=8)
    print(
        f"multilevel on log-normal weights, 20,000 replicates: error {result.mean - 0.5:+.4f} ± "
        f"{result.standard_error:.4f}; plain L_8 {result.base_values.mean() - 0.5:+.4f}"
    )


def both_sides() -> None:
    """Bidirectional bounds on 500 simulated data of a linear Gaussian."""
    lg = LinearGaussian(latent_dim=10, event_dim=12, n=10, scale=0.8, seed=3)
    seen = {}
    evidence = bounds.log_evidence

    def recording(model, guide, x, **options):
        seen["x"] = x
        return evidence(model, guide, x, **options)

    bounds.log_evidence = recording
    certificate = pv.certify(lg.model, lg.wide_guide, lg.x, number=500)
    bounds.log_evidence = evidence
    marginal = lg.weight @ lg.weight.T + lg.scale**2 * torch.eye(12).double()
    exact = dist.MultivariateNormal(lg.bias, marginal).log_prob(seen["x"])
    low, high = certificate.interval()
    inside = ((low <= exact) & (exact <= high)).double().mean()
    gap, width = certificate.gap, (high - low).mean()
    print("\nbounds from both sides, d = 10, 500 simulated data, margins of 3 standard errors:")
    print(f"hold the exact value for {inside:.1%}, mean width {width:.4f} nats")
    print(f"mean gap between the bounds {gap[0]:+.4f} ± {gap[1]:.4f} nats")


def tails() -> None:
    """Pareto k̂ against Pyro's fit on 200 vectors of weights."""
    worst = 0.0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        scale = 0.5 + 3 * seed / 200
        log_w = scale * torch.randn(5000, generator=generator, dtype=torch.float64)
        top = (log_w - log_w.max()).exp().sort(descending=True).values
        theirs, _ = pyro.ops.stats.fit_generalized_pareto(top[:212] - top[212])
        worst = max(worst, abs(diagnostics.pareto_k(log_w[:, None]).item() - theirs))
    print(f"k̂ against Pyro's on 200 weight vectors: largest difference {worst:.1e}")


def grid() -> None:
    """A VAE with two latents against a grid of 1,001 x 1,001 points through its decoder."""
    train, _, test = pv.load("digits")
    config = pv.Config(latent_dim=2)
    vae = pv.VAE.from_config(config, event_shape=(8, 8), data=train.x)
    pv.fit(vae, train, epochs=100, schedule="one-cycle")
    axis = torch.linspace(-7, 7, 1001)
    exact = torch.full((len(test),), -math.inf, dtype=torch.float64)
    with torch.no_grad():
        for row in axis:
            z = torch.stack([row.expand_as(axis), axis], -1)
            logits = vae.likelihood(z).base_dist.logits.flatten(1).double()
            log_p = test.x.flatten(1).double() @ logits.T
            log_p = log_p - torch.nn.functional.softplus(logits).sum(1)
            exact = torch.logaddexp(exact, (log_p + vae.prior().log_prob(z)).logsumexp(1))
    exact += 2 * math.log(axis[1] - axis[0])
    print("\ntwo latents, 360 digits, against a grid through the decoder (K = 5,000)")
    for method in METHODS:
        result = pv.log_evidence(vae.model, vae.guide, test, samples=5000, method=method)
        error = result.log_px - exact
        print(
            f"{method:<9} mean error {error.mean():+.5f}  largest {error.abs().max():.4f} nats"
            f"  largest in s.e. {(error / result.standard_error).abs().max():.1f}"
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore", pv.UnreliableEvidence)
    start = time.perf_counter()
    for part in (exactness, methods, log_normal_multilevel, both_sides, tails, grid):
        part()
    print(f"\n{time.perf_counter() - start:.0f} s")
