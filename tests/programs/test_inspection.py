"""What one inspection of a pair establishes, or says in a sentence what is wrong."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.programs import Pair

SHORT = pyro.distributions.GaussianHMM(
    dist.Normal(torch.zeros(1), 1.0).to_event(1),
    0.9 * torch.eye(1),
    dist.Normal(torch.zeros(1), 0.5).to_event(1),
    torch.eye(1),
    dist.Normal(torch.zeros(1), 0.5).to_event(1),
)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Gamma(2.0, 2.0))


def observing(site, obs):
    """A model of positive rates that observes something of the data."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(1.0, 1.0))
            pyro.sample("x", site(z), obs=obs(x))

    return model


class TestObservations:
    @pytest.mark.parametrize(
        ("site", "obs", "shapes"),
        [
            (lambda z: dist.Exponential(z[:, None]).to_event(1), lambda x: x[:, 0], "(3,)"),
            (lambda z: dist.Exponential(z[:, None]).to_event(1), lambda x: x, "(3, 4)"),
            (lambda z: dist.Exponential(z), lambda x: x[:, :1], "(3, 1)"),
            (lambda z: dist.Exponential(z), lambda x: x[:2, 0], "(2,)"),
            (
                lambda z: dist.Exponential(z[:, None, None].expand(-1, 2, 2)).to_event(2),
                lambda x: x,
                "(3, 4)",
            ),
            (lambda z: dist.Exponential(z[:, None]).to_event(1), lambda x: x[0, 0], "()"),
        ],
        ids=["flat", "wider", "not an event", "fewer rows", "not reshaped", "one number"],
    )
    def test_of_another_shape(self, site, obs, shapes):
        with pytest.raises(ValueError, match=r"site 'x' observes a value of shape") as error:
            Pair.inspect(observing(site, obs), guide, (torch.ones(9, 4),))
        assert shapes in str(error.value)

    @pytest.mark.parametrize(
        ("site", "obs"),
        [
            (lambda z: dist.Exponential(z[:, None].expand(-1, 4)).to_event(1), lambda x: x),
            (lambda z: dist.Exponential(z), lambda x: x[:, 0]),
            (lambda z: dist.Bernoulli(probs=torch.exp(-z)), lambda x: torch.tensor(1.0)),
            (lambda z: SHORT, lambda x: x[..., None]),
        ],
        ids=["event", "number", "the same for all", "a chain of any length"],
    )
    def test_of_the_right_shape(self, site, obs):
        """What is allowed gives the densities of each datum by itself."""
        x = torch.rand(5, 4) + 0.1
        pair = Pair.inspect(observing(site, obs), guide, (x,))
        values, _ = pair.propose((x,), 2)
        found = pair.log_likelihood((x,), values)
        for n in range(5):
            one = pair.log_likelihood((x[n : n + 1],), {"z": values["z"][:, n : n + 1]})
            torch.testing.assert_close(one[:, 0], found[:, n])
