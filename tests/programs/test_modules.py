"""The modules that programs use: however a program holds them, they are found and evaluated."""

from functools import partial
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.programs.modules import modules_of, modules_used


class Net(nn.Module):
    """Rates of counts, with a dropout that only its method knows of."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 4)

    def forward(self, z):
        hidden = nn.functional.dropout(self.first(z).tanh(), 0.5, self.training)
        return nn.functional.softplus(self.last(hidden))


def body(decode, x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", dist.Poisson(decode(z.float())).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        loc = torch.zeros(len(x), 2, dtype=torch.float64)
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def ways(net):
    """Programs that hold one module in their own ways."""
    holder, table, row = SimpleNamespace(net=net), {"net": net}, [None, net]
    nested = [row]
    return {
        "object": lambda x: body(holder.net, x),
        "dict": lambda x: body(table["net"], x),
        "list": lambda x: body(row[1], x),
        "nested list": lambda x: body(nested[0][1], x),
        "partial": partial(body, net),
        "nested partial": partial(body, partial(net)),
        "helper": lambda x: body(helper(holder), x),
    }


def helper(holder):
    return lambda z: holder.net(z)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize(
    "way", ["object", "dict", "list", "nested list", "partial", "nested partial", "helper"]
)
def test_modules_are_in_eval_mode_however_they_are_held(way, net):
    x = dist.Poisson(torch.ones(6, 4)).sample()
    expected = pv.log_evidence(partial(body, net.eval()), guide, x, samples=20).log_px
    net.train()
    found = pv.log_evidence(ways(net)[way], guide, x, samples=20).log_px
    assert torch.equal(found, expected)
    assert all(module.training for module in net.modules())  # as they were


def test_modules_that_are_called_later_are_in_eval_mode_too(net, no_unreliable_warning):
    other = nn.Sequential(nn.Linear(2, 4), nn.Softplus())
    table = [other, net]

    def model(x):
        bright = (x > 50).any(1, keepdim=True)

        def decode(z):  # the other module for one datum
            if not bright.any():
                return table[0](z)
            return torch.where(bright, table[1](z), table[0](z))

        body(decode, x)

    x = torch.ones(70, 4)
    x[68] = 60.0
    net.eval()
    expected = pv.log_evidence(model, guide, x, samples=20).log_px
    net.train()
    assert torch.equal(pv.log_evidence(model, guide, x, samples=20).log_px, expected)
    with pytest.raises(ValueError, match="when the data beside it are others"):
        pv.log_evidence(lambda x: body(table[bool((x > 50).any())], x), guide, x, samples=20)
    assert net.training
    assert net.first.training


def test_compiled_modules_stay_compiled(net):
    """No hook of ours makes the compiler start again, evaluation after evaluation."""
    times, first = [], 0

    def backend(graph, _):
        times.append(1)
        return graph.forward

    x = dist.Poisson(torch.ones(6, 4)).sample()
    expected = pv.log_evidence(partial(body, net.eval()), guide, x, samples=20).log_px
    row = [torch.compile(net.train(), backend=backend, dynamic=True)]
    for repeat in range(4):
        found = pv.log_evidence(lambda x: body(row[0], x), guide, x, samples=20).log_px
        torch.testing.assert_close(found, expected)
        assert all(module.training for module in net.modules())
        first = len(times) if repeat == 0 else first
    assert len(times) == first


def test_modules_used_are_those_called_found_and_stored(net):
    unused = nn.Linear(1, 1)

    def model(x, unused=unused):
        scale = pyro.param("scale", torch.tensor(2.0))
        body(lambda z: net(z) * scale, x)
        return unused

    assert net in modules_of(ways(net)["dict"])
    program = ways(net)["nested list"]
    assert net not in modules_of(program)
    used = modules_used(program, guide, (torch.ones(3, 4),))
    assert net in used
    assert net.last in used
    *_, stored = modules_used(model, guide, (torch.ones(3, 4),))
    assert [tuple(value.shape) for value in stored.parameters()] == [()]


def test_the_device_is_that_of_a_module_that_is_called():
    """A module on another device is noted before it fails; here on one that computes nothing."""
    from pyro_vae.programs.modules import device_of

    table = [Net().to("meta")]
    used = modules_used(lambda x: body(table[0], x), guide, (torch.ones(3, 4),))
    assert device_of(*used) == torch.device("meta")


def test_another_type_than_that_of_a_called_module_is_said():
    table = [nn.Linear(3, 2)]

    def sees(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(table[0](x), 1.0).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

    with pytest.raises(
        ValueError, match=r"data are float64, .* float32; .* x\.to\(torch\.float32\)"
    ):
        pv.log_evidence(model, sees, torch.zeros(5, 3).double())


def test_a_module_in_place_of_its_program(digits):
    vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))
    x = digits.test.x[:3]
    with pytest.raises(TypeError, match=r"the model must be .* got VAE; give its method \.model"):
        pv.log_evidence(vae, vae.guide, x)
    with pytest.raises(TypeError, match=r"the guide must be .* got NoneType\."):
        pv.log_evidence(vae.model, None, x)


@pytest.mark.parametrize("held", ["default", "keyword", "attribute", "closure"])
def test_batch_norm_of_a_flow_is_evaluated_however_it_is_held(held):
    """Transforms are not called as modules are, so that no call can be seen; they must be found."""
    torch.manual_seed(0)
    norm = dist.transforms.BatchNorm(1)
    norm.moving_mean, norm.moving_variance = torch.full((1,), 0.2), torch.full((1,), 1.3)

    def draw(x, norm):
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.stack([x / 2], -1), 0.9).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [norm]))

    class Program:
        parts: dict

        def guide(self, x):
            draw(x, self.parts["norm"])

    def by_default(x, norm=norm):
        draw(x, norm)

    def by_keyword(x, *, norm=norm):
        draw(x, norm)

    owner = Program()
    owner.parts = {"norm": norm}
    guides = {"default": by_default, "keyword": by_keyword, "attribute": owner.guide}
    guide = guides.get(held, lambda x: draw(x, norm))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    x = torch.linspace(-1, 1, 9)
    found = pv.log_evidence(model, guide, x, samples=2000)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    assert ((found.log_px - exact).abs() < 4.5 * found.standard_error).all()
    assert norm.training
