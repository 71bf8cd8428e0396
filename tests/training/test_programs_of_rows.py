"""Training of programs with a parameter for each row, of plain objects, of subsamples."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from torch import nn

import pyro_vae as pv

X = torch.tensor([-3.0, -1.0, 0.0, 2.0, 5.0])


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


@pytest.mark.parametrize(
    "kind", ["AutoNormal", pytest.param("AutoDiagonalNormal", marks=pytest.mark.slow)]
)
def test_an_automatic_guide_meets_its_own_rows(kind):
    """The posterior of each row is N(16 x / 17, 4 / 17): shuffled rows would learn their mean."""
    guide = getattr(autoguide, kind)(model)
    program = pv.as_program(model, guide, X)
    pv.fit(program, X, epochs=1500, learning_rate=0.05, schedule="one-cycle", seed=1)
    median = guide.median(X)["z"]
    torch.testing.assert_close(median, 16 * X / 17, rtol=0, atol=0.15)


class Holder:
    """Programs as methods of an object that is no module."""

    def __init__(self):
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(2, 4), nn.Linear(2, 2)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw)).to_event(1))


def test_modules_of_plain_objects_are_trained():
    holder, x = Holder(), torch.randn(50, 2) * 3
    before = [p.clone() for p in (*holder.encoder.parameters(), *holder.decoder.parameters())]
    program = pv.as_program(holder.model, holder.guide, x)
    history = pv.fit(program, x, epochs=20, learning_rate=0.02)
    after = (*holder.encoder.parameters(), *holder.decoder.parameters())
    assert all(not torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert history.epochs[-1].train_elbo > history.epochs[0].train_elbo + 1


def test_nothing_to_learn_is_said():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def model(self, x):
            model(x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(16 * x / 17, 0.5))

    with pytest.raises(ValueError, match="the loss depends on no parameter"):
        pv.fit(Idle(), X, epochs=1)


def test_programs_that_hold_their_data():
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(X)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=X)

    def guide():
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("mu", dist.Normal(loc, scale))

    program = pv.as_program(model, guide)
    history = pv.fit(program, (), epochs=800, learning_rate=0.02, schedule="one-cycle")
    exact = dist.MultivariateNormal(torch.zeros(5), torch.eye(5) + 1).log_prob(X).item()
    assert pyro.param("loc").item() == pytest.approx(X.sum().item() / 6, abs=0.05)
    assert pyro.param("scale").item() == pytest.approx(6**-0.5, rel=0.1)
    last = torch.tensor([epoch.train_elbo for epoch in history.epochs[-100:]])
    assert last.mean().item() == pytest.approx(exact, abs=0.05)
