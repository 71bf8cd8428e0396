"""The same computation on the CPU and on a pretended GPU: equal to the last bit."""

import dataclasses
import os
import signal
from collections.abc import Mapping
from typing import get_args

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from devices.pretend import pretend
from pyro.infer import autoguide
from torch import nn

import pyro_vae as pv
from pyro_vae.common.options import ColumnLikelihood
from pyro_vae.common.schema import Column, Schema
from pyro_vae.distributions import densities
from pyro_vae.evidence import sizes
from pyro_vae.evidence.refinement import refine
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.models import MODELS
from pyro_vae.networks import NETWORKS
from pyro_vae.objectives.registry import OBJECTIVES
from pyro_vae.posteriors import POSTERIORS
from pyro_vae.priors import PRIORS

SEEDED = 7
_TIMES = {"seconds"}  # of no interest
_SMALL = {"vamp": 6, "mixture": 6, "exemplar": 6}
_LABELLED = ("conditional", "semi-supervised")
_NAMED = ("categorical", "bernoulli")


def _of_objectives():
    """Every objective with each of its gradients, and every option of the ELBO."""
    for name, kind in OBJECTIVES.items():
        particles = {} if name == "elbo" else {"objective": name, "particles": 3}
        for gradient in ("reparameterized", "stl", "dreg"):
            try:
                kind(gradient=gradient)
            except ValueError:
                continue
            yield {**particles, "gradient": gradient}
    yield {"kl": "analytic"}
    yield {"free_bits": 0.1}


SCHEMA = Schema(
    tuple(
        Column(name=name, likelihood=name, categories=("a", "b") if name in _NAMED else ())
        for name in get_args(ColumnLikelihood)
        if name != "beta"  # whose values are never 0 or 1
    )
)

# Names come from the registries: a new part is looked at without an entry here.
EVERY = [
    *({"prior": name} for name in PRIORS),
    *({"posterior": name} for name in POSTERIORS),
    *({"network": name} for name in NETWORKS),
    *({"likelihood": name} for name in LIKELIHOODS),
    *({"program": name} for name in MODELS),
    *_of_objectives(),
]


def label(options):
    return "-".join(f"{value}" for value in options.values())


def build(digits, *, dtype=torch.float32, **options):
    """A small program of a config on the CPU, with its config."""
    settings = {"hidden": (16,), "latent_dim": 4, **options}
    if options.get("prior") in _SMALL:
        settings["prior_components"] = _SMALL[options["prior"]]
    if options.get("network") in ("conv", "residual"):
        settings["hidden"] = (4,)
    if options.get("program") in _LABELLED:
        settings["classes"] = 10
    if options.get("likelihood") == "columns":
        settings["likelihood_schema"] = SCHEMA
    if options.get("program") == "counts":
        settings["likelihood"] = "poisson"
    config = pv.Config(**settings)
    x = arguments(digits, None, **options)[0]
    program = pv.build_program(config, event_shape=x.shape[1:], data=x)
    return config, program.to(dtype)


def arguments(digits, number, **options):
    """Data for a program of these options, some labels unknown."""
    x, y = digits.train.x[:number], digits.train.y[:number].clone()
    if options.get("program") == "semi-supervised":
        y[::2] = -1
    if options.get("likelihood") == "columns":
        x = x[:, 3:5].flatten(1)[:, : len(SCHEMA)].clone()
        x[::3, 1::2] = torch.nan
    if options.get("program") == "counts":
        return x, 1 + x.flatten(1).sum(1)
    return (x, y) if options.get("program") in _LABELLED else (x,)


def numbers_of(result):
    """All numbers of a result, as tensors on the CPU."""
    if isinstance(result, torch.Tensor):
        return [result.detach().cpu()]
    if isinstance(result, np.ndarray):
        return [torch.as_tensor(result.copy())]
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
        return numbers_of({k: v for k, v in fields.items() if k not in _TIMES})
    if isinstance(result, Mapping):
        return numbers_of([v for k, v in result.items() if k not in _TIMES])
    if isinstance(result, list | tuple):
        return [number for part in result for number in numbers_of(part)]
    if isinstance(result, bool | int | float):
        return [torch.tensor(float(result), dtype=torch.float64)]
    return []


def same_on_both(compute, device="cuda"):
    """Assert that ``compute(device)`` gives the same bits on both; return the host's waits."""

    def run(where):
        pyro.clear_param_store()
        torch.manual_seed(SEEDED)
        return numbers_of(compute(torch.device(where)))

    expected = run("cpu")
    with pretend() as gpu:
        got = run(device)
    assert expected, "the computation returns no numbers"
    assert len(got) == len(expected)
    for number, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.shape == b.shape, (number, a.shape, b.shape)
        same = torch.equal(a.double().nan_to_num(1e99), b.double().nan_to_num(1e99))
        assert same, (number, a.flatten()[:4], b.flatten()[:4])
    return gpu


def as_on_a_cpu(monkeypatch):
    """The same numbers of data and draws at once, so that draws are the same; short fits."""
    monkeypatch.setattr(sizes, "_on_gpu", lambda device: False)
    short_fits(monkeypatch)


def short_fits(monkeypatch):
    """Few steps of a proposal's fit: what is compared are devices."""
    monkeypatch.setitem(refine.__kwdefaults__, "steps", 20)


class Regression:
    """y ~ N(w z, 1): a latent of all the data, as a user writes it."""

    def model(self, z, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros_like(z[0]), 1.0))
        with pyro.plate("data", len(z)):
            pyro.sample("y", dist.Normal(w * z, 1.0), obs=y)

    def guide(self):
        return autoguide.AutoNormal(self.model)


class Stored:
    """Functions with parameters in Pyro's store."""

    @staticmethod
    def model(x):
        loc = pyro.param("loc", lambda: torch.zeros(64))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), x.new_ones(2)).to_event(1))
            values = loc + z.sum(-1, keepdim=True)
            pyro.sample("x", densities.Bernoulli(logits=values).to_event(1), obs=x)

    @staticmethod
    def guide(x):
        scale = pyro.param(
            "scale", lambda: torch.ones(2), constraint=torch.distributions.constraints.positive
        )
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0 * scale, scale).expand([len(x), 2]).to_event(1))


class Clusters(nn.Module):
    """A discrete latent that the guide leaves out, and a positive one."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))
        self.centres = nn.Parameter(torch.arange(3.0)[:, None].repeat(1, 2))

    def model(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample(
                "k", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"}
            )
            s = pyro.sample(
                "s", dist.Gamma(torch.full_like(x[:, 0], 2.0), torch.ones_like(x[:, 0]))
            )
            pyro.sample("x", dist.Normal(self.centres[k], s[..., None]).to_event(1), obs=x)


class Stopping(pv.ELBO):
    """The ELBO of a run that is told to stop in one of its steps."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def terms(self, *args, **kwargs):
        self.left -= torch.is_grad_enabled()
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().terms(*args, **kwargs)
