"""log p(x) of a Pyro program that knows nothing of this package: two latents, an inner plate.

Exam answers: each student has an ability and a carefulness, each answer is right with a probability
that both decide. The guide is one's own too; Pyro's SVI trains it.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_vae as pv

QUESTIONS = 12
DIFFICULTY = torch.linspace(-2, 2, QUESTIONS)


def model(answers):
    """Declare p(ability) p(carefulness) p(answers | both) of each student."""
    with pyro.plate("students", len(answers), dim=-2):
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
        careful = pyro.sample("carefulness", dist.Beta(8.0, 2.0))
        right = careful * torch.sigmoid(2 * (ability - DIFFICULTY))
        with pyro.plate("questions", QUESTIONS, dim=-1):
            pyro.sample("answers", dist.Bernoulli(right), obs=answers)


class Guide(nn.Module):
    """q(ability | answers) q(carefulness | answers), amortized by a network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(QUESTIONS, 32), nn.Tanh(), nn.Linear(32, 4))

    def forward(self, answers):
        """Declare the approximate posterior of each student."""
        pyro.module("guide", self)
        loc, scale, a, b = self.network(answers).unsqueeze(-2).unbind(-1)
        with pyro.plate("students", len(answers), dim=-2):
            pyro.sample("ability", dist.Normal(loc, scale.exp()))
            pyro.sample("carefulness", dist.Beta(8 * a.exp(), 2 * b.exp()))


def simulate(students):
    """Draw students from the model, by running it without its observations."""
    blank = torch.zeros(students, QUESTIONS)
    return (
        pyro.poutine.trace(pyro.poutine.uncondition(model))
        .get_trace(blank)
        .nodes["answers"]["value"]
    )


def exact(answers):
    """Log p(x) by quadrature over both latents, to compare with."""
    ability = torch.linspace(-6, 6, 601, dtype=torch.float64)
    careful = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    log_prior = dist.Normal(0.0, 1.0).log_prob(ability)[:, None] + dist.Beta(8.0, 2.0).log_prob(
        careful
    )
    right = careful[:, None] * torch.sigmoid(2 * (ability[:, None] - DIFFICULTY))[:, None, :]
    log_p = torch.stack([dist.Bernoulli(right).log_prob(row).sum(-1) for row in answers.double()])
    cell = torch.log(ability[1] - ability[0]) - torch.log(torch.tensor(400.0))
    return (log_p + log_prior).flatten(1).logsumexp(1) + cell


def main(smoke: bool = False) -> pv.Evidence:
    """Train the guide and estimate log p(x) of new students."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    train, test = simulate(2000), simulate(80 if smoke else 200)
    guide = Guide()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 5e-3}), Trace_ELBO())
    for _ in range(50 if smoke else 1000):
        svi.step(train)

    evidence = pv.log_evidence(model, guide, test, samples=1000, method="auto")
    print(evidence)
    error = evidence.log_px - exact(test)
    print(f"\nlargest deviation from quadrature: {error.abs().max():.4f} nats")
    in_errors = (error / evidence.standard_error).square().mean().sqrt()
    print(f"in standard errors, root mean square: {in_errors:.2f}")
    return evidence


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    main(parser.parse_args().smoke)
