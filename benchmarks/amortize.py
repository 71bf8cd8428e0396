"""Guides made by amortize against a VAE by hand and Pyro's AutoNormal: benchmarks/amortize.py."""

import argparse
import logging
import time
import warnings

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.networks import MLP

LATENT, EPOCHS = 12, 300
TRAIN, TEST, BATCH, PASSES, RATE = 1000, 200, 100, 100, 5e-3
TOPICS, WORDS, LENGTH = 4, 30, 60
STEPS, STATE, SEEN = 5, 2, 6


def digits(seed: int) -> list[str]:
    """Digits: log p(x) of a model by hand with amortize, and of pv.VAE, at the same settings."""
    train, _, test = pv.load("digits")
    config = pv.Config(latent_dim=LATENT, hidden=(200, 200), seed=seed)
    settings = {"epochs": EPOCHS, "schedule": "one-cycle", "seed": seed, "progress": False}
    vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
    torch.manual_seed(seed)
    decoder = MLP((LATENT,), train.event_shape)
    decoder.initialize_output(train.x.mean(0).clamp(1e-3, 1 - 1e-3).logit())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(2), obs=x)

    program = pv.amortize(model, train, hidden=(200,), features=200, seed=seed)
    found = []
    for made in (program, vae):
        pv.fit(made, train, **settings)
        found.append(pv.log_evidence(made.model, made.guide, test, method="auto", seed=seed))
    ours, hand = found
    comparison = ours.log_px - hand.log_px
    error = comparison.std() / len(comparison) ** 0.5
    return [
        str(seed),
        f"{ours.log_px.mean():.3f}",
        f"{hand.log_px.mean():.3f}",
        f"{comparison.mean():+.3f} ± {error:.3f}",
        f"{bound(program, test.x):.3f}",
        f"{bound(vae, test.x):.3f}",
    ]


class GammaPoisson(nn.Module):
    """Counts of rates that positive latents mix: Poisson factor analysis."""

    def __init__(self) -> None:
        super().__init__()
        self.loadings = nn.Parameter(torch.randn(3, 20))

    def forward(self, x):
        """Declare p(z) p(x|z)."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.full((3,), 1.5), 1.0).to_event(1))
            rate = z @ self.loadings.exp()
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)


class Topics(nn.Module):
    """Counts of words, given proportions of topics: latent Dirichlet allocation."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Parameter(1.5 * torch.randn(TOPICS, WORDS))

    def forward(self, x):
        """Declare p(w) p(x|w)."""
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", dist.Dirichlet(torch.full((TOPICS,), 0.5)))
            words = w @ self.words.softmax(-1)
            pyro.sample("x", dist.Multinomial(LENGTH, words), obs=x)


class DeepMarkov(nn.Module):
    """Sequences of which each state follows from the one before by a network."""

    def __init__(self) -> None:
        super().__init__()
        self.transition = MLP((STATE,), (STATE,), hidden=(16,))
        self.emission = MLP((STATE,), (SEEN,), hidden=(16,))
        for layer in (self.transition.output, self.emission.output):
            nn.init.normal_(layer.weight, std=0.8)

    def forward(self, x):
        """Declare p(z_1) ... p(z_T | z_T-1) p(x|z)."""
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x), STATE)
            for t in range(STEPS):
                mean = z + self.transition(z)
                z = pyro.sample(f"z_{t + 1}", dist.Normal(mean, 0.5).to_event(1))
                seen = dist.Normal(self.emission(z), 0.5).to_event(1)
                pyro.sample(f"x_{t + 1}", seen, obs=x[:, t])


def simulate(model: nn.Module, number: int) -> torch.Tensor:
    """Draw data from a model."""
    shape = (STEPS, SEEN) if isinstance(model, DeepMarkov) else (20,)
    shape = (WORDS,) if isinstance(model, Topics) else shape
    with torch.no_grad():
        trace = pyro.poutine.trace(pyro.poutine.uncondition(model)).get_trace(
            torch.zeros(number, *shape)
        )
    values = [trace.nodes[n]["value"] for n in trace.nodes if n.startswith("x")]
    return values[0] if len(values) == 1 else torch.stack(values, 1)


@torch.no_grad()
def bound(program: nn.Module, x: torch.Tensor) -> float:
    """ELBO per datum, of 100 draws."""
    torch.manual_seed(0)
    objective = pv.ELBO()
    terms = [objective.terms(program.model, program.guide, x)[1] for _ in range(100)]
    return float(torch.stack(terms).mean() / len(x))


def against_autonormal(kind: type[nn.Module], seed: int) -> list[list[str]]:
    """Learn a model with a guide by amortize, and with AutoNormal on the training data."""
    torch.manual_seed(seed)
    x, test = simulate(kind(), TRAIN + TEST).split((TRAIN, TEST))
    rows = []
    steps = PASSES * TRAIN // BATCH
    for guide in ("normal", "flow", "AutoNormal"):
        pyro.clear_param_store()
        torch.manual_seed(seed + 1)
        model = kind()
        began = time.perf_counter()
        if guide == "AutoNormal":
            automatic = AutoNormal(model)
            automatic(x)
            program = pv.as_program(model, automatic, x)
            size, epochs = TRAIN, steps
        else:
            program = pv.amortize(model, x, family=guide, seed=seed)
            size, epochs = BATCH, PASSES
        options = {"learning_rate": RATE, "schedule": "one-cycle", "progress": False}
        pv.fit(program, x, epochs=epochs, batch_size=size, seed=seed, **options)
        seconds = time.perf_counter() - began
        amortized = program
        if guide == "AutoNormal":  # for log p(x) of new data
            amortized = pv.amortize(model, x)
        found = pv.log_evidence(model, amortized.guide, test, method="auto")
        rows.append(
            [
                kind.__name__,
                str(seed),
                guide,
                f"{bound(program, x):.3f}",
                "none" if guide == "AutoNormal" else f"{bound(program, test):.3f}",
                f"{found.log_px.mean():.3f} ± {found.mean().mc_error:.3f}",
                f"{found.share_unreliable():.0%}",
                f"{seconds:.0f}",
            ]
        )
    return rows


def main(seeds: int = 3) -> None:
    """Print both tables."""
    logging.getLogger("pyro").setLevel(logging.ERROR)
    print(
        f"digits, {LATENT} latents, {EPOCHS} epochs, log p(x) of 360 test data by method auto, nats"
    )
    head = ["seed", "amortize", "pv.VAE", "paired difference", "ELBO amortize", "ELBO pv.VAE"]
    print("\n".join(align([head, *(digits(seed) for seed in range(seeds))])), flush=True)
    print(
        f"\n{TRAIN} simulated data, {PASSES * TRAIN // BATCH} steps of Adam at {RATE}, one-cycle; "
        f"amortize on batches of {BATCH}, AutoNormal on all data at once; nats per datum"
    )
    head = ["model", "seed", "guide", "ELBO train", "ELBO test", "log p(x) test", "doubtful", "s"]
    for kind in (GammaPoisson, Topics, DeepMarkov):
        rows = [row for seed in range(seeds) for row in against_autonormal(kind, seed)]
        print("\n".join(align([head, *rows])), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        main(parser.parse_args().seeds)
