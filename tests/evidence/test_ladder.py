"""log_evidence under every method, target errors and masks."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import LinearGaussian

import pyro_vae as pv

_METHODS = ["guide", "refined", "laplace", "annealed", "auto"]


@pytest.fixture(scope="module")
def wrong():
    """Ten latents and a guide of the wrong scale."""
    return LinearGaussian(latent_dim=10, event_dim=12, n=100, scale=0.8, seed=3)


def _narrow(lg, factor):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", lg.posterior(x, widen=factor))

    return guide


@pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
@pytest.mark.parametrize("method", _METHODS)
def test_every_method_finds_the_exact_value(wrong, method):
    """A guide half as wide again: 100 deviations in standard errors, none beyond 4.5."""
    guide = _narrow(wrong, 1.5)
    result = pv.log_evidence(wrong.model, guide, wrong.x, samples=4000, method=method, seed=1)
    z = (result.log_px - wrong.log_px) / result.standard_error
    if method == "refined":  # no diagonal normal covers this posterior: low, and k̂ says so
        assert result.share_unreliable() > 0.5
        assert z.max() < 4.5
    else:
        assert z.abs().max() < 4.5
        assert 0.6 < z.square().mean().sqrt() < 1.4
    if method != "auto":
        assert result.rungs() == {method: 100}


def test_auto_climbs_past_a_bad_guide(wrong):
    """Far too narrow: the guide's own estimate is low beyond its error, auto's is right."""
    guide = _narrow(wrong, 0.5)
    with pytest.warns(pv.UnreliableEvidence, match="method='auto'"):
        plain = pv.log_evidence(wrong.model, guide, wrong.x, samples=1000)
    assert (plain.log_px - wrong.log_px).mean() < -0.5
    auto = pv.log_evidence(wrong.model, guide, wrong.x, samples=1000, method="auto")
    assert set(auto.rungs()) == {"laplace"}
    assert (auto.log_px - wrong.log_px).abs().max() < 0.1
    # the ELBO reported is the guide's, whatever the proposal: log p - KL in closed form
    kl = 10 * (math.log(1 / 0.5) + (0.5**2 - 1) / 2)
    error = auto.elbo.std() / math.sqrt(500)
    assert (auto.elbo - wrong.log_px).mean().item() == pytest.approx(-kl, abs=4 * error.item())


def test_auto_stays_with_a_good_guide(wrong):
    given = (wrong.model, wrong.guide, wrong.x)
    result = pv.log_evidence(*given, samples=50, method="auto", defensive=0.0)
    assert result.rungs() == {"guide": 100}
    torch.testing.assert_close(result.log_px, wrong.log_px, rtol=1e-10, atol=1e-10)
    result = pv.log_evidence(*given, samples=50, method="auto")  # a tenth from the prior
    assert result.rungs() == {"guide": 100}
    # the control variate takes out what the prior's rare hits would add
    torch.testing.assert_close(result.log_px, wrong.log_px, rtol=0, atol=1e-8)
    assert result.standard_error.max() < 1e-6


@pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
@pytest.mark.parametrize("method", ["refined", "laplace", "annealed", "auto"])
def test_methods_do_not_depend_on_chunk_or_the_callers_random_state(wrong, method):
    guide = _narrow(wrong, 0.6)
    results = []
    for chunk in (7, 64):
        torch.manual_seed(chunk)
        state = torch.get_rng_state()
        results.append(
            pv.log_evidence(
                wrong.model, guide, wrong.x[:9], samples=130, method=method, chunk=chunk
            ).log_px
        )
        assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-11)


@pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
def test_hierarchical_constrained_program():
    """Two latents on the half line, one above the other: every method, one answer."""

    def model(x):
        with pyro.plate("data", len(x)):
            scale = pyro.sample("scale", dist.Gamma(3.0, 2.0))
            rate = pyro.sample("rate", dist.LogNormal(0.0, scale))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("scale", dist.Gamma(2.0, 1.0))
            pyro.sample("rate", dist.Gamma(x + 1, 1.2))

    x = torch.tensor([0.0, 1.0, 3.0, 8.0], dtype=torch.float64)
    estimates = {}
    for method in ("guide", "laplace", "annealed"):
        estimates[method] = pv.log_evidence(model, guide, x, samples=20_000, method=method)
    reference = estimates["guide"]
    for method in ("laplace", "annealed"):
        other = estimates[method]
        error = (reference.standard_error**2 + other.standard_error**2).sqrt()
        assert ((other.log_px - reference.log_px) / error).abs().max() < 4.5


def test_discrete_latent_wants_the_guide():
    """A mixture indicator: exact by summation; methods that need gradients refuse."""

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(2 * k, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=x - 1))

    x = torch.randn(20)
    result = pv.log_evidence(model, guide, x, samples=5000)
    normal = torch.distributions.Normal
    exact = torch.logaddexp(
        math.log(0.7) + normal(0.0, 1.0).log_prob(x), math.log(0.3) + normal(2.0, 1.0).log_prob(x)
    )
    assert ((result.log_px - exact) / result.standard_error).abs().max() < 4.5
    with pytest.raises(ValueError, match="'k' is discrete; use method='guide'"):
        pv.log_evidence(model, guide, x, method="laplace")


class TestTargets:
    def test_target_of_the_mean_is_met_with_fewer_draws_where_they_are_not_needed(self, wrong):
        """Widths that differ by datum: sizes differ, and the mean's error is below the target."""
        factor = torch.linspace(1.0, 1.4, 100, dtype=torch.float64).reshape(-1, 1, 1)

        def guide(x):
            rows = torch.arange(100)[[int((wrong.x == row).all(1).nonzero()[0]) for row in x]]
            posterior = wrong.posterior(x)
            tril = posterior.scale_tril * factor[rows]
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.MultivariateNormal(posterior.loc, scale_tril=tril))

        result = pv.log_evidence(wrong.model, guide, wrong.x, target_error=0.004)
        assert result.mean().mc_error < 0.004
        assert result.draws[:20].mean() < 0.5 * result.draws[-20:].mean()
        assert ((result.log_px - wrong.log_px) / result.standard_error.clamp_min(1e-9)).abs()[
            1:
        ].max() < 5

    def test_target_of_each_datum(self, wrong):
        guide = _narrow(wrong, 1.3)
        result = pv.log_evidence(wrong.model, guide, wrong.x, datum_error=0.03)
        assert (result.standard_error < 0.03).double().mean() > 0.95

    @pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
    def test_missed_target_says_what_was_reached(self, wrong):
        guide = _narrow(wrong, 1.4)
        with pytest.warns(pv.UnreliableEvidence, match=r"mean is 0\.0\d+ nats, above the target"):
            pv.log_evidence(wrong.model, guide, wrong.x, target_error=1e-5, max_samples=128)
        with pytest.raises(ValueError, match="target_error must be positive"):
            pv.log_evidence(wrong.model, guide, wrong.x, target_error=0.0)


class TestMask:
    @pytest.mark.parametrize("method", ["guide", "laplace"])
    def test_marginal_of_the_observed_values(self, method):
        """Half of the values missing at random: the exact marginal, within 4.5 errors."""
        lg = LinearGaussian(latent_dim=2, event_dim=6, n=40, scale=0.8, seed=6)
        generator = torch.Generator().manual_seed(0)
        mask = torch.rand(lg.x.shape, generator=generator) < 0.5
        mask[:, 0] = True
        marginal = lg.weight @ lg.weight.T + lg.scale**2 * torch.eye(6).double()
        exact = torch.stack(
            [
                torch.distributions.MultivariateNormal(lg.bias[m], marginal[m][:, m]).log_prob(
                    row[m]
                )
                for row, m in zip(lg.x, mask, strict=True)
            ]
        )
        x = lg.x.masked_fill(~mask, math.nan)
        result = pv.log_evidence(
            lg.model, lg.prior_guide, x, mask=mask, samples=20_000, method=method
        )
        z = (result.log_px - exact) / result.standard_error
        assert z.abs().max() < 4.5

    def test_full_mask_changes_nothing(self, linear_gaussian):
        lg = linear_gaussian
        whole = pv.log_evidence(lg.model, lg.wide_guide, lg.x, samples=20)
        masked = pv.log_evidence(
            lg.model, lg.wide_guide, lg.x, samples=20, mask=torch.ones_like(lg.x).bool()
        )
        torch.testing.assert_close(masked.log_px, whole.log_px, rtol=0, atol=1e-12)

    @pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
    def test_images_under_bernoulli(self, digits):
        vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))
        x = digits.test.x[:4]
        mask = torch.zeros(8, 8, dtype=torch.bool)
        mask[0, 0] = True
        result = pv.log_evidence(vae.model, vae.guide, x, mask=mask, samples=500)
        assert (result.log_px <= 0).all()
        assert (result.log_px > -3).all()  # one pixel

    def test_wrong_masks(self, linear_gaussian):
        lg = linear_gaussian
        with pytest.raises(ValueError, match="mask must be boolean"):
            pv.log_evidence(lg.model, lg.guide, lg.x, mask=torch.ones_like(lg.x))
        with pytest.raises(ValueError, match="mask must have the data's shape"):
            pv.log_evidence(lg.model, lg.guide, lg.x, mask=torch.ones(3).bool())
        with pytest.raises(ValueError, match="datum 0 has no observed value"):
            pv.log_evidence(lg.model, lg.guide, lg.x, mask=torch.zeros_like(lg.x).bool())
        bad = lg.x.clone()
        bad[0, 0] = math.nan
        with pytest.raises(ValueError, match="observed data hold NaN"):
            pv.log_evidence(lg.model, lg.guide, bad, mask=torch.ones_like(lg.x).bool())


def test_wrong_method(linear_gaussian):
    lg = linear_gaussian
    with pytest.raises(ValueError, match="unknown method 'laplac'"):
        pv.log_evidence(lg.model, lg.guide, lg.x, method="laplac")
    with pytest.raises(ValueError, match=r"defensive must be in \[0, 1\); got 1"):
        pv.log_evidence(lg.model, lg.guide, lg.x, defensive=1.0)


@pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
def test_defensive_share():
    """A fifth of prior draws: weights bounded, and the estimate right again."""
    lg = LinearGaussian(latent_dim=2, event_dim=2, n=30, scale=1.5, seed=1)
    plain = pv.log_evidence(lg.model, _narrow(lg, 0.4), lg.x, samples=5000)
    assert plain.share_unreliable() > 0.5
    result = pv.log_evidence(lg.model, _narrow(lg, 0.4), lg.x, samples=5000, defensive=0.2)
    assert ((result.log_px - lg.log_px) / result.standard_error).abs().max() < 4.5
    assert result.share_unreliable() <= 0.1  # k̂ itself is known to 0.1


def test_proposal_that_misses_the_posterior_says_so():
    """Weights that are all zero give -infinity and a warning, no NaN."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(2.0, 3.0))

    x = torch.rand(4)
    with pytest.warns(pv.UnreliableEvidence, match="every importance weight of 4 data .* is zero"):
        result = pv.log_evidence(model, guide, x, samples=50)
    assert (result.log_px == -math.inf).all()
    assert (result.ess == 0).all()
    assert (result.standard_error == math.inf).all()


def test_programs_without_gradient_are_named(linear_gaussian):
    lg = linear_gaussian

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            loc = z.detach().round() @ lg.weight.T
            pyro.sample("x", dist.Normal(loc, lg.scale).to_event(1), obs=x)

    with pytest.raises(ValueError, match="likelihood cannot be differentiated in the latents"):
        pv.log_evidence(model, lg.guide, lg.x, method="annealed")


@pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
@pytest.mark.parametrize("start", ["prior", pytest.param("guide", marks=pytest.mark.slow)])
def test_annealing_from_the_guide_or_the_prior(wrong, start):
    """Unbiased from any start: rms deviation of 30 data in standard errors, none beyond 4.5."""
    settings = pv.Annealing(temperatures=300, chains=128, start=start)
    guide, x = _narrow(wrong, 1.3), wrong.x[:30]
    result = pv.log_evidence(wrong.model, guide, x, method="annealed", annealing=settings)
    z = (result.log_px - wrong.log_px[:30]) / result.standard_error
    assert z.abs().max() < 4.5
    assert 0.6 < z.square().mean().sqrt() < 1.5
    with pytest.raises(ValueError, match="start must be laplace, guide or prior"):
        pv.Annealing(start="posterior")
