import math

import pyro.ops.stats
import pytest
import torch

from pyro_vae.evidence import diagnostics as d


def _log_weights(k=400, n=6, scale=1.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(k, n, generator=generator, dtype=torch.float64) - 90


def test_jackknife_is_explicit_leave_one_out():
    log_w = _log_weights(k=57)
    k = len(log_w)
    left_out = torch.stack(
        [d.log_mean_exp(torch.cat([log_w[:i], log_w[i + 1 :]])) for i in range(k)]
    )
    explicit = k * d.log_mean_exp(log_w) - (k - 1) * left_out.mean(0)
    torch.testing.assert_close(d.jackknife(log_w), explicit, rtol=0, atol=1e-10)


def test_standard_error_is_coefficient_of_variation():
    log_w = _log_weights()
    w = (log_w + 90).exp()
    explicit = w.std(0) / w.mean(0) / math.sqrt(len(w))
    torch.testing.assert_close(d.standard_error(log_w), explicit)


def test_effective_sample_size():
    log_w = _log_weights()
    w = (log_w + 90).exp()
    torch.testing.assert_close(d.effective_sample_size(log_w), w.sum(0) ** 2 / (w**2).sum(0))
    equal = torch.full((50, 2), -700.0).double()
    torch.testing.assert_close(d.effective_sample_size(equal), torch.full((2,), 50.0).double())


def test_weights_that_all_vanish_give_no_nan():
    log_w = torch.full((100, 2), -math.inf, dtype=torch.float64)
    log_w[:, 1] = 0.0
    assert d.log_mean_exp(log_w).tolist() == [-math.inf, 0]
    assert d.effective_sample_size(log_w).tolist() == [0, pytest.approx(100)]
    assert d.standard_error(log_w).tolist() == [math.inf, 0]
    assert d.jackknife(log_w).tolist() == [-math.inf, pytest.approx(0, abs=1e-9)]
    assert d.pareto_k(log_w).isnan().all()


def test_one_weight_has_no_error():
    log_w = torch.zeros(1, 3).double()
    assert d.standard_error(log_w).isnan().all()
    assert d.jackknife(log_w).isnan().all()


@pytest.mark.parametrize("samples", [30, 200, 1000, 5000])
def test_pareto_k_is_that_of_pyro(samples):
    log_w = _log_weights(k=samples, n=50, scale=2.0, seed=samples)
    tail = int(3 * math.sqrt(samples)) if samples > 225 else samples // 5
    ours = d.pareto_k(log_w)
    for column, k in zip(log_w.T, ours, strict=True):
        top = (column - column.max()).exp().sort(descending=True).values
        theirs, _ = pyro.ops.stats.fit_generalized_pareto(top[:tail] - top[tail])
        assert k.item() == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_of_pareto_weights(k):
    # 200 columns of 5,000 exact generalized Pareto weights; sd(k̂) is about 0.1 a column, so the
    # mean is known to 0.007; the prior shrinks towards 0.5 by (k - 0.5) * 10 / (M + 10).
    generator = torch.Generator().manual_seed(1)
    u = torch.rand(5000, 200, generator=generator, dtype=torch.float64)
    log_w = (((1 - u) ** -k - 1) / k).log()
    m = int(3 * math.sqrt(5000))
    expected = (m * k + 5) / (m + 10)
    assert d.pareto_k(log_w).mean().item() == pytest.approx(expected, abs=0.035)


def test_pareto_k_undefined_and_degenerate():
    assert d.pareto_k(torch.zeros(1000, 2).double()).isnan().all()  # an exact proposal
    assert d.pareto_k(_log_weights(k=20)).isnan().all()  # four tail draws
    few = torch.full((1000, 1), -math.inf, dtype=torch.float64)
    few[:10] = torch.arange(10.0).double().reshape(-1, 1)
    assert d.pareto_k(few).item() == math.inf


def test_pareto_k_ignores_scale():
    log_w = _log_weights(k=2000)
    torch.testing.assert_close(d.pareto_k(log_w + 500), d.pareto_k(log_w), rtol=1e-9, atol=1e-9)


def test_threshold():
    assert d.pareto_k_threshold(5000) == 0.7
    assert d.pareto_k_threshold(100) == pytest.approx(0.5)
