"""Log densities that float32 would lose: of counts and of Gamma functions."""

import warnings
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.distributions import masses
from pyro_vae.programs.double import cancels, in_double
from pyro_vae.programs.traces import log_prob

COUNTS = (1.0, 1e3, 1e5, 1e7)


def _site(fn, value):
    return {
        "name": "x",
        "fn": fn,
        "value": value,
        "args": (),
        "kwargs": {},
        "is_observed": True,
        "mask": None,
    }


def _double(**parameters):
    return {name: value.double() for name, value in parameters.items()}


def _cases(size):
    """Distributions of counts, built from float32 and from float64 numbers; values near both."""
    mean = torch.tensor([0.47, 0.51]) * size  # of which float32 holds the sum
    x = (mean + torch.tensor([1.0, -0.5]) * size**0.5).round().clamp_min(0)
    shape, gate, logits = torch.tensor([3.0, 4.0]), torch.tensor(0.1), torch.tensor([0.1, -0.2])
    trials, total = int(size + 9), int(x.sum())
    pair = torch.stack([mean, 1.001 * mean], -1)

    def built(make, **parameters):
        return make(**parameters), make(**_double(**parameters)), x

    yield built(dist.Poisson, rate=mean)
    yield built(lambda rate: dist.Poisson(rate, is_sparse=True), rate=mean)
    yield built(lambda rate: dist.Poisson(rate).mask(torch.tensor([True, False])), rate=mean)
    yield built(lambda rate: dist.Poisson(rate).to_event(1), rate=mean)
    yield built(lambda rate: dist.Poisson(rate[:1]).expand((2,)), rate=mean)
    yield built(dist.NegativeBinomial, total_count=shape, logits=(mean / shape).log())
    yield built(dist.NegativeBinomial, total_count=shape, probs=mean / (mean + shape))
    yield built(lambda logits: dist.Binomial(trials, logits=logits), logits=logits)
    yield built(lambda probs: dist.Binomial(trials, probs=probs), probs=logits.sigmoid())
    yield built(dist.GammaPoisson, concentration=shape, rate=shape / mean)
    yield built(
        lambda **p: dist.BetaBinomial(**p, total_count=trials),
        concentration1=shape,
        concentration0=shape + 1,
    )
    yield built(dist.ZeroInflatedPoisson, rate=mean, gate=gate)
    yield built(
        dist.ZeroInflatedNegativeBinomial,
        total_count=shape,
        logits=(mean / shape).log(),
        gate_logits=gate,
    )
    yield built(lambda logits: dist.Multinomial(total, logits=logits), logits=mean.log())
    yield built(lambda probs: dist.Multinomial(total, probs=probs), probs=mean)
    yield built(lambda c: dist.DirichletMultinomial(c, x.sum().to(c)), c=shape)
    yield built(
        lambda logits, rate: dist.MixtureSameFamily(
            dist.Categorical(logits=logits), dist.Poisson(rate)
        ),
        logits=logits,
        rate=pair,
    )


@pytest.mark.parametrize("size", COUNTS)
def test_counts_are_as_in_float64(size):
    for narrow, wide, x in _cases(size):
        assert cancels(narrow), narrow
        density, exact = log_prob(_site(narrow, x)), wide.log_prob(x.double())
        # Of probabilities that are normalized each has been rounded to float32.
        torch.testing.assert_close(density, exact, rtol=1e-9, atol=1e-5 if size < 1e6 else 1e-3)


@pytest.mark.parametrize("size", COUNTS[1:])
def test_gamma_functions_are_as_in_float64(size):
    size = torch.tensor([size])
    half = torch.tensor([0.5])
    pairs = [
        (dist.Gamma(size, half), 2 * size),
        (dist.InverseGamma(size, half), half / size),
        (dist.Beta(size, 2 * size), torch.tensor([0.33333])),
        (dist.Dirichlet(torch.cat([size, 2 * size])), torch.tensor([0.33333, 0.66667])),
        (dist.StudentT(size, half, half), torch.tensor([0.9])),
        (dist.Gamma(size, half).to_event(1), 2 * size),
    ]
    for fn, x in pairs:
        assert cancels(fn)
        assert log_prob(_site(fn, x)).dtype == torch.float64
    a, b, x = size.double(), half.double(), 2 * size.double()
    exact = a * b.log() - a.lgamma() + (a - 1) * x.log() - b * x
    torch.testing.assert_close(log_prob(_site(*pairs[0])), exact, rtol=1e-12, atol=1e-9)


def test_others_are_as_they_are():
    x, p = torch.tensor([0.0, 1.0]), torch.tensor([0.2, 0.7])
    others = [
        dist.Normal(p, 1.0),
        dist.Bernoulli(p),
        dist.Categorical(p),
        dist.Independent(dist.Categorical(p.expand(2, 2)), 1),
        dist.OneHotCategorical(p),
        dist.LogNormal(p, 1.0),
    ]
    for fn in others:
        assert not cancels(fn)
    assert log_prob(_site(others[0], x)).dtype == torch.float32


def test_a_copy_leaves_the_original():
    fn = dist.Binomial(10, probs=torch.tensor([0.3]))
    assert fn.logits.dtype == torch.float32  # torch keeps it
    copy = in_double(dist.Independent(fn, 1))
    assert "logits" not in vars(copy.base_dist)
    assert (fn.probs.dtype, fn.logits.dtype) == (torch.float32, torch.float32)
    assert copy.base_dist.logits.item() == pytest.approx(
        torch.tensor([0.3]).double().logit().item(), rel=1e-12
    )


class _Lookup(dist.TorchDistribution):
    """Counts, through a network of float32, which takes no other type."""

    arg_constraints: ClassVar = {}
    support = dist.constraints.nonnegative_integer

    def __init__(self, network):
        self.network = network
        super().__init__()

    def log_prob(self, value):
        return self.network(value[..., None])[..., 0]


def test_a_distribution_that_cannot_be_cast_is_as_before():
    fn, x = _Lookup(torch.nn.Linear(1, 1)), torch.tensor([3.0, 4.0])
    torch.testing.assert_close(log_prob(_site(fn, x)), fn.log_prob(x), rtol=0, atol=0)


class _Counts(torch.nn.Module):
    """Poisson counts at a learned rate."""

    def __init__(self, kind=dist.Poisson):
        super().__init__()
        self.raw, self.kind = torch.nn.Parameter(torch.tensor(13.8)), kind

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", self.kind((self.raw + 1e-3 * z).exp()), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def test_fit_says_where_float32_loses_the_elbo():
    x = torch.tensor([1e6, 1.001e6, 0.999e6])
    with pytest.warns(pv.PyroVAEWarning, match=r"'x' is Poisson of counts up to 1e\+06.*ELBO of"):
        pv.fit(_Counts(), x, epochs=1, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.fit(_Counts(masses.Poisson), x, epochs=1, device="cpu")
        pv.fit(_Counts(), x / 1e3, epochs=1, device="cpu")
        pv.fit(_Counts().double(), x.double(), epochs=1, device="cpu")
