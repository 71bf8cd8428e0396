import math

import pytest
import scipy.stats
import torch
from torch.autograd import gradcheck

from pyro_vae.common.schema import Column, Schema
from pyro_vae.distributions.stacked import Stacked
from pyro_vae.distributions.unit import Beta, TruncatedNormal
from pyro_vae.likelihoods import columns

_DOUBLE = torch.float64


@pytest.mark.parametrize("logit", [-4.0, 0.3, 3.0])
@pytest.mark.parametrize("a", [1e-3, 0.2, 3.0])
def test_beta_is_scipys(logit, a):
    p = Beta(torch.tensor(logit, dtype=_DOUBLE), torch.tensor(a, dtype=_DOUBLE))
    m = 1 / (1 + math.exp(-logit))
    known = scipy.stats.beta((m + 1e-6) / a, (1 - m + 1e-6) / a)
    x = torch.tensor([1e-4, 0.1, 0.5, 0.97], dtype=_DOUBLE)
    torch.testing.assert_close(p.log_prob(x), torch.tensor(known.logpdf(x)), rtol=1e-9, atol=1e-9)
    assert p.mean.item() == pytest.approx(known.mean(), rel=1e-3)
    assert p.variance.item() == pytest.approx(known.var(), rel=2e-2)
    single = Beta(torch.tensor(logit), torch.tensor(a)).log_prob(x.float())
    torch.testing.assert_close(single.double(), p.log_prob(x), rtol=2e-4, atol=1e-3)


@pytest.mark.parametrize("loc", [-30.0, -0.2, 0.4, 0.7, 1.1, 25.0])
@pytest.mark.parametrize("scale", [0.05, 0.3, 5.0])
def test_truncated_normal_is_scipys(loc, scale):
    """Far outside, where scipy's moments fail, the density is that of an exponential."""
    p = TruncatedNormal(torch.tensor(loc, dtype=_DOUBLE), torch.tensor(scale, dtype=_DOUBLE))
    known = scipy.stats.truncnorm(-loc / scale, (1 - loc) / scale, loc, scale)
    x = torch.tensor([0.0, 0.03, 0.5, 0.999, 1.0], dtype=_DOUBLE)
    torch.testing.assert_close(p.log_prob(x), torch.tensor(known.logpdf(x)), rtol=1e-7, atol=1e-7)
    grid = (torch.arange(200_000, dtype=_DOUBLE) + 0.5) / 200_000
    density = p.log_prob(grid).exp() / 200_000
    near = abs(loc) < 2 or scale > 1
    if near:
        torch.testing.assert_close(density.sum(), torch.ones((), dtype=_DOUBLE), atol=1e-6, rtol=0)
        mean = (density * grid).sum()
        torch.testing.assert_close(p.mean, mean, rtol=0, atol=1e-6)
        variance = (density * (grid - mean) ** 2).sum()
        torch.testing.assert_close(p.variance, variance, rtol=1e-4, atol=1e-7)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            draws = p.sample((4000,))
        assert scipy.stats.kstest(draws.numpy(), known.cdf).pvalue > 1e-4
    else:
        assert 0 <= p.sample((10,)).min() <= p.sample((10,)).max() <= 1


def test_gradients_on_the_unit_interval():
    x = torch.tensor([0.1, 0.6, 0.95], dtype=_DOUBLE)
    loc = torch.tensor([-3.0, 0.4, 1.7], dtype=_DOUBLE, requires_grad=True)
    scale = torch.tensor([0.2, 0.5, 0.3], dtype=_DOUBLE, requires_grad=True)
    assert gradcheck(lambda f, s: TruncatedNormal(f, s).log_prob(x), (loc, scale))
    assert gradcheck(lambda f, s: Beta(f, s).log_prob(x), (loc, scale))


def test_beta_wants_values_inside():
    p = Beta(torch.zeros(()), torch.ones(()))
    assert p.support.check(torch.tensor([0.0, 0.5, 1.0])).tolist() == [False, True, False]


def test_stacked_values_of_several_families():
    schema = Schema(
        (
            Column(name="a", likelihood="normal", offset=5, scale=2),
            Column(name="b", likelihood="poisson"),
            Column(name="c", likelihood="normal", scale=0.1),
        )
    )
    likelihood = columns.Columns(lambda shape: torch.nn.Linear(1, *shape), (3,), schema=schema)
    p = likelihood(torch.zeros(4, 1)).base_dist
    assert isinstance(p, Stacked)
    assert p.batch_shape == p.mean.shape == p.variance.shape == p.sample().shape == (4, 3)
    assert p.expand((2, 4, 3)).sample((5,)).shape == (5, 2, 4, 3)
    x = torch.tensor([0.3, 2.0, torch.nan])
    assert p.support.check(x).all()
    assert p.support.check(torch.tensor([torch.inf, 1.5, 0.0])).tolist() == [False, False, True]
    log_prob = p.log_prob(x)
    assert (log_prob[:, 2] == 0).all()
    assert log_prob[:, :2].isfinite().all()
