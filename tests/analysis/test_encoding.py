"""Codes of data against exact moments; reconstructions against exact means."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.analysis import encode, reconstruct
from pyro_vae.common.errors import NotEnoughMemory

_PLACES = torch.tensor([-1.0, 0.0, 2.0]).double()
_COUPLED = 0.6


def _model(x):
    with pyro.plate("data", len(x), dim=-2):
        a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
        c = pyro.sample("c", dist.Categorical(x.new_ones(3) / 3))
        pyro.sample("x", dist.Normal(a + _PLACES[c], 0.5), obs=x[:, :1])
        with pyro.plate("items", 2, dim=-1):
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("y", dist.Normal(b, 0.5), obs=x[:, 1:])


def _guide(x):
    """Given a, b is a normal about it; a and c depend on x alone."""
    with pyro.plate("data", len(x), dim=-2):
        a = pyro.sample("a", dist.Normal(x[:, :1], 0.3))
        pyro.sample("c", dist.Categorical(logits=x[:, None]))
        with pyro.plate("items", 2, dim=-1):
            pyro.sample("b", dist.Normal(_COUPLED * a + x[:, 1:], 0.4))


@pytest.fixture
def x():
    return torch.randn(70, 3, generator=torch.Generator().manual_seed(0)).double()


def test_moments_are_exact_or_within_their_errors(x):
    """Var[b] = 0.4^2 + (0.6 * 0.3)^2 by the law of total variance."""
    found = encode(_model, _guide, x, samples=400, draws=20)
    torch.testing.assert_close(found.mean["a"], x[:, :1])
    torch.testing.assert_close(found.scale["a"], torch.full_like(x[:, :1], 0.3))
    assert (found.error["a"] == 0).all()
    assert found.mean["b"].shape == (70, 2)
    exact = _COUPLED * x[:, :1] + x[:, 1:]
    deviation = (found.mean["b"] - exact) / found.error["b"]
    assert deviation.abs().max() < 4.5
    assert 0.8 < deviation.square().mean() < 1.2  # errors are what they say, over 140 values
    error = _COUPLED * 0.3 / 400**0.5
    assert found.error["b"].mean().item() == pytest.approx(error, rel=0.02)
    variance = 0.4**2 + (_COUPLED * 0.3) ** 2
    assert found.scale["b"].square().mean().item() == pytest.approx(variance, rel=0.01)
    torch.testing.assert_close(found.mean["c"][:, 0], x.softmax(-1))  # probabilities
    assert found.draws["b"].shape == (70, 20, 2)
    assert found.draws["c"].shape == (70, 20, 1)
    spread = (found.draws["b"].mean(1) - exact) / (variance / 20) ** 0.5
    assert spread.abs().max() < 4.5
    assert "c        q(z|x): (70, 1, 3), exact" in str(found)
    assert list(found.columns())[:4] == ["a_mean", "a_scale", "a_error", "a_draw"]


def test_reconstructions_average_over_the_guide(x):
    """E[x] = E[a] + E[place], and E[y] = E[b], under the guide."""
    found = reconstruct(_model, _guide, x, samples=300)
    exact = {
        "x": x[:, :1] + (x.softmax(-1) @ _PLACES)[:, None],
        "y": _COUPLED * x[:, :1] + x[:, 1:],
    }
    for name, values in exact.items():
        deviation = (found.mean[name] - values) / found.error[name]
        assert deviation.abs().max() < 4.5
        assert 0.7 < deviation.square().mean() < 1.35
    assert list(found.columns()) == ["x_mean", "x_error", "y_mean", "y_error"]


def test_rows_do_not_depend_on_those_beside_them_where_exact(linear_gaussian):
    lg = linear_gaussian
    whole = encode(lg.model, lg.guide, lg.x)
    part = encode(lg.model, lg.guide, lg.x[3:5])
    torch.testing.assert_close(whole.mean["z"][3:5], part.mean["z"])
    torch.testing.assert_close(
        whole.scale["z"], lg.covariance.diagonal().sqrt().expand_as(whole.scale["z"])
    )


def test_a_guide_without_moments_is_averaged(linear_gaussian):
    """exp of a normal, whose distribution does not tell its mean."""
    lg = linear_gaussian

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        base = dist.Normal(0.1 * x, 0.2)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [dist.transforms.ExpTransform()]))

    x = lg.x[:, 0]
    found = encode(model, guide, x, samples=2000)
    exact = (0.1 * x + 0.02).exp()
    assert ((found.mean["z"] - exact) / found.error["z"]).abs().max() < 4
    scale = exact * (torch.tensor(0.04).exp() - 1).sqrt()
    torch.testing.assert_close(found.scale["z"], scale, rtol=0.1, atol=0)


def test_class_indices_are_reconstructed_as_the_most_probable(digits):
    config = pv.Config(likelihood="categorical", likelihood_levels=2, latent_dim=2, hidden=(4,))
    vae = pv.VAE.from_config(config, event_shape=(8, 8), data=digits.train.x)
    found = reconstruct(vae.model, vae.guide, digits.test.x[:5], samples=4)
    assert set(found.mean["x"].unique().tolist()) <= {0.0, 1.0}
    assert found.error["x"].isnan().all()


def test_wrong_use_is_refused(linear_gaussian):
    lg = linear_gaussian
    with pytest.raises(ValueError, match="samples must be a whole number, at least 2; got 1"):
        encode(lg.model, lg.guide, lg.x, samples=1)
    with pytest.raises(ValueError, match="draws must be a whole number, at least 0; got -1"):
        encode(lg.model, lg.guide, lg.x, draws=-1)
    with pytest.raises(ValueError, match=r"as many; got draws=11\. Take more: samples=11"):
        encode(lg.model, lg.guide, lg.x, samples=10, draws=11)
    with pytest.raises(NotEnoughMemory, match="keeping 2,000,000,000 draws of each datum needs"):
        encode(lg.model, lg.guide, lg.x, samples=10**10, draws=2_000_000_000)

    def shared(x):
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).expand([1]).to_event(1), obs=x[:, :1])

    def of_all(x):
        pyro.sample("mean", dist.Normal(x.new_zeros(()), 1.0))

    with pytest.raises(ValueError, match="encode is for data with latents of their own"):
        encode(shared, of_all, lg.x)
