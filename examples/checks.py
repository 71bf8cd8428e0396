"""Check a model before its numbers are believed: does it fit, and does its encoder?

Cells are counted in four colours. Their rates follow one latent, but the counts vary more than a
Poisson distribution allows, as counts of real cells do. Two models are fitted, of Poisson and of
negative binomial counts, and asked two questions.

- Does the model make data like these? Statistics of held-out cells are held against those of cells
  that the model makes (Gelman, Meng and Stern 1996). log p(x) says which of two models is better;
  this says whether either is good, and where it fails.
- Does the encoder find the latents? Of cells simulated from the model the true latent is known: its
  rank among draws of the encoder is uniform if these are draws of the posterior (Talts et al.
  2018). The encoder of the Poisson model is asked, too, to serve the other one. It takes counts for
  more exact than they are, so its draws are too narrow; importance weights mend them.
"""

import argparse
import warnings

import pyro.distributions as dist
import torch

import pyro_vae as pv
from pyro_vae.common.tables import align

RATES = torch.tensor([1.2, 0.5, -0.3, 1.0])
SLOPES = torch.tensor([0.8, -0.5, 0.6, 0.3])
CONCENTRATION = 2.0
LIKELIHOODS = ("poisson", "negative-binomial")


def cells(number: int) -> torch.Tensor:
    """Counts of so many cells in four colours, more dispersed than Poisson's."""
    z = torch.randn(number, 1)
    rates = torch.exp(RATES + SLOPES * z)
    noise = dist.Gamma(CONCENTRATION, CONCENTRATION).sample(rates.shape)
    return torch.poisson(rates * noise)


def train(likelihood: str, x: torch.Tensor, epochs: int) -> pv.VAE:
    """Fit a VAE of one latent, with a diagonal normal for an encoder."""
    config = pv.Config(latent_dim=1, hidden=(32,), likelihood=likelihood)
    vae = pv.VAE.from_config(config, event_shape=(4,), data=x)
    options = {"learning_rate": 5e-3, "schedule": "one-cycle", "seed": 0, "device": "cpu"}
    pv.fit(vae, x, epochs=epochs, **options)
    return vae


def main(smoke: bool = False) -> dict[str, float]:
    """Fit both models, check them, and draw the figures."""
    torch.manual_seed(0)
    x, test = cells(400 if smoke else 4000), cells(100 if smoke else 500)
    vaes = {name: train(name, x, epochs=10 if smoke else 60) for name in LIKELIHOODS}
    numbers, rows = {}, [["likelihood", "log p(x), nats per cell", "misfits", "variance"]]
    for name, vae in vaes.items():
        evidence = pv.log_evidence(vae.model, vae.guide, test, method="auto").mean()
        fit = pv.check.predictive(
            vae.model, vae.guide, test, latents="prior", replicates=300 if smoke else 500
        )
        print(f"Data of the {name} model?\n\n{fit}\n")
        print(f"figure: {pv.plots.save(fit.plot(), f'checks-{name}.png')}\n")
        numbers[f"log p(x), {name}"] = evidence.value
        numbers[f"misfits, {name}"] = len(fit.misfits())
        numbers[f"variance in deviations, {name}"] = deviations(fit["variance"])
        rows.append(
            [
                name,
                f"{evidence.value:.3f} ± {evidence.sampling_error:.3f}",
                f"{len(fit.misfits())} of {len(fit.checks)}",
                f"{deviations(fit['variance']):+.1f} sd",
            ]
        )
    model = vaes["negative-binomial"].model
    for name, vae in vaes.items():
        ranks = pv.check.calibration(model, vae.guide, test, simulations=100 if smoke else 500)
        print(f"The negative-binomial model, by the encoder of the {name} one\n\n{ranks}\n")
        path = pv.plots.save(ranks.plot(), f"checks-encoder-{name}.png")
        print(f"figure: {path}\n")
        shares = ranks.coverage(torch.tensor([0.9]))
        for kind, inside, share in zip(("draws", "weighted"), ranks.inside(), shares, strict=True):
            numbers[f"calibrated {kind}, {name}"] = int(inside.sum())
            numbers[f"90 % interval of {kind}, {name}"] = share[0, 0].item()
    print("\n".join(align(rows)))
    return numbers


def deviations(check: pv.check.Check) -> float:
    """How many standard deviations of its replicates a statistic is from their mean."""
    return ((check.observed - check.replicated.mean()) / check.replicated.std()).item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds")
    warnings.simplefilter("ignore", pv.UnreliableEvidence)  # of single cells: the tables tell
    main(parser.parse_args().smoke)
