"""What is compiled in may change: attributes, classes, closures, globals, tensors, buffers."""

import types
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.compiled import CompiledGradients, Gradients
from pyro_vae.compiled.constants import Constants

SPREAD = 1.0


def _spread():
    return SPREAD


class Shifted(nn.Module):
    """x ~ N(z W + shift, spread), where much is read that is no parameter."""

    power = 1

    def __init__(self):
        super().__init__()
        self.decode, self.encode = nn.Linear(2, 3), nn.Linear(3, 4)
        self.shift, self.flip = 0.0, False
        self.offsets = [0.0, 0.5]
        self.settings = types.SimpleNamespace(weight=1.0)
        self.anchor = torch.zeros(3)  # read by a program, it would keep it from being compiled
        self.register_buffer("center", torch.zeros(3))

    def model(self, x):
        mean = self.shift + self.offsets[0] + self.center
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            out = self.decode(-z if self.flip else z) * self.settings.weight
            pyro.sample("x", dist.Normal(out**self.power + mean, _spread()).to_event(1), obs=x)

    def guide(self, x):
        moments = self.encode(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(moments[:, :2], moments[:, 2:].exp()).to_event(1))


def _set(name, value):
    return lambda program, patch: setattr(program, name, value)


CHANGES = {
    "Shifted.shift": _set("shift", 0.7),
    "Shifted.flip": _set("flip", True),
    "Shifted.offsets": lambda program, patch: program.offsets.__setitem__(0, 0.3),
    "SimpleNamespace.weight": lambda program, patch: setattr(program.settings, "weight", 0.2),
    "Shifted.anchor": lambda program, patch: program.anchor.fill_(0.9),
    "Shifted.center": _set("center", torch.ones(3)),
    "Shifted.power": lambda program, patch: patch.setattr(Shifted, "power", 2),
    "global.SPREAD": lambda program, patch: patch.setitem(globals(), "SPREAD", 3.0),
}


def _gradients(gradients, program, x):
    torch.manual_seed(2)
    with pyro.validation_enabled(False):
        elbo = gradients(x)
    return elbo, [p.grad.clone() for p in program.parameters()]


def _close(one, other):
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen(name, monkeypatch):
    """Without compiling: what changed is named, and only that."""
    program = Shifted()
    constants = Constants(program, program.model, program.guide, pv.ELBO())
    assert constants.changed() == []
    CHANGES[name](program, monkeypatch)
    assert set(constants.changed()) == {name}
    constants.leave_out()
    assert constants.changed() == []


def test_what_functions_close_over_is_seen():
    weight, program = 1.0, Shifted()

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(program.shift, weight).to_event(0), obs=x)

    constants = Constants(model)
    assert constants.changed() == []
    weight = 2.0
    assert constants.changed() == ["model's.weight"]
    program.shift = 0.1
    assert set(constants.changed()) == {"model's.weight", "Shifted.shift"}


def test_the_same_value_is_no_change():
    program = Shifted()
    program.shift = float("0.25")
    constants = Constants(program, program.model, program.guide)
    program.shift = float("0.25")
    program.decode.weight.data.mul_(2)
    program.center.fill_(3.0)
    assert constants.changed() == []


def test_gradients_follow_a_change_and_are_compiled_again():
    program, x = Shifted(), torch.randn(16, 3)
    compiled, plain = CompiledGradients(program, pv.ELBO()), Gradients(program, pv.ELBO())
    _close(_gradients(compiled, program, x), _gradients(plain, program, x))
    first = compiled._run
    for shift, number in ((0.5, 1), (0.75, 0)):
        program.shift = shift
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _close(_gradients(compiled, program, x), _gradients(plain, program, x))
        said = [str(w.message) for w in caught if w.category is pv.PyroVAEWarning]
        assert sum("Shifted.shift is no longer what it was" in line for line in said) == number
        assert compiled._run is None
    with warnings.catch_warnings():
        warnings.simplefilter("error", pv.PyroVAEWarning)
        _close(_gradients(compiled, program, x), _gradients(plain, program, x))
        again = compiled._run
        assert again is not None
        assert again is not first
        program.center.fill_(2.0)  # a buffer is an argument: nothing to compile
        _close(_gradients(compiled, program, x), _gradients(plain, program, x))
        assert compiled._run is again
        program.shift = 0.5  # named already
        _close(_gradients(compiled, program, x), _gradients(plain, program, x))


def test_not_compiled_without_end():
    program, x = Shifted(), torch.randn(8, 3)
    compiled = CompiledGradients(program, pv.ELBO())
    _gradients(compiled, program, x)
    compiled._left = 0
    program.flip = True
    with pytest.warns(pv.PyroVAEWarning, match="without compilation to the end"):
        _gradients(compiled, program, x)
    for _ in range(2):
        _close(
            _gradients(compiled, program, x),
            _gradients(Gradients(program, pv.ELBO()), program, x),
        )
    assert compiled._run is None


class Keeps(Shifted):
    """Keeps something of every run."""

    def __init__(self, count):
        super().__init__()
        self.count, self.last, self.runs = count, None, 0

    def guide(self, x):
        self.last = self.encode(x)
        self.runs += self.count
        super().guide(x)


def test_programs_that_keep_what_they_computed():
    """A tensor kept for later to look at is no constant; a number that counts cannot be one."""
    x = torch.randn(8, 3)
    program = Keeps(0)
    compiled = CompiledGradients(program, pv.ELBO())
    with warnings.catch_warnings():
        warnings.simplefilter("error", pv.PyroVAEWarning)
        _gradients(compiled, program, x)
        with pyro.validation_enabled(False):
            compiled(x[:5])  # the plain path keeps another
        _gradients(compiled, program, x)
    assert compiled._run is not None
    counting = CompiledGradients(Keeps(1), pv.ELBO())
    with pytest.warns(pv.PyroVAEWarning, match=r"the programs change Keeps.runs as they run"):
        _gradients(counting, counting.program, x)
    assert counting._run is None
    with warnings.catch_warnings():
        warnings.simplefilter("error", pv.PyroVAEWarning)
        _gradients(counting, counting.program, x)
