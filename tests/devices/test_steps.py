"""A training step of every part: the CPU's bits, and no wait of the host."""

from typing import get_args

import pyro
import pytest
import torch
from devices.pretend import counting, pretend
from devices.twins import EVERY, Clusters, Stored, arguments, build, label, same_on_both

import pyro_vae as pv
from pyro_vae.common import options
from pyro_vae.compiled import Gradients
from pyro_vae.objectives import objective_of


def _step(program, objective, batch):
    """ELBO and gradients at a KL weight of 0.7, with the waits they took."""
    gradients = Gradients(program, objective)
    with pyro.validation_enabled(False):
        gradients(*batch)  # counts plates
        torch.manual_seed(1)
        with counting() as waits:
            elbo = gradients(*batch, kl_weight=0.7)
    return [elbo, *(p.grad for p in program.parameters() if p.grad is not None)], waits


def _check_step(make, *, few=0):
    """Assert the CPU's bits and no wait for ``make(device)``: program, objective, batch."""
    waits = []

    def compute(device):
        program, objective, batch = make(device)
        numbers, found = _step(program, objective, batch)
        waits.append(found)
        return numbers

    same_on_both(compute)
    assert sum(waits[1].values()) <= few, waits[1]


@pytest.mark.parametrize("options", EVERY, ids=label)
def test_step(digits, options):
    def make(device):
        config, program = build(digits, **options)
        batch = tuple(a.to(device) for a in arguments(digits, 12, **options))
        return program.to(device).train(), objective_of(config), batch

    _check_step(make)


def test_every_name_of_the_command_line_has_a_step():
    """Parts are named in two places; what is in either is looked at above."""
    for option, names in {
        "prior": options.PriorName,
        "posterior": options.PosteriorName,
        "likelihood": options.LikelihoodName,
        "network": options.NetworkName,
        "program": options.ProgramName,
        "objective": options.ObjectiveName,
        "gradient": options.Gradient,
    }.items():
        seen = {getattr(pv.Config(), option), *(e[option] for e in EVERY if option in e)}
        assert seen == set(get_args(names)), option


@pytest.mark.parametrize("scale", [0.3, "value", "network"])
def test_step_of_other_scales(digits, scale):
    def make(device):
        _, program = build(digits, likelihood="normal", likelihood_scale=scale)
        return program.to(device), pv.ELBO(), (digits.train.x[:12].to(device),)

    _check_step(make)


def test_step_of_a_mask(digits):
    def make(device):
        x = digits.train.x[:12].to(device)
        return pv.Masked(build(digits)[1]).to(device), pv.ELBO(), (x, x > 0.2)

    _check_step(make)


def test_step_of_a_fixed_prior(digits):
    def make(device):
        usual = build(digits)[1]
        normal = pyro.distributions.Normal(torch.zeros(4), torch.ones(4)).to_event(1)
        program = pv.VAE(normal, usual.likelihood, usual.posterior).to(device)
        return program, pv.ELBO(), (digits.train.x[:12].to(device),)

    _check_step(make)


def test_step_of_functions_with_stored_parameters(digits):
    def make(device):
        x = digits.train.x[:12].flatten(1)
        return pv.as_program(Stored.model, Stored.guide, x).to(device), pv.ELBO(), (x.to(device),)

    _check_step(make)


def test_step_of_an_amortized_model_that_sums_labels_out():
    """By Pyro's own sum, which looks three times whether a factor is zero."""

    def make(device):
        x = torch.linspace(-1, 3, 24).reshape(12, 2)
        program = pv.amortize(Clusters().model, x)
        return program.to(device), pv.EnumeratedELBO(), (x.to(device),)

    _check_step(make, few=6)


def test_the_objectives_of_pyro_train_with_our_programs(digits):
    def compute(device):
        _, vae = build(digits)
        vae.to(device)
        x = digits.train.x[:20].to(vae.device)
        adam = pyro.optim.Adam({"lr": 1e-3})
        svi = pyro.infer.SVI(vae.model, vae.guide, adam, pyro.infer.Trace_ELBO())
        torch.manual_seed(0)
        return [svi.step(x), svi.step(x), list(vae.parameters())]

    same_on_both(compute)


def test_a_compiled_step_keeps_the_weight_of_the_kl_term_on_the_device(digits):
    """Inductor passes a number of the host by reading it, and makes no CUDA graph of it."""
    from pyro_vae.compiled.step import CompiledGradients

    with pretend() as gpu:
        program = build(digits)[1].to("cuda")
        compiled = CompiledGradients(program, pv.ELBO())
        seen = []
        weights = [0.0, 0.5, 0.5, 1.0]
        for weight in weights:
            with gpu.counting() as waits:
                held = compiled.weight(weight, torch.device("cuda", 0))
            assert held.is_cuda
            seen.append((held.item(), sum(waits.values()), held.data_ptr()))
    assert [value for value, _, _ in seen] == weights
    assert sum(number for _, number, _ in seen) == 0
    assert len({place for _, _, place in seen}) == 1
