"""Pyro's automatic guides on latents of single data: each datum's own normal."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, autoguide

import pyro_vae as pv

_W = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
_X = dist.MultivariateNormal(torch.zeros(5), _W.T @ _W + 0.25 * torch.eye(5))


def factor_analysis(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ _W, 0.5).to_event(1), obs=x)


@pytest.fixture
def x():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    return _X.sample((9,))


def trained(guide, model, *data, steps=150):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(steps):
        svi.step(*data)
    return guide


def normal_of_all(guide):
    """What the guide draws of all data, as one normal."""
    if isinstance(guide, autoguide.AutoNormal):
        loc, scale = guide._get_loc_and_scale("z")
        return loc.flatten(), scale.flatten().square().diag()
    posterior = guide.get_posterior()
    return posterior.mean, getattr(posterior, "covariance_matrix", posterior.variance.diag())


@pytest.mark.parametrize(
    "name",
    ["AutoNormal", "AutoDiagonalNormal", "AutoMultivariateNormal", "AutoLowRankMultivariateNormal"],
)
def test_marginals_are_those_of_the_joint_normal(name, x):
    guide = trained(getattr(autoguide, name)(factor_analysis), factor_analysis, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        evidence = pv.log_evidence(factor_analysis, guide, x, samples=4000)
    loc, covariance = (value.detach().double() for value in normal_of_all(guide))
    loc, covariance = loc.reshape(9, 2), covariance.reshape(9, 2, 9, 2)
    # The ELBO of a normal guide of a linear model, in closed form, from each datum's marginal.
    precision = (_W @ _W.T / 0.25 + torch.eye(2)).double()
    for n, elbo in enumerate(evidence.elbo):
        cov = covariance[n, :, n]
        mean = torch.linalg.solve(precision, _W.double() @ x[n].double() / 0.25)
        gap = loc[n] - mean
        kl = 0.5 * (
            torch.trace(precision @ cov) + gap @ precision @ gap - 2
            - torch.logdet(precision) - torch.logdet(cov)
        )  # fmt: skip
        exact = _X.log_prob(x[n]) - kl
        error = 4 * (kl * 2 / 4000) ** 0.5 + 0.05 * kl  # of a mean of 4000 draws, roughly
        assert abs(elbo - exact) < error + 5e-3
    torch.testing.assert_close(
        evidence.corrected(),
        _X.log_prob(x).double(),
        rtol=0,
        atol=6 * evidence.standard_error.max().item() + 0.02,
    )


def test_every_rung_for_any_number_of_data(x):
    guide = trained(autoguide.AutoDiagonalNormal(factor_analysis), factor_analysis, x)
    for method in ("laplace", "auto"):
        evidence = pv.log_evidence(factor_analysis, guide, x, samples=1000, method=method)
        error = (evidence.corrected() - _X.log_prob(x)).abs()
        assert (error < 4.5 * evidence.standard_error + 2e-3).all()
    pyro.clear_param_store()
    many = _X.sample((150,))  # more than a block
    guide = autoguide.AutoMultivariateNormal(factor_analysis, init_scale=0.5)
    evidence = pv.log_evidence(factor_analysis, guide, many, samples=500, method="laplace")
    error = (evidence.corrected() - _X.log_prob(many)).abs()
    assert (error < 4.5 * evidence.standard_error + 2e-3).all()


def test_the_hash_is_that_of_the_data(x):
    guide = autoguide.AutoNormal(factor_analysis)

    def by_hand(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        one, two = (pv.log_evidence(factor_analysis, g, x, samples=50) for g in (guide, by_hand))
    assert one.data_sha256 == two.data_sha256
    assert one.event_size == two.event_size


def gammas(x):
    with pyro.plate("data", len(x), dim=-2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("items", 3, dim=-1):
            extra = pyro.sample("extra", dist.Beta(2.0, 2.0))
            pyro.sample("x", dist.Poisson(rate * extra), obs=x)


@pytest.mark.parametrize("kind", ["AutoNormal", "AutoDiagonalNormal", "AutoMultivariateNormal"])
def test_inner_plates_and_bounded_latents(kind, x):
    """All guides, and the prior as guide, estimate the same."""
    counts = torch.tensor([[0.0, 1.0, 0.0], [2.0, 1.0, 3.0], [1.0, 0.0, 0.0], [0.0, 5.0, 1.0]])
    guide = trained(getattr(autoguide, kind)(gammas, init_scale=0.5), gammas, counts, steps=300)

    def prior(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("rate", dist.Gamma(2.0, 1.0))
            with pyro.plate("items", 3, dim=-1):
                pyro.sample("extra", dist.Beta(2.0, 2.0))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        ours = pv.log_evidence(gammas, guide, counts, samples=4000)
        theirs = pv.log_evidence(gammas, prior, counts, samples=20_000)
    error = (ours.standard_error.square() + theirs.standard_error.square()).sqrt()
    assert ((ours.log_px - theirs.log_px).abs() < 4.5 * error + 5e-3).all()


def test_list_of_guides(x):
    guide = autoguide.AutoGuideList(gammas)
    guide.append(autoguide.AutoNormal(pyro.poutine.block(gammas, hide=["extra"])))
    guide.append(autoguide.AutoMultivariateNormal(pyro.poutine.block(gammas, hide=["rate"])))
    counts = torch.tensor([[0.0, 1.0, 0.0], [2.0, 1.0, 3.0], [1.0, 0.0, 0.0], [0.0, 5.0, 1.0]])
    trained(guide, gammas, counts)
    evidence = pv.log_evidence(gammas, guide, counts, method="auto", samples=2000)
    whole = trained(autoguide.AutoNormal(gammas), gammas, counts)
    other = pv.log_evidence(gammas, whole, counts, method="laplace", samples=2000)
    error = (evidence.standard_error.square() + other.standard_error.square()).sqrt()
    assert ((evidence.corrected() - other.corrected()).abs() < 4.5 * error + 2e-3).all()


class TestErrors:
    def test_a_point_estimate(self, x):
        with pytest.raises(ValueError, match="AutoDelta, a point estimate"):
            pv.log_evidence(factor_analysis, autoguide.AutoDelta(factor_analysis), x)

    def test_a_density_without_known_marginals(self, x):
        guide = autoguide.AutoIAFNormal(factor_analysis)
        with pytest.raises(ValueError, match="of all data together, from which that of one datum"):
            pv.log_evidence(factor_analysis, guide, x)

    def test_other_data(self, x):
        guide = trained(autoguide.AutoNormal(factor_analysis), factor_analysis, x, steps=1)
        with pytest.raises(ValueError, match="knows the data alone that it was trained on"):
            pv.log_evidence(factor_analysis, guide, x[:5])


def test_as_program_keeps_constraints(x):
    """A positive parameter that is asked for again by its name alone stays positive."""

    def guide(x):
        pyro.param("scale", torch.tensor(3.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            scale = pyro.param("scale")
            pyro.sample("z", dist.Normal(torch.zeros(2), scale).to_event(1))

    for program in (guide, autoguide.AutoDiagonalNormal(factor_analysis, init_scale=2.0)):
        module = pv.as_program(factor_analysis, program, x)
        losses = []
        for own in (program, module.guide):
            pyro.set_rng_seed(1)
            losses.append(Trace_ELBO(num_particles=20).loss(factor_analysis, own, x))
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
