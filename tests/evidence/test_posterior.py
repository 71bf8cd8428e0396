"""Draws of p(z|x): what is drawn is the posterior, whatever the guide."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import LinearGaussian

import pyro_vae as pv
from pyro_vae.evidence.resampling import picked, resampled

DRAWS = 400


def _in_errors(draws, lg, ess):
    """Deviations of means and of second moments from those of N(m, C), in standard errors.

    The mean of so many draws, resampled from as many as the effective sample size, has variance
    C (1 / draws + 1 / ess) at most; a centred square of a normal has twice its squared variance.
    """
    exact = lg.posterior(lg.x)
    centred = draws - exact.loc
    variance = lg.covariance.diagonal()
    error = (1 / len(draws) + 1 / ess)[:, None].sqrt()
    means = centred.mean(0) / (variance.sqrt() * error)
    squares = (centred.square().mean(0) / variance - 1) / (math.sqrt(2) * error)
    return means, squares


@pytest.mark.parametrize(
    ("guide", "method"),
    [
        ("guide", "guide"),
        ("wide_guide", "guide"),
        ("narrow_guide", "auto"),
        ("prior_guide", "auto"),
        ("prior_guide", "annealed"),
    ],
)
def test_draws_have_the_posteriors_moments(guide, method):
    """Also of a wrong guide, which the weights mend: 66 deviations within 4 standard errors."""
    lg = LinearGaussian()

    def narrow_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", lg.posterior(x, widen=0.5))

    given = narrow_guide if guide == "narrow_guide" else getattr(lg, guide)
    annealing = pv.Annealing(chains=DRAWS) if method == "annealed" else None
    draws = pv.sample_posterior(
        lg.model, given, lg.x, DRAWS, method=method, samples=4000, annealing=annealing
    )
    assert draws["z"].shape == (DRAWS, 11, 3)
    assert len(draws) == DRAWS
    assert draws.verdicts() == ["trusted"] * 11
    means, squares = _in_errors(draws["z"], lg, draws.ess)
    assert means.abs().max() < 4
    assert squares.abs().max() < 4
    assert means.square().mean() > 0.2  # errors are not overstated

    offdiagonal = (draws["z"] - lg.posterior(lg.x).loc).flatten(0, 1).T.cov() - lg.covariance
    assert offdiagonal.abs().max() < 5 * lg.covariance.max() / math.sqrt(11 * DRAWS)


def test_ends_of_short_chains_are_weighted(no_unreliable_warning):
    """Three temperatures from the prior leave the ends far from the posterior."""
    lg = LinearGaussian(latent_dim=1, event_dim=1, scale=0.5)
    annealing = pv.Annealing(chains=4000, temperatures=3, start="prior")
    draws = pv.sample_posterior(
        lg.model, lg.guide, lg.x, DRAWS, method="annealed", samples=4000, annealing=annealing
    )
    assert draws.ess.median() < 3000
    means, squares = _in_errors(draws["z"], lg, draws.ess)
    assert means.abs().max() < 4
    assert squares.abs().max() < 4


def test_the_guides_own_draws_would_fail():
    lg = LinearGaussian()
    draws = lg.posterior(lg.x, widen=1.3).sample((DRAWS,))
    assert _in_errors(draws, lg, torch.full((11,), 4000.0))[1].max() > 8


def test_equal_weights_repeat_no_draw():
    lg = LinearGaussian()
    draws = pv.sample_posterior(lg.model, lg.guide, lg.x, 100, method="guide", samples=100)
    assert len(draws["z"][:, 0].unique(dim=0)) == 100
    order = (draws["z"][:50, :, 0].mean(0) - draws["z"][50:, :, 0].mean(0)).abs()
    assert order.max() < 4 * lg.covariance.max().sqrt() * math.sqrt(2 / 50)


def test_resampling_is_in_proportion_to_the_weights():
    """Each draw as often as expected, up to one."""
    log_weights = torch.randn(60, 5).double() * 3
    which = resampled(log_weights, 1000)
    counts = torch.stack([column.bincount(minlength=60) for column in which.T], 1)
    assert (counts - 1000 * log_weights.softmax(0)).abs().max() < 1
    assert (which[:500] - which[500:]).sign().double().mean() == pytest.approx(0.0, abs=0.08)
    assert resampled(torch.full((4, 2), -math.inf).double(), 8).unique().tolist() == [0, 1, 2, 3]


def test_draws_are_picked_from_every_part_whatever_the_axis():
    values = torch.arange(2 * 10 * 3).reshape(10, 2, 3)  # draws, an inner plate, data
    parts = [(0, {"z": values[:4]}), (4, {"z": values[4:]})]
    which = torch.tensor([[0, 3, 9], [5, 4, 9]])
    taken = picked(parts, which, 2)["z"]
    assert taken.shape == (2, 2, 3)
    for m in range(2):
        for n in range(3):
            assert torch.equal(taken[m, :, n], values[which[m, n], :, n])


def test_draws_depend_on_the_seed_alone(linear_gaussian):
    given = (linear_gaussian.model, linear_gaussian.wide_guide, linear_gaussian.x)
    one = pv.sample_posterior(*given, 50, samples=200, chunk=7)
    two = pv.sample_posterior(*given, 50, samples=200)
    other = pv.sample_posterior(*given, 50, samples=200, seed=1)
    assert torch.equal(one["z"], two["z"])
    assert not torch.equal(one["z"], other["z"])
    plain = pv.log_evidence(*given, samples=200, method="auto")
    torch.testing.assert_close(plain.log_px, one.evidence.log_px)


def test_doubtful_weights_warn():
    lg = LinearGaussian(scale=0.02)
    with pytest.warns(pv.UnreliableEvidence, match="method='auto'"):
        draws = pv.sample_posterior(lg.model, lg.prior_guide, lg.x, 10, method="guide", samples=100)
    assert all(verdict.startswith("doubtful") for verdict in draws.verdicts())
    assert "doubtful" in str(draws)
    assert draws.ess.max() < 25


@pytest.mark.search
@pytest.mark.parametrize("method", ["guide", "auto"])
def test_both_modes_are_drawn_or_the_miss_is_told(method):
    x = torch.linspace(1.5, 3.0, 8).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Laplace(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z.abs(), 0.2), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.22))

    if method == "guide":
        with pytest.warns(pv.UnreliableEvidence, match="misses"):
            draws = pv.sample_posterior(model, guide, x, 200, method=method)
        assert (draws["z"] > 0).all()
    else:
        draws = pv.sample_posterior(model, guide, x, 200)
        share = (draws["z"] > 0).double().mean(0)
        assert (share - 0.5).abs().max() < 4 * 0.5 * math.sqrt(1 / 200 + 1 / draws.ess.min())


def test_inner_plates_discrete_latents_and_masks(no_unreliable_warning):
    """Exact by Bayes' rule. (Weights of nine values look heavy-tailed to a fit of the tail.)"""
    places, items = torch.tensor([-2.0, 0.0, 2.0]).double(), 2

    def model(x):
        with pyro.plate("data", len(x)), pyro.plate("items", items):
            c = pyro.sample("c", dist.Categorical(torch.full((3,), 1 / 3).double()))
            pyro.sample("x", dist.Normal(places[c], 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x)), pyro.plate("items", items):
            pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.3, 0.2]).double()))

    x = torch.tensor([[-1.0, 0.5], [1.0, 0.2], [0.0, -0.7]]).double()
    mask = torch.tensor([True, False])
    for seen in (None, mask):
        draws = pv.sample_posterior(model, guide, x, DRAWS, method="guide", samples=2000, mask=seen)
        # the data plate is at dimension -1, the items' at -2
        assert draws["c"].shape == (DRAWS, 3, items)
        log_p = dist.Normal(places, 1.0).log_prob(x[..., None])
        if seen is not None:
            log_p = log_p * seen[:, None]
        exact = log_p.softmax(-1)
        share = torch.stack([(draws["c"] == k).double().mean(0) for k in range(3)], -1)
        error = (exact * (1 - exact) * (1 / DRAWS + 1 / draws.ess.min())).sqrt()
        assert ((share - exact) / error).abs().max() < 4


@pytest.mark.parametrize("n", [0, 101, 2.5])
def test_a_wrong_number_of_draws_is_refused(n, linear_gaussian):
    lg = linear_gaussian
    with pytest.raises(ValueError, match="from 1 to samples=100"):
        pv.sample_posterior(lg.model, lg.guide, lg.x, n, samples=100)
