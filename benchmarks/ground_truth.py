"""log_evidence against closed forms: the linear Gaussian model, exactly and in standard errors."""

import sys
from pathlib import Path

import pyro_vae as pv

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from conftest import LinearGaussian


def main() -> None:
    """Print the deviations and the coverage."""
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
    x = one.x.expand(10_000, -1)
    result = pv.log_evidence(one.model, one.wide_guide, x, samples=500)
    inside = (result.log_px - one.log_px).abs() < 1.96 * result.standard_error
    print(
        f"coverage of the 95 % interval, 10,000 replicates of K = 500 (guide 1.3 times too wide, "
        f"d = 3): {inside.double().mean():.2%}"
    )


if __name__ == "__main__":
    main()
