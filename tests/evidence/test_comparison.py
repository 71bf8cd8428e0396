import json
import math

import pytest
import torch

import pyro_vae as pv


def _evidence(log_px, data="a", error=0.1, samples=100):
    log_px = torch.as_tensor(log_px, dtype=torch.float64)
    return pv.Evidence(
        log_px=log_px,
        standard_error=torch.full_like(log_px, error),
        ess=torch.full_like(log_px, 50.0),
        pareto_k=torch.tensor([0.9, math.nan] + [0.2] * (len(log_px) - 2)).double(),
        jackknife=log_px + 0.01,
        elbo=log_px - 1,
        draws=torch.full_like(log_px, samples),
        rung=torch.zeros_like(log_px),
        samples=samples,
        seed=0,
        event_size=4,
        data_sha256=data,
    )


def test_mean_keeps_its_two_errors_apart():
    estimate = _evidence([-1.0, -3.0, -2.0, -2.0]).mean()
    assert estimate.value == -2
    assert estimate.mc_error == pytest.approx(math.sqrt(4 * 0.01) / 4)
    assert estimate.sampling_error == pytest.approx(math.sqrt(2 / 3) / 2)
    assert estimate.bias == pytest.approx(-0.005)


def test_bits_per_dim():
    bits = _evidence([-1.0, -3.0]).bits_per_dim()
    assert bits.value == pytest.approx(2 / (4 * math.log(2)))
    assert bits.mc_error > 0
    assert bits.unit == "bits/dim"


def test_share_unreliable_ignores_undefined_k():
    assert _evidence([-1.0, -3.0, -2.0, -2.0]).share_unreliable() == 0.25


def test_round_trip(tmp_path):
    evidence = _evidence([-1 / 3, -math.inf, -2.0])
    evidence.save(tmp_path / "e.json")
    again = pv.Evidence.load(tmp_path / "e.json")
    for name in ("log_px", "standard_error", "ess", "pareto_k", "jackknife", "elbo"):
        assert torch.equal(
            getattr(again, name).nan_to_num(7), getattr(evidence, name).nan_to_num(7)
        )
    assert again.samples == 100
    assert again.data_sha256 == "a"
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(ValueError, match="not a result of log_evidence"):
        pv.Evidence.load(tmp_path / "e.json")
    (tmp_path / "e.json").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match="not a result of log_evidence"):
        pv.Evidence.load(tmp_path / "e.json")


def test_differences_are_paired_and_best_first():
    generator = torch.Generator().manual_seed(0)
    base = -90 + 20 * torch.randn(500, generator=generator).double()
    better = base + 1 + 0.5 * torch.randn(500, generator=generator).double()
    comparison = pv.compare({"base": _evidence(base), "better": _evidence(better)})
    assert [row.name for row in comparison.rows] == ["better", "base"]
    worse = comparison.rows[1]
    assert worse.difference == pytest.approx(-1, abs=0.1)
    # paired: far smaller than the sampling errors of the two means
    assert worse.difference_error == pytest.approx(0.5 / math.sqrt(500), rel=0.1)
    assert worse.sampling_error > 0.5
    assert worse.difference_mc_error == pytest.approx(0.1 * math.sqrt(2 / 500))
    assert json.loads(json.dumps(comparison.to_dict()))["rows"][0]["difference"] == 0


def test_table_aligns():
    text = str(pv.compare({"a": _evidence([-1.0, -2.0]), "long name": _evidence([-3.0, -4.5])}))
    lines = text.splitlines()
    assert lines[0].startswith("model")
    assert lines[2].startswith("a ")
    assert "best" in lines[2]
    assert "-2.25" in lines[3]
    ends = [line.index("log p(x)") + 8 for line in lines[:1]]
    assert lines[2][: ends[0]].endswith("-1.50")


def test_refuses_other_data():
    with pytest.raises(ValueError, match="different data"):
        pv.compare({"a": _evidence([-1.0, -2.0]), "b": _evidence([-1.0, -2.0], data="b")})
    with pytest.raises(ValueError, match="nothing to compare"):
        pv.compare({})
