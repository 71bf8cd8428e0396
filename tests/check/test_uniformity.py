"""Tests of uniformity: exact probabilities, and the level that is promised."""

import math

import pytest
import torch
from scipy import stats

from pyro_vae.check import Uniformity
from pyro_vae.check.uniformity import binomial_cdf


def test_binomial_cdf_is_scipys():
    p = torch.tensor([0.01, 0.5, 0.97])
    found = binomial_cdf(400, p)
    expected = stats.binom.cdf(range(401), 400, p.double().numpy()[:, None])
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("number", [50, 300])
def test_uniform_numbers_have_uniform_p_values(number):
    """Of 2,000 sets: shares below a level within 4 standard errors, bands hold as often."""
    test = Uniformity.of(number)
    ranks = torch.rand(number, 2000, dtype=torch.float64)
    p = test.p_values(ranks)
    for level in (0.01, 0.05, 0.2, 0.5):
        error = math.sqrt(level * (1 - level) / 2000)
        assert (p <= level).double().mean() == pytest.approx(level, abs=4 * error + 1e-3)
    below = (ranks[:, None] <= test.grid[:, None]).double().mean(0)
    for level in (0.8, 0.95, 0.999):
        low, high = test.band(level)
        inside = ((below >= low[:, None] - 1e-12) & (below <= high[:, None] + 1e-12)).all(0)
        assert torch.equal(inside, p >= 1 - level - 1e-12)
        assert (low <= test.grid).all()
        assert (high >= test.grid).all()


def test_no_band_is_wider_than_all():
    low, high = Uniformity.of(80).band(1 - 1e-9)
    assert low.max() == 0
    assert high.min() == 1


@pytest.mark.parametrize(("a", "b"), [(1.5, 1.5), (0.7, 0.7), (1.3, 1.0)])
def test_other_numbers_are_seen(a, b):
    ranks = torch.distributions.Beta(a, b).sample((500, 4))
    assert Uniformity.of(500).p_values(ranks).max() < 0.01


def test_a_few_at_the_edges_are_seen():
    """Where a test of the greatest distance (Kolmogorov's) has no power."""
    ranks = torch.rand(500, 1, dtype=torch.float64)
    ranks[:25] = 0.001
    assert Uniformity.of(500).p_values(ranks) < 0.002


def test_no_numbers_are_refused():
    with pytest.raises(ValueError, match="at least one number"):
        Uniformity.of(0)
