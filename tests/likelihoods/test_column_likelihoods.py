"""The likelihood of tables: units, missing cells, and exact log p(x) where it is known."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.common.options import ColumnLikelihood, get_args
from pyro_vae.common.schema import KINDS
from pyro_vae.data import coded, infer
from pyro_vae.likelihoods import Columns
from pyro_vae.likelihoods.columns import _FAMILIES
from pyro_vae.networks import CellFeatures


def _frame(n=80):
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "price": rng.normal(1e6, 2e5, n),
            "tail": rng.standard_t(2, n),
            "visits": rng.poisson(3, n),
            "clicks": rng.negative_binomial(1, 0.02, n),
            "city": rng.choice(["A", "B", "C"], n),
            "sold": rng.random(n) < 0.4,
            "share": np.linspace(0.01, 0.99, n),
            "load": np.linspace(0.0, 1.0, n) ** 2,
        }
    )


class _Constant(nn.Module):
    """Network that gives its bias, whatever z."""

    def __init__(self, shape):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, z):
        return self.bias.expand(*z.shape[:-1], *self.bias.shape)

    def initialize_output(self, value):
        with torch.no_grad():
            self.bias.copy_(value)


def test_names_agree():
    assert set(get_args(ColumnLikelihood)) == set(KINDS) == set(_FAMILIES)


def test_baseline_changes_nothing():
    frame = _frame()
    schema = infer(frame)
    likelihood = Columns(_Constant, (8,), schema=schema)
    x = coded(frame, schema)
    before = {name: value.clone() for name, value in likelihood.state_dict().items()}
    baseline = likelihood.baseline(x)
    assert all(torch.equal(likelihood.state_dict()[name], value) for name, value in before.items())
    likelihood.initialize(x)
    torch.testing.assert_close(baseline, likelihood(torch.zeros(2)).log_prob(x).detach())


def test_densities_are_those_of_values_in_their_own_units():
    frame = _frame()
    schema = infer(frame)
    likelihood = Columns(_Constant, (8,), schema=schema)
    x = coded(frame, schema)
    likelihood.initialize(x)
    p = likelihood(torch.zeros(len(x), 2)).base_dist
    log_prob = p.log_prob(x).detach().double().numpy()

    price, tail = frame["price"], frame["tail"]
    known = scipy.stats.norm(price.mean(), price.std(ddof=0))
    np.testing.assert_allclose(log_prob[:, 0], known.logpdf(price), atol=2e-4)
    part = likelihood.parts[[*_parts(likelihood)].index("StudentT")]
    degrees, scale = part.degrees_of_freedom.item(), part.scale.item() * tail.std(ddof=0)
    known = scipy.stats.t(degrees, tail.mean(), scale)
    np.testing.assert_allclose(log_prob[:, 1], known.logpdf(tail), atol=2e-4)
    known = scipy.stats.poisson(frame["visits"].mean())
    np.testing.assert_allclose(log_prob[:, 2], known.logpmf(frame["visits"]), atol=2e-4)
    a, m = likelihood.parts[3].scale.item(), frame["clicks"].mean()
    known = scipy.stats.nbinom(1 / a, 1 / (1 + a * m))
    np.testing.assert_allclose(log_prob[:, 3], known.logpmf(frame["clicks"]), atol=2e-3)
    share = frame["city"].value_counts(normalize=True)[frame["city"]]
    np.testing.assert_allclose(log_prob[:, 4], np.log(share), atol=5e-3)
    sold = frame["sold"].mean()
    expected = np.where(frame["sold"], math.log(sold), math.log(1 - sold))
    np.testing.assert_allclose(log_prob[:, 5], expected, atol=1e-4)
    assert "1 beta" in likelihood.description
    torch.testing.assert_close(p.mean[0, :4], x[:, :4].mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(p.mean[0, 6:], x[:, 6:].mean(0), rtol=1e-3, atol=1e-3)


def _parts(likelihood):
    return (type(part).__name__ for part in likelihood.parts)


def test_other_units_move_log_p_by_the_logarithm_of_their_ratio():
    frame = _frame()[["price", "share"]]
    found = []
    for unit in (1.0, 1000.0):
        own = frame.assign(price=frame["price"] * unit)
        schema = infer(own)
        torch.manual_seed(0)
        likelihood = Columns(_Constant, (2,), schema=schema)
        x = coded(own, schema)
        likelihood.initialize(x)
        found.append(likelihood(torch.zeros(len(x), 2)).log_prob(x))
    torch.testing.assert_close(
        found[0] - found[1], torch.full((80,), math.log(1000)), rtol=0, atol=2e-4
    )
    with torch.no_grad():  # between two bounds, too
        wide = infer(frame.assign(share=frame["share"] * 50), {"share": "beta:0:50"})
        likelihood = Columns(_Constant, (2,), schema=wide)
        likelihood.initialize(coded(frame.assign(share=frame["share"] * 50), wide))
        x = coded(frame.assign(share=frame["share"] * 50), wide)
        scaled = likelihood(torch.zeros(80, 2)).base_dist.log_prob(x)[:, 1]
        narrow = Columns(_Constant, (2,), schema=infer(frame))
        narrow.initialize(coded(frame, infer(frame)))
        plain = narrow(torch.zeros(80, 2)).base_dist.log_prob(coded(frame, infer(frame)))[:, 1]
    torch.testing.assert_close(plain - scaled, torch.full((80,), math.log(50)), rtol=0, atol=2e-3)


def test_missing_cells_count_nothing_and_have_no_gradient():
    frame = _frame()
    schema = infer(frame)
    x = coded(frame, schema)
    torch.manual_seed(0)
    likelihood = Columns(lambda shape: nn.Linear(2, *shape), (8,), schema=schema)
    likelihood.initialize(x)
    z = torch.randn(80, 2)
    whole = likelihood(z).base_dist.log_prob(x)
    hidden = torch.rand(80, 8) < 0.4
    holes = x.masked_fill(hidden, torch.nan)
    part = likelihood(z).log_prob(holes)
    torch.testing.assert_close(part, whole.masked_fill(hidden, 0).sum(-1))
    gradients = torch.autograd.grad(part.sum(), list(likelihood.parameters()), allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)
    nothing = likelihood(z).log_prob(torch.full_like(x, torch.nan))
    assert (nothing == 0).all()


@pytest.mark.parametrize("scale", ["network", "shared", 0.5])
def test_scales(scale):
    frame = _frame()
    schema = infer(frame)
    likelihood = Columns(lambda shape: nn.Linear(2, *shape), (8,), schema=schema, scale=scale)
    x = coded(frame, schema)
    likelihood.initialize(x)
    assert likelihood(torch.randn(80, 2)).log_prob(x).isfinite().all()
    with pytest.raises(ValueError, match=r"has 8 columns, so a row has shape \(8,\); got \(7,\)"):
        Columns(lambda shape: nn.Linear(2, *shape), (7,), schema=schema)


def test_features_of_a_row():
    frame = _frame()
    schema = infer(frame)
    x = coded(frame, schema)
    features = CellFeatures(schema)
    assert features(x).shape == (80, features.size)
    assert features.size == 7 + 3 + 8
    x[0] = torch.nan
    row = features(x)[0]
    assert (row == 0).all()
    with torch.no_grad():
        features.gaps.fill_(1.0)
    assert features(x)[0].sum() == 8
    assert features(x)[1, -8:].sum() == 0
    one_hot = features(x)[1:, 7:10]
    assert torch.equal(one_hot.argmax(-1), x[1:, 4].long())
    assert (one_hot.sum(-1) == 1).all()


@pytest.fixture(scope="module")
def factors():
    """A linear model of three real columns, whose log p and imputations are known."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(400, 2))
    frame = pd.DataFrame(z @ rng.normal(size=(2, 3)) * 7 + 50, columns=list("abc"))
    frame += rng.normal(size=frame.shape) * 3
    schema = infer(frame, {name: "normal" for name in frame})
    config = pv.Config(
        likelihood="columns", likelihood_schema=schema, latent_dim=2, hidden=(), seed=3
    )
    torch.manual_seed(0)
    vae = pv.VAE.from_config(config, event_shape=(3,), data=coded(frame, schema))
    with torch.no_grad():
        decoder = vae.likelihood.network.output
        decoder.weight.copy_(torch.tensor([[0.8, 0.1], [-0.5, 0.6], [0.2, -0.7]]))
        vae.likelihood.parts[0].raw_scale.copy_(torch.tensor([-0.6, 0.0, -1.0]))
    scale = torch.tensor([column.scale for column in schema], dtype=torch.float64)
    offset = torch.tensor([column.offset for column in schema], dtype=torch.float64)
    weight = decoder.weight.detach().double() * scale[:, None]
    noise = (vae.likelihood.parts[0].scale.detach().double() * scale) ** 2
    mean = offset + decoder.bias.detach().double() * scale
    marginal = torch.distributions.MultivariateNormal(mean, weight @ weight.T + torch.diag(noise))
    values = torch.tensor(frame.to_numpy()[:20])
    return vae, pv.Data(coded(frame, schema)[:20], schema=schema), values, marginal


def _given(marginal, row, hidden):
    """Conditional mean and variance of hidden values, and log density of the others."""
    seen, cov = ~hidden, marginal.covariance_matrix
    inner = cov[seen][:, seen]
    gain = torch.linalg.solve(inner, cov[seen][:, hidden]).T
    mean = marginal.loc[hidden] + gain @ (row - marginal.loc)[seen]
    spread = cov[hidden][:, hidden] - gain @ cov[seen][:, hidden]
    density = torch.distributions.MultivariateNormal(marginal.loc[seen], inner)
    return mean, spread.diagonal(), density.log_prob(row[seen])


def test_evidence_of_observed_cells_is_that_of_the_marginal(factors):
    vae, data, values, marginal = factors
    hidden = torch.rand(20, 3) < 0.4
    hidden[:, 0] &= ~hidden.all(1)
    holes = pv.Data(data.x.masked_fill(hidden, torch.nan), schema=data.schema)
    evidence = pv.log_evidence(vae.model, vae.guide, holes, method="laplace", samples=300)
    exact = torch.stack(
        [_given(marginal, row, gaps)[2] for row, gaps in zip(values, hidden, strict=True)]
    )
    assert ((evidence.log_px - exact).abs() < 4.5 * evidence.standard_error + 1e-4).all()
    masked = pv.log_evidence(
        vae.model, vae.guide, data, mask=~hidden, method="laplace", samples=300
    )
    assert torch.equal(masked.log_px, evidence.log_px)
    assert masked.data_sha256 == evidence.data_sha256
    program = pv.Masked(vae)
    given = (data.x, ~hidden)
    again = pv.log_evidence(program.model, program.guide, given, method="laplace", samples=300)
    torch.testing.assert_close(again.log_px, evidence.log_px, rtol=0, atol=1e-3)


def test_imputations_are_draws_of_the_conditional(factors):
    """Means and variances over 400 draws of each cell: 4.5 standard errors of all together."""
    vae, data, values, marginal = factors
    hidden = torch.zeros(20, 3, dtype=torch.bool)
    hidden[:, 1] = True
    hidden[::2, 2] = True
    holes = pv.Data(data.x.masked_fill(hidden, torch.nan), schema=data.schema)
    filled = pv.impute(vae.model, vae.guide, holes, 400, method="laplace", samples=2000, seed=1)
    assert torch.equal(filled.missing, hidden)
    assert torch.equal(filled.draws[7][~hidden], data.x[~hidden])
    scale = torch.tensor([column.scale for column in data.schema])
    offset = torch.tensor([column.offset for column in data.schema])
    draws = (filled.draws * scale + offset).double()
    off, ratio = [], []
    for row, gaps in enumerate(hidden):
        mean, variance, _ = _given(marginal, values[row], gaps)
        own = draws[:, row, gaps]
        off.append((own.mean(0) - mean) / (variance / 400).sqrt())
        ratio.append(own.var(0) / variance)
    off, ratio = torch.cat(off), torch.cat(ratio)
    assert abs(off.square().mean() - 1) < 4.5 * math.sqrt(2 / len(off))
    assert abs(ratio.mean() - 1) < 4.5 * math.sqrt(2 / 400 / len(ratio))
    table = filled.frame()
    assert table["b.spread"].notna().all()
    assert "a.spread" not in table
    assert table["c.spread"].isna().sum() == 10
    assert len(filled.frame(each=True)) == 20 * 400


def test_imputation_of_other_data_takes_a_mask(linear_gaussian):
    """The conditional of a program without NaN: x[3:] given x[:3]."""
    x = linear_gaussian.x[:4]
    mask = torch.tensor([True] * 3 + [False] * 2).expand(len(x), 5)
    model, guide = linear_gaussian.model, linear_gaussian.prior_guide
    filled = pv.impute(model, guide, x, 300, mask=mask, method="laplace", samples=3000)
    marginal = dist.MultivariateNormal(
        linear_gaussian.bias,
        linear_gaussian.weight @ linear_gaussian.weight.T + 0.49 * torch.eye(5).double(),
    )
    for row, gaps in enumerate(~mask):
        mean, variance, _ = _given(marginal, x[row], gaps)
        error = (variance / 300).sqrt()
        assert ((filled.mean[row, 3:] - mean).abs() < 4.5 * error).all()
    with pytest.raises(ValueError, match="no table"):
        filled.frame()
