"""Simulation-based calibration: right guides pass, wrong ones are seen, and weights mend them.

That right draws are inside their bands holds for 95 % of the seeds; seed 2 is one of them.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import LinearGaussian

import pyro_vae as pv

SIMULATIONS = 400


@pytest.fixture(scope="module")
def lg():
    return LinearGaussian(latent_dim=2, n=60)


def _wrong(lg, kind):
    """Guides that are half as wide, twice as wide, shifted, or the prior."""

    def guide(x):
        with pyro.plate("data", len(x)):
            if kind == "prior":
                pyro.sample("z", lg.prior())
                return
            q = lg.posterior(x, widen={"narrow": 0.5, "wide": 2.0}.get(kind, 1.0))
            shift = 0.8 * lg.covariance.diagonal().sqrt() if kind == "shifted" else 0.0
            pyro.sample("z", dist.MultivariateNormal(q.loc + shift, scale_tril=q.scale_tril))

    return guide


def test_the_exact_posterior_is_calibrated(lg):
    options = {"simulations": SIMULATIONS, "method": "guide", "seed": 2}
    found = pv.check.calibration(lg.model, lg.guide, lg.x, **options)
    assert found.names == ("z[0]", "z[1]", "log p(x|z)")
    assert found.guide.shape == found.weighted.shape == (SIMULATIONS, 3)
    assert all(inside.all() for inside in found.inside())
    assert found.verdict == "calibrated: guide 3 of 3, weighted draws 3 of 3"
    assert found.share_doubtful == 0
    for shares in found.coverage(torch.tensor([0.2, 0.5, 0.9])):
        levels = torch.tensor([[0.2], [0.5], [0.9]]).double()
        error = (levels * (1 - levels) / SIMULATIONS).sqrt()
        assert ((shares - levels) / error).abs().max() < 4
    assert len(found) == SIMULATIONS


@pytest.mark.parametrize("kind", ["narrow", "wide", "shifted"])
def test_a_wrong_guide_is_seen_and_mended(lg, kind):
    found = pv.check.calibration(lg.model, _wrong(lg, kind), lg.x, simulations=SIMULATIONS, seed=2)
    before, after = found.inside()
    assert not before.any()
    assert after.all()
    at_half, mended = (share[0] for share in found.coverage(torch.tensor([0.5])))
    # of a normal of half or double the scale, in closed form; the median of two is not the truth's
    expected = {
        "narrow": 0.2641,
        "wide": 0.8226,
        "shifted": torch.distributions.Normal(0.0, 1.0)
        .cdf(torch.tensor([0.6745 + 0.8, -0.6745 + 0.8]))
        .diff()
        .abs()
        .item(),
    }[kind]
    error = math.sqrt(0.25 / SIMULATIONS)
    # of 63 draws the quantiles are known up to so much
    assert at_half[:2].tolist() == pytest.approx([expected] * 2, abs=4 * error)
    assert mended.tolist() == pytest.approx([0.5] * 3, abs=4 * error)
    rows = str(found).splitlines()
    assert "!" in rows[2]
    assert found.summary()["dimensions"]["z[0]"]["inside_weighted"]
    assert not found.summary()["dimensions"]["z[0]"]["inside_guide"]


@pytest.mark.slow
def test_a_guide_that_ignores_the_data_is_seen_by_the_likelihood_alone(lg):
    given = (lg.model, _wrong(lg, "prior"), lg.x)
    found = pv.check.calibration(*given, simulations=SIMULATIONS, seed=2)
    before, after = found.inside()
    assert before.tolist() == [True, True, False]
    assert after.all()


def test_doubtful_weights_are_counted(lg):
    given = (lg.model, _wrong(lg, "narrow"), lg.x)
    found = pv.check.calibration(*given, simulations=100, method="guide", samples=200)
    assert found.share_doubtful > 0.2
    assert "weights to doubt" in str(found)


def test_discrete_latents_inner_plates_and_scalars():
    """Ties are broken by chance, so that ranks of two values are uniform, too."""
    places = torch.tensor([-1.0, 1.0]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Normal(torch.zeros(()).double(), 1.0))
            with pyro.plate("items", 2):
                c = pyro.sample("c", dist.Categorical(torch.ones(2).double() / 2))
                pyro.sample("x", dist.Normal(places[c] + s, 0.8), obs=x.T)

    def guide(x, factor=1.0):
        """The prior of s, and c exactly, given it."""
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Normal(torch.zeros(()).double(), 1.0))
            with pyro.plate("items", 2):
                logits = dist.Normal(places + s[..., None, :, None], 0.8).log_prob(x.T[..., None])
                pyro.sample("c", dist.Categorical(logits=factor * logits))

    x = torch.zeros(50, 2).double()
    options = {"simulations": 300, "method": "guide", "samples": 2000, "seed": 2}
    found = pv.check.calibration(model, guide, x, **options)
    assert found.names == ("s", "c[0]", "c[1]", "log p(x|z)")
    assert found.inside()[1].all()
    assert not found.inside()[0][-1]


def test_ranks_depend_on_the_seed_alone(lg):
    given = (lg.model, lg.wide_guide, lg.x)
    state = torch.get_rng_state()
    one, two, other = (
        pv.check.calibration(*given, simulations=50, samples=100, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.weighted, two.weighted)
    assert not torch.equal(one.guide, other.guide)
    again = pv.check.calibration(lg.model, lg.wide_guide, lg.x[:20], simulations=50, samples=100)
    assert len(again) == 50  # more than there are data
    assert len(again.guide[:, 0].unique()) == 50


def test_wrong_input_is_refused(lg):
    given = (lg.model, lg.guide, lg.x)
    for options, message in (
        ({"simulations": 10}, "at least 50"),
        ({"draws": 0}, "from 1 to samples"),
        ({"draws": 200, "samples": 100}, "from 1 to samples=100"),
        ({"level": 1.0}, "between 0 and 1"),
        ({"method": "best"}, "method"),
    ):
        with pytest.raises(ValueError, match=message):
            pv.check.calibration(*given, **options)
