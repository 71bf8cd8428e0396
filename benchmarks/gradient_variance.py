"""Noise of the gradient estimators on a trained VAE: ``python benchmarks/gradient_variance.py``."""

from collections.abc import Callable

import torch

import pyro_vae as pv
from pyro_vae.objectives import ELBO, IWAE, Objective

EPOCHS, BATCH, GRADIENTS, GROUPS = 100, 50, 200, 10


def gradients(vae: pv.VAE, objective: Objective, x: torch.Tensor) -> torch.Tensor:
    """Gradients of the encoder per datum, one row for each seed from 0."""
    parameters = list(vae.posterior.parameters())
    rows = []
    for seed in range(GRADIENTS):
        torch.manual_seed(seed)
        loss, _ = objective.terms(vae.model, vae.guide, x)
        grads = torch.autograd.grad(loss / len(x), parameters)
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows).double()


def variance(rows: torch.Tensor) -> torch.Tensor:
    """Trace of the covariance."""
    return rows.var(0).sum()


def signal_to_noise(rows: torch.Tensor) -> torch.Tensor:
    """Norm of the mean (less the noise left in it) over the root of the covariance's trace."""
    signal = rows.mean(0).square().sum() - variance(rows) / len(rows)
    return (signal.clamp(min=0) / variance(rows)).sqrt()


def with_error(figure: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> str:
    """A figure with its standard error: jackknife over groups of gradients."""
    groups = rows.chunk(GROUPS)
    without = torch.stack(
        [figure(torch.cat([g for j, g in enumerate(groups) if j != i])) for i in range(GROUPS)]
    )
    error = without.std(correction=0) * (GROUPS - 1) ** 0.5
    return f"{figure(rows):10.4g} ± {error:<8.2g}"


def main() -> None:
    """Train, and print the table."""
    train, valid, _ = pv.load("digits")
    config = pv.Config(epochs=EPOCHS, seed=0)
    vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
    history = pv.fit(vae, train, valid, epochs=EPOCHS, seed=0, progress=False)
    x = train.x[:BATCH]
    print(
        f"digits, {EPOCHS} epochs of the ELBO (validation {history.epochs[-1].valid_elbo:.2f}), "
        f"first {BATCH} training data, {GRADIENTS} gradients of the encoder, seeds 0 to "
        f"{GRADIENTS - 1}, standard errors by jackknife over {GROUPS} groups"
    )
    print(f"{'objective':<16} {'gradient':<16} {'trace of covariance':<22} signal to noise")
    rows: list[tuple[str, Objective]] = [
        ("ELBO", ELBO()),
        ("ELBO", ELBO(gradient="stl")),
    ]
    for particles in (1, 5, 50):
        for gradient in ("reparameterized", "stl", "dreg"):
            objective = IWAE(particles=particles, gradient=gradient)
            rows.append((f"IWAE, K = {particles}", objective))
    for name, objective in rows:
        sample = gradients(vae, objective, x)
        print(
            f"{name:<16} {objective.gradient:<16} {with_error(variance, sample):<22} "
            f"{with_error(signal_to_noise, sample)}",
            flush=True,
        )
    print("stl is biased for the IWAE with K > 1: its signal is not that of the objective.")


if __name__ == "__main__":
    main()
