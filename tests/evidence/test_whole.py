"""log p of a whole data set, where latents belong to all the data."""

import math
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, autoguide

import pyro_vae as pv
from pyro_vae.programs.evaluation import evaluating
from pyro_vae.programs.whole import Whole

METHODS = ("guide", "refined", "laplace", "modes", "annealed", "auto")


class Regression:
    """y ~ N(X w + b, s²) with w ~ N(0, t² I), b ~ N(0, 1): p(y) is normal."""

    def __init__(self, number=15, features=3, scale=1.0):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(number, features, generator=generator)
        self.y = self.x.sum(1) + 0.5 * torch.randn(number, generator=generator)
        self.scale = scale

    def model(self, x, y=None):
        scales = torch.full((x.shape[-1],), self.scale)
        w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[-1]), scales).to_event(1))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ w + b, 0.5), obs=y)

    def guide(self, x, y=None):
        mean = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
        pyro.sample("w", dist.Normal(mean, 0.25).to_event(1))
        pyro.sample("b", dist.Normal(0.0, 0.2))

    @property
    def exact(self):
        x = torch.cat([self.scale * self.x, torch.ones(len(self.x), 1)], 1).double()
        covariance = x @ x.T + 0.25 * torch.eye(len(x)).double()
        mean = torch.zeros(len(x)).double()
        return dist.MultivariateNormal(mean, covariance).log_prob(self.y.double()).item()


def check(evidence, exact, errors=4.0):
    assert len(evidence) == 1
    mean = evidence.mean()
    assert mean.mc_error < 0.2
    assert abs(mean.value - exact) < errors * mean.mc_error + 1e-3
    assert evidence.verdict == "trusted"


@pytest.mark.parametrize("method", METHODS)
def test_regression(method):
    r = Regression()
    evidence = pv.log_evidence(r.model, r.guide, (r.x, r.y), method=method, samples=2000)
    check(evidence, r.exact)
    assert evidence.data_set == 15
    assert "nats, of the whole data set (15 data at once)" in str(evidence)
    assert "nan" not in str(evidence)


def test_arguments_by_name_and_a_scale_that_is_no_data():
    r = Regression()

    def model(x, y, options, note=None):
        assert note is None
        r.scale = options["scale"]
        r.model(x, y)

    def guide(x, y, options, note=None):
        r.guide(x, y)

    given = {"y": r.y, "x": r.x, "options": {"scale": 1.0}}
    check(pv.log_evidence(model, guide, given, samples=2000), r.exact)
    check(pv.log_evidence(model, guide, (r.x, r.y, {"scale": 1.0}, None), samples=2000), r.exact)


def test_programs_that_hold_their_data():
    r = Regression()
    model, guide = (partial(f, r.x, r.y) for f in (r.model, r.guide))
    check(pv.log_evidence(model, guide, (), samples=2000), r.exact)


@pytest.mark.parametrize("name", ["AutoNormal", "AutoDiagonalNormal", "AutoMultivariateNormal"])
def test_autoguides(name):
    r = Regression()
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    guide = getattr(autoguide, name)(r.model)
    svi = SVI(r.model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(400):
        svi.step(r.x, r.y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.UnreliableEvidence)  # factors are too narrow for w
        evidence = pv.log_evidence(r.model, guide, (r.x, r.y), samples=2000)
    assert abs(evidence.mean().value - r.exact) < 4 * evidence.mean().mc_error
    check(pv.log_evidence(r.model, guide, (r.x, r.y), samples=1000, method="auto"), r.exact)


def test_bayes_factor():
    data = Regression()
    models = {f"scale {s:g}": Regression(scale=s) for s in (0.1, 1.0, 30.0)}
    found = pv.compare(
        {
            name: pv.log_evidence(m.model, m.guide, (m.x, m.y), method="laplace")
            for name, m in models.items()
        }
    )
    rows = {row.name: row for row in found.rows}
    exact = {name: m.exact for name, m in models.items()}
    best = found.rows[0].name
    assert best == max(exact, key=exact.get)
    for name, row in rows.items():
        error = 4 * row.difference_error + 2e-3
        assert abs(row.difference - (exact[name] - exact[best])) < error
        total = sum(math.exp(value - exact[best]) for value in exact.values())
        share = math.exp(exact[name] - exact[best]) / total
        assert abs(row.probability_better - share) < 0.02
    assert f"nats of all {len(data.x)} data at once" in str(found)
    assert "log BF" in str(found)
    assert "nan" not in str(found)


def log_integral(function, *grids):
    """Log of an integral on a grid, by the trapezoidal rule."""
    axes = torch.meshgrid(*grids, indexing="ij")
    widths = sum(math.log(grid[1] - grid[0]) for grid in grids)
    return function(*axes).logsumexp(tuple(range(len(grids)))).item() + widths


_EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
_ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(y, s):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("J", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, s), obs=y)


def schools_guide(y, s):
    mu = pyro.sample("mu", dist.Normal(4.0, 4.0))
    tau = pyro.sample("tau", dist.LogNormal(1.0, 1.2))
    with pyro.plate("J", 8):
        precision = 1 / tau**2 + 1 / s**2
        mean = (mu / tau**2 + y / s**2) / precision
        pyro.sample("theta", dist.Normal(mean, 1.1 * precision.rsqrt()))


def schools_exact():
    def density(mu, log_tau):
        tau = log_tau.exp()
        total = dist.Normal(0.0, 5.0).log_prob(mu) + dist.HalfCauchy(5.0).log_prob(tau) + log_tau
        for y, s in zip(_EFFECTS.double(), _ERRORS.double(), strict=True):
            total = total + dist.Normal(mu, (tau**2 + s**2).sqrt()).log_prob(y)
        return total

    grids = torch.linspace(-40, 40, 801), torch.linspace(-12, 9, 1501)
    return log_integral(density, *(grid.double() for grid in grids))


@pytest.mark.parametrize("method", ["guide", "auto"])
def test_eight_schools(method):
    given = (_EFFECTS, _ERRORS)
    evidence = pv.log_evidence(schools, schools_guide, given, method=method, samples=2000)
    check(evidence, schools_exact())


def mixture(x):
    with pyro.plate("components", 2):
        centre = pyro.sample("centre", dist.Normal(0.0, 3.0))
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Bernoulli(share), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(centre[k.long()], 1.0), obs=x)


def mixture_guide(x):
    with pyro.plate("components", 2):
        pyro.sample("centre", dist.Normal(torch.tensor([-2.0, 2.0]), 0.6))
    pyro.sample("share", dist.Beta(4.0, 4.0))


@pytest.mark.search
@pytest.mark.slow
def test_mixture_of_enumerated_members():
    """The centres can change places: a guide on one of two equal modes misses log 2."""
    x = torch.tensor([-2.5, -2.1, -1.4, -3.0, 1.9, 2.2, 2.8])

    def density(a, b, share):
        total = dist.Normal(0.0, 3.0).log_prob(a) + dist.Normal(0.0, 3.0).log_prob(b)
        total = total + dist.Beta(2.0, 2.0).log_prob(share)
        for value in x.double():
            first = (1 - share).log() + dist.Normal(a, 1.0).log_prob(value)
            total = total + first.logaddexp(share.log() + dist.Normal(b, 1.0).log_prob(value))
        return total

    line = torch.linspace(-9, 9, 121).double()
    exact = log_integral(density, line, line, torch.linspace(0.005, 0.995, 100).double())
    with pytest.warns(pv.UnreliableEvidence, match="misses, at"):
        one_mode = pv.log_evidence(mixture, mixture_guide, x, samples=2000)
    assert one_mode.mean().value < exact - 0.4
    check(pv.log_evidence(mixture, mixture_guide, x, method="auto", samples=2000), exact)


def test_control_flow_takes_the_draws_one_by_one():
    x = torch.tensor([1.0, 2.0, 3.0, 2.0])

    def model(x):
        rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rate if rate > 0 else -rate), obs=x)

    def guide(x):
        pyro.sample("rate", dist.Gamma(1.2 + x.sum(), 1.0 + len(x)))

    n, s = len(x), x.sum().item()
    exact = math.lgamma(1 + s) - (1 + s) * math.log(1 + n) - torch.lgamma(x + 1).sum().item()
    check(pv.log_evidence(model, guide, x, samples=500), exact)


def test_no_latents_is_exact():
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))

    def model(x):
        pyro.sample("x", dist.Normal(0.5, 1.0).expand([5]).to_event(1), obs=x)

    evidence = pv.log_evidence(model, lambda x: None, x)
    torch.testing.assert_close(
        evidence.log_px, dist.Normal(0.5, 1.0).log_prob(x).sum().double()[None]
    )
    assert evidence.standard_error == 0


def test_mask():
    r = Regression()
    seen = torch.arange(15) % 3 > 0
    part = Regression()
    part.x, part.y = r.x[seen], r.y[seen]

    def model(y, x):
        r.model(x, y)

    def guide(y, x):
        r.guide(r.x, r.y)

    check(pv.log_evidence(model, guide, (r.y, r.x), mask=seen, method="laplace"), part.exact)


class TestErrors:
    def test_a_plate_that_takes_some_of_its_items(self):
        def model(x):
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 20, subsample_size=5) as index:
                pyro.sample("x", dist.Normal(mu, 1.0), obs=x[index])

        def guide(x):
            pyro.sample("mu", dist.Normal(0.0, 1.0))

        with pytest.raises(ValueError, match=r"'data' takes 5 data .* leave subsample_size out"):
            pv.log_evidence(model, guide, torch.randn(20))

    def test_other_shapes_in_the_guide(self):
        r = Regression()

        def guide(x, y):
            r.guide(x, y)
            with pyro.plate("more", 2):
                pyro.sample("c", dist.Normal(0.0, 1.0))

        def model(x, y):
            r.model(x, y)
            pyro.sample("c", dist.Normal(0.0, 1.0))

        with pytest.raises(ValueError, match=r"'c' has shape \(2,\) in the guide and \(\) in the"):
            pv.log_evidence(model, guide, (r.x, r.y))

    def test_a_forgotten_plate(self):
        def model(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

        with pytest.raises(ValueError, match="'z' of the model is outside the data plate"):
            pv.log_evidence(model, guide, torch.randn(7, 2))

    def test_random_outside_of_sites(self):
        r = Regression()

        def model(x, y):
            r.model(x + torch.randn(()), y)

        with pytest.raises(ValueError, match="another log density each time"):
            pv.log_evidence(model, r.guide, (r.x, r.y))

    def test_compiled(self):
        r = Regression()
        with pytest.raises(ValueError, match="compiled=True is for programs"):
            pv.log_evidence(r.model, r.guide, (r.x, r.y), compiled=True)

    @pytest.mark.parametrize(
        "function", [pv.analysis.active_units, pv.analysis.kl_per_dimension, pv.check.calibration]
    )
    def test_functions_of_each_datum(self, function):
        r = Regression()
        with pytest.raises(ValueError, match="is for data with latents of their own"):
            function(r.model, r.guide, (r.x, r.y))


def test_draws_of_the_posterior():
    """Of a linear regression: normal, with known moments."""
    r = Regression()
    draws = pv.sample_posterior(r.model, r.guide, (r.x, r.y), 1000, samples=4000)
    x = torch.cat([r.x, torch.ones(len(r.x), 1)], 1).double()
    precision = x.T @ x / 0.25 + torch.eye(4).double()
    mean, covariance = torch.linalg.solve(precision, x.T @ r.y.double() / 0.25), precision.inverse()
    values = torch.cat([draws["w"], draws["b"][:, None]], 1).double()
    assert values.shape == (1000, 4)
    scale = covariance.diagonal().sqrt()
    assert ((values.mean(0) - mean).abs() < 4 * scale / 1000**0.5).all()
    assert ((values.var(0) / scale.square() - 1).abs() < 4 * (2 / 1000) ** 0.5).all()


def test_predictive_checks():
    """Replicates of a whole data set: right for its own model, wrong for counts that are not."""
    pyro.set_rng_seed(0)
    counts = {"Poisson": dist.Poisson(4.0).sample((80,)), "more": dist.Poisson(4.0).sample((80,))}
    counts["more"] = dist.NegativeBinomial(2.0, torch.tensor(2.0 / 3.0)).sample((80,))

    def model(x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        pyro.sample("rate", dist.Gamma(2.0 + x.sum(), 0.5 + len(x)))

    found = {
        name: pv.check.predictive(model, guide, x, replicates=400, classifier=False)
        for name, x in counts.items()
    }
    assert not found["Poisson"].misfits()
    assert "variance" in str(found["more"].misfits())
    assert found["more"].verdict != found["Poisson"].verdict


def test_certify_data_sets():
    """Both bounds of log p of simulated data sets hold the exact one, and are near."""
    r = Regression(number=8, features=2)
    certificate = pv.certify(r.model, r.guide, (r.x, r.y), number=4, samples=500)
    assert len(certificate.evidence) == 4
    assert certificate.evidence.data_set == 8
    low, high = certificate.interval()
    mean = certificate.evidence.corrected()
    assert (high - low < 1.5).all()
    error = 4 * certificate.evidence.standard_error + 0.05
    assert ((low - error < mean) & (mean < high + error)).all()


def test_two_kinds_of_latents_without_any_plate():
    """Eight schools as written for MCMC: y = mu + 5 eta + noise, all normal."""
    y, s = _EFFECTS, _ERRORS

    def model(y, s):
        eta = pyro.sample("eta", dist.Normal(torch.zeros(8), 1.0))
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        pyro.sample("y", dist.Normal(mu + 5 * eta, s), obs=y)

    def guide(y, s):
        mu = pyro.sample("mu", dist.Normal(6.0, 5.0))
        precision = 1 + 25 / _ERRORS**2  # of all, whatever part is given
        mean = 5 * (_EFFECTS - mu) / _ERRORS**2 / precision
        pyro.sample("eta", dist.Normal(mean, precision.rsqrt()))

    covariance = 100 * torch.ones(8, 8) + (25 + s**2).diag()
    exact = dist.MultivariateNormal(torch.zeros(8), covariance).log_prob(y).item()
    check(pv.log_evidence(model, guide, (y, s), samples=2000), exact)


class TestDensitiesOfAutomaticGuides:
    """They are known at any latents, not only at the guide's own draws."""

    def model(self, x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rate * share), obs=x)

    @pytest.mark.parametrize("kind", ["AutoNormal", "AutoDiagonalNormal", "AutoMultivariateNormal"])
    def test_in_closed_form(self, kind):
        x = torch.tensor([1.0, 0.0, 3.0])
        guide = getattr(autoguide, kind)(self.model, init_scale=0.7)
        with evaluating(self.model, guide, x) as evaluation:
            pair, (block,) = evaluation.pair, evaluation.blocks()
            values, _ = pair.propose_prior(block.batch, 5)
            found = pair.log_guide(block.batch, values)
        place = {
            "AutoNormal": lambda: [guide._get_loc_and_scale(n) for n in ("rate", "share")],
        }.get(kind, lambda: list(zip(*guide._loc_scale(), strict=True)))()
        (mean, sd), (centre, spread) = place
        rate, share = values["rate"].double(), values["share"].double()
        exact = dist.LogNormal(mean, sd).log_prob(rate)
        odds = share.log() - (-share).log1p()
        exact = exact + dist.Normal(centre, spread).log_prob(odds)
        exact = exact - share.log() - (-share).log1p()  # of the logistic function's slope
        torch.testing.assert_close(found, exact.detach(), rtol=1e-4, atol=1e-4)

    @pytest.mark.slow
    @pytest.mark.search
    def test_are_not_those_of_other_data(self):
        """A guide fitted to the given data is no guide of simulated ones: no false alarm."""
        r = Regression()
        pyro.set_rng_seed(0)
        guide = autoguide.AutoMultivariateNormal(r.model)
        svi = SVI(r.model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        for _ in range(400):
            svi.step(r.x, r.y)
        for method in ("guide", "laplace"):
            evidence = pv.log_evidence(r.model, guide, (r.x, r.y), method=method)
            assert evidence.search.simulated == 0
            assert evidence.search.annealed == 1
            assert not evidence.search.found


@pytest.mark.search
class TestDecoderOfTwoSigns:
    """x_n ~ N(z_n w, I): (w, z) and (-w, -z) are as likely, 32 latents in all."""

    def setup_method(self):
        torch.manual_seed(0)
        truth = torch.tensor([1.5, -1.05])
        self.x = torch.randn(30, 1) * truth + torch.randn(30, 2)

    def model(self, x):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * w, 1.0).to_event(1), obs=x)

    def guide(self, x):
        w = pyro.sample("w", dist.Normal(torch.tensor([1.5, -1.0]), 0.4).to_event(1))
        with pyro.plate("data", len(x)):
            variance = 1 / (1 + w @ w)
            pyro.sample("z", dist.Normal(variance * (x @ w), 1.05 * variance.sqrt()))

    @property
    def exact(self):
        def density(a, b):
            w = torch.stack([a, b], -1)
            covariance = w[..., :, None] * w[..., None, :] + torch.eye(2).double()
            normal = dist.MultivariateNormal(torch.zeros(2).double(), covariance)
            total = dist.Normal(0.0, 1.0).log_prob(w).sum(-1)
            return total + sum(normal.log_prob(row) for row in self.x.double())

        line = torch.linspace(-6, 6, 301).double()
        return log_integral(density, line, line)

    @pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
    @pytest.mark.parametrize(
        ("method", "automatic"),
        [
            ("laplace", True),
            ("auto", False),
            pytest.param("laplace", False, marks=pytest.mark.slow),
            pytest.param("auto", True, marks=pytest.mark.slow),
        ],
    )
    def test_is_right_or_doubted(self, automatic, method):
        guide = self.guide
        if automatic:
            guide = autoguide.AutoNormal(self.model)
            svi = SVI(self.model, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
            for _ in range(400):
                svi.step(self.x)
        evidence = pv.log_evidence(self.model, guide, self.x, method=method)
        mean = evidence.mean()
        assert abs(mean.value - self.exact) < 4 * mean.mc_error or evidence.verdict != "trusted"


@pytest.mark.parametrize("idle", [True, False])
def test_log_prior_of_latents_beside_enumerated_ones(idle):
    """p(m) sums over k where m depends on it; where nothing does, k's own sum is one."""

    def model(y):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        m = pyro.sample("m", dist.Normal(0.0 if idle else 4 * k, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(m, 0.5 + (k if idle else 0)), obs=y)

    def guide(y):
        pyro.sample("m", dist.Normal(0.0, 2.0))

    y = torch.tensor([[0.5, -0.2, 1.0]])
    pair = Whole.inspect(model, guide, (y,))
    m = torch.linspace(-2, 6, 7)[:, None]
    with torch.no_grad():
        log_prior, log_joint = pair.log_terms((y,), {"m": m})
    normal = dist.Normal(0.0, 1.0).log_prob
    parts = [math.log(w) + normal(m - (0 if idle else 4 * k)) for k, w in ((0, 0.7), (1, 0.3))]
    seen = [
        part + dist.Normal(m, 0.5 + (k if idle else 0)).log_prob(y).sum(-1, keepdim=True)
        for k, part in enumerate(parts)
    ]
    torch.testing.assert_close(log_prior, torch.logaddexp(*parts).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_joint, torch.logaddexp(*seen).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("at_once", [True, False])
def test_copies_of_a_data_set_are_seen_as_one(at_once):
    """As draws of one data set: the same densities, the program run once where vmap takes it."""
    runs = []

    def model(y):
        runs.append(None)
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        m = m if at_once or m > 0 else 2 * m
        with pyro.plate("data", 3 if y[0].isnan() else len(y)):  # not for several sets at once
            pyro.sample("y", dist.Normal(m, 0.5), obs=y)

    def guide(y):
        pyro.sample("m", dist.Normal(0.0, 2.0))

    y = torch.tensor([[0.5, -0.2, 1.0]])
    pair = Whole.inspect(model, guide, (y,))
    assert pair.vectorized == at_once
    assert not pair.sets_at_once
    m = torch.linspace(-2, 2, 12).reshape(3, 4)
    index = torch.zeros(4, dtype=torch.long)
    copies = pair.copies((y,), index)
    plain = tuple(argument[index] for argument in (y,))
    assert torch.equal(copies[0], plain[0])
    runs.clear()
    found = pair.log_joint(copies, {"m": m})
    assert len(runs) == (1 if at_once else 12)
    torch.testing.assert_close(found, pair.log_joint(plain, {"m": m}))
    mean = m.where(m > 0, m if at_once else 2 * m)[..., None]
    exact = dist.Normal(0.0, 1.0).log_prob(m) + dist.Normal(mean, 0.5).log_prob(y).sum(-1)
    torch.testing.assert_close(found, exact.double(), rtol=1e-5, atol=1e-5)
    two = torch.cat([y, y + 1])
    assert torch.equal(pair.copies((two,), torch.tensor([1, 0, 1]))[0], two[[1, 0, 1]])
