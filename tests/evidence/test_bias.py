import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evidence import bias as b
from pyro_vae.evidence.diagnostics import jackknife, log_mean_exp


def _log_normal(samples, n, scale=1.0, seed=0, shift=0.0):
    """Log weights s e, of mean weight exp(s²/2): log p is s²/2 (+ shift)."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(samples, n, generator=generator, dtype=torch.float64) + shift


def _draw(scale=1.0, shift=0.0):
    def draw(index, samples, key):
        seed, level = key
        return _log_normal(samples, len(index), scale, 1000 * seed + level, shift)

    return draw


def _error(values):
    return values.std().item() / math.sqrt(len(values))


def test_delta_by_hand():
    log_w = torch.tensor([[1.0], [2.0], [6.0]]).double().log() - 90
    variance_of_mean = (4.0 + 1.0 + 9.0) / 2 / 3
    expected = math.log(3) - 90 + variance_of_mean / 9 / 2
    assert b.delta_corrected(log_w).item() == pytest.approx(expected, abs=1e-12)
    vanished = torch.full((4, 1), -math.inf).double()
    assert b.delta_corrected(vanished).item() == -math.inf


@pytest.mark.parametrize("method", ["delta", "jackknife", "antithetic"])
def test_corrections_remove_bias_of_first_order(method):
    # Plain: bias -(e^{s²} - 1) / 2K. Corrected: a tenth of it at most, to 4 standard errors.
    log_w = _log_normal(64, 20_000, scale=0.8)
    first_order = math.expm1(0.64) / 2 / 64
    plain, corrected = log_mean_exp(log_w) - 0.32, b._METHODS[method](log_w) - 0.32
    assert plain.mean().item() < -10 * _error(plain) * 0.5
    assert plain.mean().item() == pytest.approx(-first_order, abs=4 * _error(plain) + 0.001)
    gained = corrected - plain  # same draws: their noise cancels
    assert gained.mean().item() == pytest.approx(first_order, rel=0.15)
    assert abs(corrected.mean().item()) < 4 * _error(corrected) + 0.1 * first_order


def test_antithetic_by_hand():
    w = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0], [7.0, 2.0]]).double()
    result = b.convergence(w.log(), sizes=[4, 2])
    assert result.sizes == (2, 4)
    # k = 4: halves (1, 3) and (5, 7); k = 2: two blocks of halves of one weight. Datum 2: log 2.
    four = 2 * math.log(4) - (math.log(2) + math.log(6)) / 2
    blocks = [
        2 * math.log(2) - (math.log(1) + math.log(3)) / 2,
        2 * math.log(6) - (math.log(5) + math.log(7)) / 2,
    ]
    expected = [(sum(blocks) / 2 + math.log(2)) / 2, (four + math.log(2)) / 2]
    assert result.means["antithetic"].tolist() == pytest.approx(expected, abs=1e-12)
    # Two blocks: half their distance, over two data of which one has no error.
    assert result.errors["antithetic"][0].item() == pytest.approx(
        abs(blocks[0] - blocks[1]) / 2 / 2, abs=1e-12
    )


def test_convergence_grid_uses_all_blocks():
    log_w = _log_normal(100, 7)
    result = b.convergence(log_w)
    assert result.sizes == (8, 16, 32, 64, 100)
    assert b.convergence(log_w[:5]).sizes == (5,)
    by_hand = [log_mean_exp(log_w[i : i + 32]).mean() for i in (0, 32, 64)]
    assert result.means["plain"][2].item() == pytest.approx(float(sum(by_hand)) / 3, abs=1e-12)
    assert result.means["delta"][-1].item() == pytest.approx(b.delta_corrected(log_w).mean().item())
    assert result.means["jackknife"][-1].item() == pytest.approx(jackknife(log_w).mean().item())
    lines = str(result).splitlines()
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1


def test_convergence_errors_are_calibrated():
    # Variance of 400 standardized means is 1 to 4 standard errors, sqrt(2 / 400).
    scores = []
    for seed in range(400):
        result = b.convergence(_log_normal(128, 10, scale=0.5, seed=seed), sizes=[32, 128])
        scores.append((result.means["jackknife"] - 0.125) / result.errors["jackknife"])
    variance = torch.stack(scores).square().mean(0)
    assert (variance - 1).abs().max().item() < 4 * math.sqrt(2 / 400)


def test_converged():
    exact = b.convergence(torch.full((256, 50), -90.0).double())
    assert exact.converged
    for name in exact.means:
        assert exact.means[name].tolist() == pytest.approx([-90] * len(exact.sizes), abs=1e-9)
    assert b.convergence(_log_normal(4096, 50, scale=0.5)).converged
    assert not b.convergence(_log_normal(512, 500, scale=5.0)).converged


@pytest.mark.parametrize(
    ("gap", "error", "agrees"),
    [(0.009, 0, True), (0.011, 0, False), (0.4, 0.1, True), (0.45, 0.1, False)],
)
def test_converged_tolerances(gap, error, agrees):
    # 3 combined errors of 0.1: 0.424. Only the largest size counts.
    means = {"plain": torch.tensor([5.0, 0.0]), "delta": torch.tensor([0.0, gap])}
    errors = {name: torch.tensor([0.0, error]) for name in means}
    assert b.Convergence((8, 16), means, errors).converged is agrees


@pytest.mark.parametrize(
    ("shape", "sizes"), [((1, 3), None), ((9,), None), ((9, 2), [1]), ((9, 2), [10]), ((9, 2), [])]
)
def test_convergence_rejects(shape, sizes):
    with pytest.raises(ValueError, match="must"):
        b.convergence(torch.zeros(shape), sizes)


def test_multilevel_is_unbiased():
    # log p = 1/2 - 90; 20,000 replicates, 3 standard errors.
    exact = 0.5 - 90
    result = b.multilevel(_draw(shift=-90), 20_000, base=8, seed=0)
    bias_of_plain = result.base_values.mean().item() - exact
    assert bias_of_plain < -20 * _error(result.base_values)
    assert abs(result.mean - exact) < 3 * result.standard_error
    assert result.bias_of_base == pytest.approx(-bias_of_plain, abs=3 * result.standard_error)
    # Replicates have one log p, so their spread is all Monte-Carlo error: 10 %.
    assert result.standard_error == pytest.approx(_error(result.values), rel=0.1)
    # Finite variance: the halves' agree to a factor; with r = 1/4 or s = 2.5 they do not.
    first, second = (half.var().item() for half in result.values.split(10_000))
    assert 0.67 < first / second < 1.5


def test_multilevel_is_single_term_estimator_with_control_variate():
    result = b.multilevel(_draw(shift=2.0), 20_000, base=8, seed=0)
    shares = torch.bincount(result.levels)[:3] / 20_000
    expected = [(1 - 2**-1.5) * 2 ** (-1.5 * level) for level in range(3)]
    assert shares.tolist() == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(20_000))
    draw, correction = _draw(shift=2.0), result.values - result.base_values
    for level in (0, 1, 2):
        index = (result.levels == level).nonzero().flatten()
        w = draw(index, 8 * 2**level, (0, level)).exp()
        torch.testing.assert_close(result.base_values[index], w[:8].mean(0).log())
        a, c = w.chunk(2)
        term = w.mean(0).log() - (a.mean(0).log() + c.mean(0).log()) / 2
        torch.testing.assert_close(correction[index], term / expected[level] * (level > 0))
    # Without the control variate: the same mean, log p = 2.5, to 4 standard errors; noisier.
    at_base = result.levels == 0
    single = torch.where(at_base, result.base_values / expected[0], correction)
    assert abs(single.mean().item() - 2.5) < 4 * _error(single)
    assert _error(single) > 2 * _error(result.values)


def test_multilevel_error_leaves_out_differences_between_data():
    def draw(index, samples, key):
        return _draw(scale=0.5)(index, samples, key) - 10.0 * index

    result = b.multilevel(draw, 1000, base=16)
    same = b.multilevel(_draw(scale=0.5), 1000, base=16)
    assert result.standard_error == pytest.approx(same.standard_error, rel=1e-6)
    assert math.isnan(b.multilevel(draw, 1).standard_error)


def test_multilevel_rejects():
    with pytest.raises(ValueError, match="base must be at least 2"):
        b.multilevel(_draw(), 10, base=1)
    with pytest.raises(ValueError, match="n at least 1"):
        b.multilevel(_draw(), 0)
    with pytest.raises(ValueError, match="draw must return shape"):
        b.multilevel(lambda index, samples, key: torch.zeros(len(index), samples), 10)
    with pytest.raises(ValueError, match="vanish"):
        b.multilevel(_draw(shift=-math.inf), 10)


@pytest.mark.parametrize("method", ["guide", pytest.param("laplace", marks=pytest.mark.slow)])
def test_unbiased_log_evidence(linear_gaussian, method):
    # 1,100 data, 4 standard errors.
    lg = linear_gaussian
    x = lg.x.repeat(100, 1)
    result = b.unbiased_log_evidence(lg.model, lg.wide_guide, x, base=8, method=method, seed=3)
    assert result.values.shape == (1100,)
    assert 0 < result.standard_error < 0.03
    assert abs(result.mean - lg.log_px.mean().item()) < 4 * result.standard_error
    # Right datum by datum too, not only on average.
    assert (result.values - lg.log_px.repeat(100)).abs().median() < 0.3


def test_exact_posterior_has_zero_variance(linear_gaussian):
    lg = linear_gaussian
    result = b.unbiased_log_evidence(lg.model, lg.guide, lg.x.repeat(20, 1), base=2)
    torch.testing.assert_close(result.values, lg.log_px.repeat(20), rtol=0, atol=1e-9)
    assert result.levels.max() > 1
    assert result.standard_error < 1e-9
    assert abs(result.bias_of_base) < 1e-9


def test_fixed_plate_size_and_unknown_method(linear_gaussian):
    lg = linear_gaussian

    def fixed(sample):
        def program(x):
            with pyro.plate("data", 1000, subsample_size=16):
                sample(x)

        return program

    model = fixed(lambda x: pyro.sample("x", lg.likelihood(pyro.sample("z", lg.prior())), obs=x))
    guide = fixed(lambda x: pyro.sample("z", lg.posterior(x)))
    x = lg.x.repeat(4, 1)
    result = b.unbiased_log_evidence(model, guide, x, base=4)
    torch.testing.assert_close(result.values, lg.log_px.repeat(4), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="any number of data"):
        b.unbiased_log_evidence(model, guide, x, method="laplace")
    with pytest.raises(ValueError, match="unknown method"):
        b.unbiased_log_evidence(lg.model, lg.guide, lg.x, method="best")


def test_data_are_checked_and_named(linear_gaussian):
    lg = linear_gaussian
    bad = lg.x.clone()
    bad[2, 0] = math.nan
    with pytest.raises(ValueError, match="datum 2"):
        b.unbiased_log_evidence(lg.model, lg.guide, bad)

    def broken(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", lg.prior())
            hole = torch.where((x == lg.x[7]).all(-1, keepdim=True), math.nan, 0.0)
            pyro.sample("x", dist.Normal(z @ lg.weight.T + hole, 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match="datum 7"):
        b.unbiased_log_evidence(broken, lg.guide, lg.x)
    data = pv.Data(lg.x)
    whole = b.unbiased_log_evidence(lg.model, lg.wide_guide, data, seed=1)
    same = b.unbiased_log_evidence(lg.model, lg.wide_guide, (lg.x,), seed=1)
    assert whole.values.equal(same.values)


def test_independent_of_callers_random_state(linear_gaussian):
    lg = linear_gaussian
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(b.unbiased_log_evidence(lg.model, lg.wide_guide, lg.x, seed=5))
        assert torch.get_rng_state().equal(before)
    assert results[0].values.equal(results[1].values)


def test_draws_differ_over_seeds_levels_and_blocks(linear_gaussian):
    lg = linear_gaussian
    x = lg.x[:1].repeat(300, 1)  # the same datum in five blocks
    results = [b.unbiased_log_evidence(lg.model, lg.wide_guide, x, seed=seed) for seed in (5, 6)]
    assert len(set(torch.cat([result.base_values for result in results]).tolist())) == 600
