"""Predictive checks: replicates in closed form, right models pass and wrong ones are seen."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import LinearGaussian
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.check.statistics import kind_of, told_apart
from pyro_vae.evidence.posterior import sample_posterior
from pyro_vae.programs.evaluation import evaluating

WEIGHTS = torch.tensor([0.3, -0.2, 0.2, 0.1]).double()


def poisson(x):
    """Counts of a rate that one latent moves a little."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        rate = torch.exp(1 + z[..., None] * WEIGHTS)
        pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)


def near_prior(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.1))


def _counts(n, over=None):
    """Data of the model; or, of the same means, with a variance of more than Poisson's."""
    z = torch.randn(n, 1, dtype=torch.float64)
    rate = torch.exp(1 + z * WEIGHTS)
    return torch.poisson(rate if over is None else rate * dist.Gamma(over, over).sample(rate.shape))


@pytest.mark.parametrize("latents", ["posterior", "prior"])
def test_a_poisson_model_of_its_own_counts_passes(latents):
    x = _counts(300)
    found = pv.check.predictive(poisson, near_prior, x, latents=latents, replicates=300)
    assert found.verdict == "no misfit seen"
    assert found.kind == "counts"
    assert {check.name for check in found.checks} == {
        "mean",
        "variance",
        "share of zeros",
        "greatest value",
        "variance of datum means",
        "mean |correlation|",
        "told apart by a classifier",
    }
    for check in found.checks:
        assert check.replicated.shape == (300,)
        assert abs(check.observed - check.replicated.mean()) < 4 * check.replicated.std()


@pytest.mark.parametrize("latents", ["posterior", "prior"])
def test_overdispersed_counts_are_seen(latents):
    x = _counts(300, over=torch.tensor(2.0).double())
    found = pv.check.predictive(poisson, near_prior, x, latents=latents, replicates=300)
    assert {"variance", "share of zeros"} <= set(found.misfits())
    assert "mean" not in found.misfits()
    assert found["variance"].observed > found["variance"].replicated.max()
    assert found["variance"].p_value == pytest.approx(2 / 301)
    assert "misfit" in str(found)
    assert found.summary()["statistics"]["variance"]["p_value"] == found["variance"].p_value


@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("transposed", [False, True])
def test_replicates_have_the_moments_of_posterior_and_likelihood(vectorized, transposed):
    """x' given x of a linear model is N(W m + b, W C W' + s^2), whatever the guide."""
    lg = LinearGaussian(n=6)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", lg.prior())
            if not vectorized and z.dim() > 2:
                raise ValueError("no samples in a dimension of their own")
            pyro.sample("x", lg.likelihood(z), obs=x[..., 0, :] if transposed else x)

    x = lg.x[:, None] if transposed else lg.x

    def guide(x):
        lg.wide_guide(x[..., 0, :] if transposed else x)

    draws = sample_posterior(model, guide, x, 4000, method="guide", samples=8000)
    with evaluating(model, guide, x) as evaluation:
        assert evaluation.pair.vectorized == vectorized
        block = next(evaluation.blocks())
        (new,) = evaluation.pair.replicate(block.batch, 4000, draws.values)
    assert new.shape == (4000, *x.shape)
    new = new.reshape(4000, 6, 5)
    mean = lg.posterior(lg.x).loc @ lg.weight.T + lg.bias
    covariance = lg.weight @ lg.covariance @ lg.weight.T + lg.scale**2 * torch.eye(5).double()
    error = covariance.diagonal().sqrt() * (1 / 4000 + 1 / draws.ess.min()).sqrt()
    assert ((new.mean(0) - mean) / error).abs().max() < 4
    centred = (new - mean).flatten(0, 1)
    found = centred.T @ centred / len(centred)
    assert (found - covariance).abs().max() < 5 * covariance.max() * math.sqrt(2 / len(centred))


def test_replicates_of_the_prior_have_uniform_p_values():
    """Over 60 data sets the mean of a two-sided p-value is 1/2, its variance 1/12."""
    values = []
    for seed in range(60):
        x = _counts(30)
        found = pv.check.predictive(
            poisson,
            near_prior,
            x,
            {"mean": lambda x: x.mean(), "zeros": lambda x: (x == 0).double().mean()},
            latents="prior",
            replicates=39,
            classifier=False,
            seed=seed,
        )
        values.append([check.p_value for check in found.checks])
    mean = torch.tensor(values).mean(0)
    assert ((mean - 0.5) / math.sqrt(1 / 12 / 60)).abs().max() < 4
    assert torch.tensor(values)[:, 0].std() == pytest.approx(math.sqrt(1 / 12), rel=0.3)


def test_the_prior_sees_a_shift_that_the_posterior_follows():
    """Latents can move to wherever the data are; draws of the prior cannot."""
    lg = LinearGaussian(n=200)
    x = lg.x + 3 * lg.weight[:, 0]
    given = (lg.model, lg.guide, x, {"mean": lambda x: x[:, 0].mean()})
    options = {"replicates": 200, "classifier": False}
    assert pv.check.predictive(*given, latents="prior", **options).misfits() == ["mean"]
    posterior = pv.check.predictive(*given, **options)["mean"]
    prior = pv.check.predictive(*given, latents="prior", **options)["mean"]
    shift = [abs(c.observed - c.replicated.mean()) for c in (posterior, prior)]
    assert shift[0] < 0.4 * shift[1]


def test_statistics_of_ones_own_get_the_data_as_they_are():
    seen = []

    def shape(x):
        seen.append(x.shape)
        return x[:, 0, 1].max().item()

    vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))
    x = pv.load("digits").test.x[:30]
    found = pv.check.predictive(vae.model, vae.guide, x, {"corner": shape}, replicates=20)
    assert set(seen) == {(30, 8, 8)}
    assert len(seen) == 21
    assert found.kind == "binary"
    assert [check.name for check in found.checks] == ["corner", "told apart by a classifier"]
    assert found["told apart by a classifier"].p_value < 0.01  # it was not trained
    with pytest.raises(KeyError, match="there are"):
        found["edge"]


@pytest.mark.parametrize(
    ("support", "kind"),
    [
        (dist.Bernoulli(0.5).support, "binary"),
        (dist.Bernoulli(torch.zeros(3)).to_event(1).support, "binary"),
        (dist.Poisson(1.0).support, "counts"),
        (dist.Binomial(16, torch.zeros(3)).to_event(1).support, "counts"),
        (dist.Normal(0.0, 1.0).support, "real"),
        (constraints.unit_interval, "real"),
        (dist.Gamma(1.0, 1.0).support, "positive"),
        (dist.LogNormal(torch.zeros(3), 1.0).to_event(1).support, "positive"),
        (constraints.simplex, "real"),
        (None, "real"),
    ],
)
def test_kind_is_read_from_the_support(support, kind):
    assert kind_of(support, torch.zeros(4, 3)) == kind


def test_default_statistics_in_closed_form():
    x = torch.randn(50, 2, 3).double() @ torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 2, 3]]).double()
    x[:, 0, 0] = 4.0  # a dimension without variance
    flat = x.reshape(50, 6).numpy()
    found = {n: f(x).item() for n, f in pv.check.default_statistics("real", dimensions=6).items()}
    correlations = np.abs(np.corrcoef(flat[:, 1:], rowvar=False))
    assert found == {
        "mean": pytest.approx(flat.mean()),
        "variance": pytest.approx(flat.var(0, ddof=1).mean()),
        "least value": flat.min(),
        "greatest value": flat.max(),
        "variance of datum means": pytest.approx(flat.mean(1).var(ddof=1)),
        "mean |correlation|": pytest.approx((correlations.sum() - 5) / 30),
    }
    assert list(pv.check.default_statistics("positive", dimensions=1)) == [
        "mean",
        "variance",
        "least value",
        "greatest value",
    ]
    with pytest.raises(ValueError, match="binary"):
        pv.check.default_statistics("colours")


def test_a_classifier_tells_apart_what_differs_and_nothing_else():
    """Under equal distributions 40 p-values are uniform, though datum and replicate go together."""
    p = []
    for seed in range(40):
        shared = torch.randn(60, 3)
        pair = shared + torch.randn(2, 60, 3)
        p.append(told_apart(*pair, seed=seed)[1])
    assert np.mean(p) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 40) + 0.05)
    assert min(p) > 1e-4
    x = torch.randn(300, 3)
    pairs = [(x, torch.randn(300, 3) + 0.7), (x, 2 * torch.randn(300, 3))]  # of mean, of variance
    pairs += [(x[:, :1], 3 * torch.randn(300, 1))]
    for one, other in pairs:
        share, p_value = told_apart(one, other)
        assert share > 0.6
        assert p_value < 1e-3


def test_p_value_of_the_classifier_is_binomial():
    from scipy import stats

    x = torch.randn(40, 2)
    share, p = told_apart(x, torch.randn(40, 2))
    assert p == pytest.approx(stats.binom.sf(round(40 * share) - 1, 40, 0.5), abs=1e-9)


def _summed(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample(
            "c", dist.Categorical(torch.ones(2).double() / 2), infer={"enumerate": "parallel"}
        )
        z = pyro.sample("z", dist.Normal(4.0 * c - 2, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _near(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0))


def test_latents_that_are_summed_out_have_draws_of_the_prior_only():
    x = 4.0 * torch.randint(0, 2, (100,)) - 2 + math.sqrt(2) * torch.randn(100).double()
    with pytest.raises(ValueError, match="'c' are summed out"):
        pv.check.predictive(_summed, _near, x)
    found = pv.check.predictive(_summed, _near, x, latents="prior", replicates=200)
    assert found.verdict == "no misfit seen"
    assert found["variance"].replicated.mean() == pytest.approx(6, abs=0.5)  # 4 + 1 + 1


def test_too_few_replicates_are_no_verdict(linear_gaussian):
    lg = linear_gaussian
    x = 3 * lg.x
    few = pv.check.predictive(lg.model, lg.guide, x, latents="prior", replicates=100)
    chosen = [check for check in few.checks if "apart" not in check.name]
    assert min(check.p_value for check in chosen) == pytest.approx(2 / 101)
    one = {"variance": lambda x: x.var()}
    options = {"latents": "prior", "replicates": 39, "classifier": False}
    assert pv.check.predictive(lg.model, lg.guide, x, one, **options).verdict == "misfit: variance"
    options["replicates"] = 38
    found = pv.check.predictive(lg.model, lg.guide, x, one, **options)
    assert found.verdict == "too few replicates to see misfit: take 39 for 1 tests"


def test_other_arguments_keep_their_values():
    """The first argument that is observed is replicated; labels are compared, and stay."""

    def model(y, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            shift = (y == torch.arange(3, device=y.device)[:, None]).double().mul(10.0)
            pyro.sample("x", dist.Normal(z + shift[1], 1.0), obs=x)

    def guide(y, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))

    y = torch.tensor([0, 1]).repeat(20)
    x = 10.0 * y + math.sqrt(2) * torch.randn(40).double()
    spread = {"spread": lambda x: x[1::2].mean() - x[::2].mean()}
    options = {"latents": "prior", "replicates": 100}
    found = pv.check.predictive(model, guide, (y, x), spread, **options)["spread"]
    assert found.replicated.mean() == pytest.approx(10, abs=4 * 2 / math.sqrt(20 * 100))
    assert found.p_value > 0.01


def test_wrong_input_is_refused(linear_gaussian):
    lg = linear_gaussian
    given = (lg.model, lg.guide, lg.x)
    with pytest.raises(ValueError, match="at least 20"):
        pv.check.predictive(*given, replicates=5)
    with pytest.raises(ValueError, match="prior"):
        pv.check.predictive(*given, latents="guide")
    with pytest.raises(ValueError, match=r"'wide' must give one finite number.*shape \(5,\)"):
        pv.check.predictive(*given, {"wide": lambda x: x.mean(0)}, latents="prior")
    with pytest.raises(ValueError, match="got nan"):
        pv.check.predictive(*given, {"nan": lambda x: math.nan}, latents="prior")
    with pytest.raises(ValueError, match="at least 2 data"):
        pv.check.predictive(lg.model, lg.guide, lg.x[:1], latents="prior")


def test_doubtful_draws_are_told():
    lg = LinearGaussian(scale=0.02)
    with pytest.warns(pv.UnreliableEvidence):
        found = pv.check.predictive(
            lg.model, lg.prior_guide, lg.x, method="guide", samples=50, replicates=20
        )
    assert found.share_doubtful == 1
    assert "100% of the data are to doubt" in str(found)


def test_bits_in_the_data_and_not_in_their_replicates():
    """Features are of both sets together: squares count where either has other values than bits."""
    bits, reals = torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([[0.2], [0.7], [0.4]])
    for one, other in ((bits, reals), (reals, bits)):
        share, p_value = told_apart(one, other)
        assert 0 <= share <= 1
        assert 0 <= p_value <= 1
