"""Swap the prior in one argument: by name, or for a module of your own; compare log p(x)."""

import argparse

import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae as pv

LATENT_DIM = 8


class StudentT(nn.Module):
    """A prior of one's own: any module that returns a Pyro distribution, here with heavy tails."""

    def __init__(self) -> None:
        super().__init__()
        self.raw_freedom = nn.Parameter(torch.tensor(3.0))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        freedom = 2 + nn.functional.softplus(self.raw_freedom)
        one = torch.ones(LATENT_DIM, device=freedom.device)  # where the module is, also on a GPU
        return dist.StudentT(freedom, torch.zeros_like(one), one).to_event(1)


def main(smoke: bool = False) -> pv.Comparison:
    """Run the example; ``smoke`` trains for a few epochs only."""
    train, valid, test = pv.load("digits")
    evidences = {}
    priors = {
        "N(0, I)": pv.priors.StandardNormal(LATENT_DIM),
        "mixture": pv.priors.MixtureOfNormals(LATENT_DIM, components=10),
        "Student-t": StudentT(),
    }
    for name, prior in priors.items():
        config = pv.Config(latent_dim=LATENT_DIM)
        usual = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
        vae = pv.VAE(prior, usual.likelihood, usual.posterior)  # the swap
        pv.fit(vae, train, valid, epochs=3 if smoke else 100, schedule="one-cycle", seed=0)
        samples = 200 if smoke else 2000
        evidences[name] = pv.log_evidence(vae.model, vae.guide, test, samples=samples)
    comparison = pv.compare(evidences)
    print(comparison)
    return comparison


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few epochs only")
    main(parser.parse_args().smoke)
