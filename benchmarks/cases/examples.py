"""Autoencoders and other local latents of Pyro's examples."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

import pyro_vae as pv

from .base import ARGUMENT, DISCRETE, Brought, Source, case, train
from .references import by_traces, by_weights, exactly

__all__: list[str] = []


def _pictures(number: int = 6, side: int = 28) -> Tensor:
    """Black and white pictures of blots."""
    place = torch.linspace(-1, 1, side)
    centre = torch.rand(number, 2, 1, 1) - 0.5
    distance = (place[:, None] - centre[:, 0]) ** 2 + (place - centre[:, 1]) ** 2
    return (distance < 0.15).float()


@case("vae.py", "an autoencoder of digits; pixels by `x.reshape(-1, 784)`", "examples/vae/vae.py")
def _(source: Source) -> Brought:
    vae = source.module().VAE(z_dim=4, hidden_dim=20)
    x = _pictures().reshape(-1, 1, 28, 28)
    train(vae.model, vae.guide, (x,), learning_rate=0.01)
    rows = [(row[None],) for row in x]
    return Brought(vae.model, vae.guide, (x,), by_weights(vae.model, vae.guide, rows))


@case("vae_comparison.py", "methods of a class that is no module", "examples/vae/vae_comparison.py")
def _(source: Source) -> Brought:
    module = source.module()
    vae = module.PyroVAEImpl(Namespace(jit=False, batch_size=6), None, None)
    x = _pictures()
    train(vae.model, vae.guide, (x,), steps=100, learning_rate=0.003)
    rows = [(row[None],) for row in x]
    return Brought(vae.model, vae.guide, (x,), by_weights(vae.model, vae.guide, rows))


def _semi_supervised(source: Source, *, labelled: bool) -> Brought:
    module = source.module()
    vae = module.SSVAE(z_dim=3, hidden_layers=[16], config_enum="parallel")
    x = _pictures().reshape(-1, 784)
    data: tuple[Tensor, ...] = (x,)
    if labelled:
        data = (x, torch.eye(10)[torch.arange(len(x)) % 3])
    guide = config_enumerate(vae.guide, "parallel", expand=True)
    objective = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    train(vae.model, guide, data, steps=150, objective=objective, learning_rate=0.005)
    reference = by_traces(vae.model, guide, data, samples=1000, number=len(x))
    ours = pv.EnumeratedELBO()
    return Brought(vae.model, guide, data, reference, objective, ours)


case(
    "ss_vae_M2.py, unlabelled",
    "the label is enumerated in the guide; a plate without a size",
    "examples/vae/ss_vae_M2.py",
    auto=DISCRETE,
    certify=DISCRETE,
)(partial(_semi_supervised, labelled=False))
case(
    "ss_vae_M2.py, labelled",
    "`model(xs, ys=None)` with both; a plate without a size",
    "examples/vae/ss_vae_M2.py",
)(partial(_semi_supervised, labelled=True))


@case(
    "cvae.py",
    "`model(xs, ys=None)`: log p(ys | xs) of the hidden quarters; a plate without a size",
    "examples/cvae/cvae.py",
)
def _(source: Source) -> Brought:
    module = source.module()
    baseline = source.module("examples/cvae/baseline.py").BaselineNet(8, 8)
    net = module.CVAE(3, 16, 16, baseline)
    y = _pictures()
    x = y.clone()
    x[:, :14, :14] = -1
    train(net.model, net.guide, (x, y), steps=150, learning_rate=0.003)
    reference = by_traces(net.model, net.guide, (x, y), samples=20_000, number=len(x))
    return Brought(net.model, net.guide, (x, y), reference)


@case(
    "prediction of cvae.py",
    "the same without ys: nothing is observed",
    "examples/cvae/cvae.py",
    every=r"observ",
)
def _(source: Source) -> Brought:
    module = source.module()
    baseline = source.module("examples/cvae/baseline.py").BaselineNet(8, 8)
    net = module.CVAE(3, 16, 16, baseline)
    x = _pictures()
    x[:, :14, :14] = -1
    return Brought(net.model, net.guide, (x,), None)


def _air(source: Source, *data: Any, **settings: Any) -> Brought:
    air = source.module().AIR(
        num_steps=2,
        x_size=12,
        window_size=6,
        z_what_size=3,
        rnn_hidden_size=12,
        encoder_net=[8],
        decoder_net=[8],
        predict_net=[8],
        bl_predict_net=[8],
        decoder_output_use_sigmoid=True,
        **settings,
    )
    x = _pictures(4, 12)
    train(air.model, air.guide, (x, *data), steps=600, learning_rate=0.005)
    reference = by_traces(air.model, air.guide, (x, *data), samples=1000, number=len(x))
    return Brought(air.model, air.guide, (x, *data), reference)


case(
    "air.py",
    "latents masked by discrete ones; an int as argument; baselines",
    "examples/air/air.py",
    every=ARGUMENT,
    auto=f"{DISCRETE}|mask of latent site .* depends on other latents",
    certify=f"{DISCRETE}|mask of latent site .* depends on other latents",
    fit=r"not reparameterized",
)(lambda source: _air(source, 4))
case(
    "air.py, batch_size=None",
    "the same with None as argument",
    "examples/air/air.py",
    every=ARGUMENT,
    auto=f"{DISCRETE}|mask of latent site .* depends on other latents",
    certify=f"{DISCRETE}|mask of latent site .* depends on other latents",
    fit=r"not reparameterized",
)(lambda source: _air(source, None))


def _scanvi(source: Source, *, labelled: bool) -> Brought:
    scanvi = source.module().SCANVI(8, 3, l_loc=3.0, l_scale=0.5, latent_dim=2)
    x = torch.poisson(3 * torch.rand(6, 8))
    data: tuple[Tensor, ...] = (x,)
    if labelled:
        data = (x, torch.eye(3)[torch.arange(6) % 3])
    guide = config_enumerate(scanvi.guide, "parallel", expand=True)
    objective = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    train(scanvi.model, guide, data, steps=500, objective=objective, learning_rate=0.01)
    scanvi.eval()
    reference = by_traces(scanvi.model, guide, data, samples=800, number=len(x))
    return Brought(scanvi.model, guide, data, reference, objective, pv.EnumeratedELBO())


case(
    "scanvi.py, unlabelled",
    "three levels of latents, the label enumerated in the guide, batch normalization",
    "examples/scanvi/scanvi.py",
    auto=DISCRETE,
    certify=DISCRETE,
)(partial(_scanvi, labelled=False))
case(
    "scanvi.py, labelled",
    "a classification loss by `pyro.factor` in the guide, which is no part of q",
    "examples/scanvi/scanvi.py",
)(partial(_scanvi, labelled=True))


@case(
    "cevae",
    "auxiliary sites observed in the guide, and a loss of its own",
    "pyro/contrib/cevae/__init__.py",
)
def _(source: Source) -> Brought:
    from pyro.contrib.cevae import CEVAE, TraceCausalEffect_ELBO

    net = CEVAE(feature_dim=3, latent_dim=2, hidden_dim=8, num_layers=2)
    z = torch.rand(8).round()
    x = torch.randn(8, 3) + z[:, None]
    t = torch.bernoulli(0.75 * z + 0.25 * (1 - z))
    y = torch.bernoulli(torch.sigmoid(3 * (z + 2 * (2 * t - 2))))
    data = (x, t, y)
    train(net.model, net.guide, data, objective=TraceCausalEffect_ELBO())
    reference = by_traces(net.model, net.guide, data, samples=1000, number=len(x))
    return Brought(net.model, net.guide, data, reference)


@case(
    "neutra.py",
    "a density to sample from: nothing is observed, and no argument is data",
    "examples/neutra.py",
    every=r"observ",
)
def _(source: Source) -> Brought:
    from pyro.infer.autoguide import AutoDiagonalNormal

    model = source.module().model
    guide = AutoDiagonalNormal(model)
    data = (torch.tensor(1.15), torch.tensor(1.0))
    train(model, guide, data)
    return Brought(model, guide, data, None)


@case(
    "autoname/mixture.py",
    "one discrete latent for each datum, named in a loop, and an int as argument",
    "examples/contrib/autoname/mixture.py",
    every=f"plate|{ARGUMENT}",
    fit="not reparameterized",
    auto=DISCRETE,
    certify=DISCRETE,
)
def _(source: Source) -> Brought:
    module = source.module()
    data = torch.tensor([0.0, 1.0, 2.0, 20.0])
    train(module.model, module.guide, (data, 2), steps=100, learning_rate=0.1)
    ps, locs, scales = (
        pyro.param(f"latent.{name}").detach().double() for name in ("probs", "locs", "scales")
    )
    terms = torch.distributions.Normal(locs, scales).log_prob(data.double()[:, None]) + ps.log()
    total = terms.logsumexp(-1).sum()
    return Brought(module.model, module.guide, (data, 2), exactly(total), number=1)
