"""Several models with the same names in Pyro's global store."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn

import pyro_vae as pv


class Named(nn.Module):
    """Shows its parts to Pyro under names of their own, as the tutorials do."""

    def __init__(self, features=4, update=False):
        super().__init__()
        self.decode, self.encode = nn.Linear(1, features), nn.Linear(features, 2)
        self.update = update

    def model(self, x):
        pyro.module("decoder", self.decode, update_module_params=self.update)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encode)
        moments = self.encode(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(moments[:, :1], moments[:, 1:].exp()).to_event(1))


def _trained(program, x, **settings):
    pv.fit(program, x, epochs=3, batch_size=16, device="cpu", seed=2, **settings)
    return [parameter.detach().clone() for parameter in program.parameters()]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_second_model_of_the_same_names_trains_as_the_first(compiled):
    x = torch.randn(48, 4) + 2
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        results.append(_trained(Named(), x, compiled=compiled))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    other = Named(features=6)
    before = other.decode.weight.detach().clone()
    _trained(other, torch.randn(20, 6))
    assert not torch.equal(other.decode.weight, before)


def test_a_second_model_that_takes_over_the_parameters_of_the_first():
    x = torch.randn(20, 4)
    _trained(Named(), x)
    with pytest.raises(ValueError, match=r"'decoder\$\$\$weight' was in .*clear_param_store\(\)"):
        _trained(Named(update=True), x)
    pyro.clear_param_store()
    _trained(Named(update=True), x)


class Scale(PyroModule):
    def __init__(self):
        super().__init__()
        self.value = PyroParam(torch.tensor(2.0), dist.constraints.positive)

    def forward(self):
        return self.value


class Spread(Named):
    """A constrained parameter: Pyro gives it what its store has under the name."""

    def __init__(self):
        super().__init__()
        self.spread = Scale()

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            scale = self.spread()
            pyro.sample("x", dist.Normal(self.decode(z), scale).to_event(1), obs=x)


def test_constrained_parameters_of_the_same_name():
    x = torch.randn(20, 4)
    first = Spread()
    _trained(first, x)
    kept = first.spread.value.item()
    with pytest.raises(ValueError, match=r"'value' was in Pyro's global store before"):
        _trained(Spread(), x)
    assert first.spread.value.item() == kept
    pyro.clear_param_store()
    second = Spread()
    _trained(second, x)
    assert second.spread.value.item() != 2.0
    assert first.spread.value.item() == kept
    with pyro.settings.context(module_local_params=True):
        third = Spread()
        _trained(third, x)
    assert third.spread.value.item() != 2.0


class Stray(Named):
    """Asks the store for a parameter that no module has: for a density, or for nothing."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def guide(self, x):
        shift = pyro.param("shift", torch.zeros(()))
        super().guide(x + shift if self.weight else x)


def test_parameters_of_the_store_alone():
    x = torch.randn(20, 4)
    with pytest.raises(ValueError, match="'shift' lives in Pyro's global store"):
        _trained(Stray(True), x)
    _trained(Stray(False), x)  # nothing depends on it
