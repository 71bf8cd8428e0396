import dataclasses
import json
import math
import statistics

import pytest
import torch

import pyro_vae as pv
from pyro_vae.evidence.result import Search


def _evidence(log_px, data="a", error=0.1, samples=100):
    log_px = torch.as_tensor(log_px, dtype=torch.float64)
    return pv.Evidence(
        log_px=log_px,
        standard_error=torch.full_like(log_px, error),
        ess=torch.full_like(log_px, 50.0),
        pareto_k=torch.tensor([0.9, math.nan] + [0.2] * (len(log_px) - 2)).double(),
        jackknife=log_px + error**2 / 2,  # as the delta method has it
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
    assert estimate.value == pytest.approx(-2 + 0.005)
    assert estimate.mc_error == pytest.approx(math.sqrt(4 * 0.01) / 4)
    assert estimate.sampling_error == pytest.approx(math.sqrt(2 / 3) / 2)
    assert estimate.bias == pytest.approx(-0.005)


def test_the_mean_has_its_former_name():
    """Users' programs call it so; it went once as if nobody did."""
    evidence = _evidence([-1.0, -3.0, -2.0])
    assert evidence.mean_jackknife() == evidence.mean()


def test_bits_per_dim():
    bits = _evidence([-1.0, -3.0]).bits_per_dim()
    assert bits.value == pytest.approx((2 - 0.005) / (4 * math.log(2)))
    assert bits.bias == pytest.approx(0.005 / (4 * math.log(2)))
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
    assert len({len(line) for line in lines[:4]}) == 1
    end = lines[0].index("P(best)") + len("P(best)")
    assert lines[2][end - 7 : end].isspace()  # blank for the best
    assert lines[3][:end].endswith("  >0.999")
    assert any("probability that the best model predicts better" in line for line in lines[4:])


def test_one_model_has_no_probability_to_explain():
    assert "probability" not in str(pv.compare({"a": _evidence([-1.0, -2.0])}))


def _pair(differences, error=0.1):
    base = torch.linspace(-5, -1, len(differences)).double()
    other = base + torch.tensor(differences, dtype=torch.float64)
    best, row = pv.compare(
        {"a": _evidence(base, error=error), "b": _evidence(other, error=error)}
    ).rows
    assert best.name == "a"
    return best, row


def test_probability_better_is_the_normal_tail_of_the_paired_difference():
    differences = [-0.5, 0.3, -0.2, 0.1, -0.4]
    best, row = _pair(differences)
    error = statistics.stdev(differences) / math.sqrt(5)  # both are corrected alike
    expected = statistics.NormalDist(statistics.fmean(differences), error).cdf(0)
    assert 0.6 < expected < 0.95
    assert row.probability_better == pytest.approx(expected, rel=1e-9)
    assert math.isnan(best.probability_better)


def test_probability_better_without_error_is_certain_or_even():
    assert _pair([-0.5, -0.5, -0.5])[1].probability_better == 1.0
    assert _pair([0.0, 0.0, 0.0])[1].probability_better == 0.5
    same = _evidence([-1.0, -2.0])
    first, second = pv.compare({"a": same, "again": same}).rows
    assert math.isnan(first.probability_better)
    assert second.probability_better == 0.5


@pytest.mark.slow
def test_probability_better_is_calibrated():
    """P says how likely the next data are to agree: 4,000 replicates, within 4 standard errors."""
    generator = torch.Generator().manual_seed(0)
    truth = (
        0.1 * torch.randn(4000, 1, generator=generator).double()
    )  # flat against an error of 0.02
    sampled = truth + 0.2 * torch.randn(4000, 100, generator=generator).double()
    stated, right = [], []
    for delta, row in zip(truth.flatten(), sampled, strict=True):
        zero = torch.zeros(100).double()
        best, other = pv.compare({"a": _evidence(zero), "b": _evidence(row)}).rows
        stated.append(other.probability_better)
        right.append(bool(delta > 0) == (best.name == "b"))
    error = math.sqrt(sum(p * (1 - p) for p in stated)) / 4000
    assert abs(statistics.fmean(stated) - statistics.fmean(right)) < 4 * error


def test_errors_of_a_difference_stay_apart():
    _, row = _pair([-2.0, 0.0, -1.0, 1.5], error=0.1)
    assert row.difference_mc_error == pytest.approx(math.sqrt(4 * 0.02) / 4)
    assert row.difference_sampling_error == pytest.approx(
        math.sqrt(row.difference_error**2 - row.difference_mc_error**2)
    )
    assert 0 < row.difference_sampling_error < row.difference_error
    assert _pair([-0.5, -0.5, -0.5])[1].difference_sampling_error == 0  # not the root of < 0


def test_one_datum_gives_nan_and_no_warning():
    one = dataclasses.replace(_evidence([-1.0, -2.0]), **_first(_evidence([-1.0, -2.0])))
    other = dataclasses.replace(one, log_px=one.log_px - 0.5, jackknife=one.jackknife - 0.5)
    comparison = pv.compare({"a": one, "b": other})  # a warning is an error here
    row = comparison.rows[1]
    assert row.difference == pytest.approx(-0.5)
    assert row.difference_mc_error == pytest.approx(math.sqrt(0.02))
    for value in (row.difference_error, row.difference_sampling_error, row.probability_better):
        assert math.isnan(value)
    assert math.isnan(row.sampling_error)
    assert str(comparison).splitlines()[3].count("nan") == 3


def _first(evidence):
    values = {field.name: getattr(evidence, field.name) for field in dataclasses.fields(evidence)}
    return {name: value[:1] for name, value in values.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event_size": 5}, "'b' and 'a' have data of different event sizes: 5 against 4"),
        ({"data_sha256": "x"}, "'b' and 'a' were evaluated on different data"),
    ],
)
def test_refuses_what_does_not_compare(change, message):
    worse = dataclasses.replace(_evidence([-2.0, -3.0]), **change)
    with pytest.raises(ValueError, match=message):
        pv.compare({"a": _evidence([-1.0, -2.0]), "b": worse})


def test_what_the_corrections_leave_open_is_part_of_the_errors():
    """Jackknife and delta method disagree by 0.02 nats: no mean is known better than that."""
    rough = _evidence([-1.0, -2.0, -1.5])
    rough = dataclasses.replace(rough, jackknife=rough.jackknife + 0.02)
    assert rough.bias_left() == pytest.approx(0.02)
    spread = math.sqrt(3 * 0.01) / 3
    assert rough.mean().mc_error == pytest.approx(math.hypot(spread, 0.02))
    row = pv.compare({"a": _evidence([-0.5, -1.5, -1.0]), "b": rough}).rows[1]
    assert row.difference == pytest.approx(-0.5 + 0.02)
    assert row.difference_error == pytest.approx(0.02)
    endless = dataclasses.replace(rough, jackknife=torch.full((3,), math.inf).double())
    assert endless.mean().value == pytest.approx(-1.5)  # one weight is all there is


def test_verdicts_say_why():
    evidence = _evidence([-1.0, -2.0, -1.5, -1.0])
    assert evidence.verdicts() == ["doubtful: heavy tail", *["trusted"] * 3]
    assert evidence.verdict == "doubtful: heavy tail (1 of 4 data)"
    fine = dataclasses.replace(evidence, pareto_k=torch.full((4,), 0.1).double())
    assert fine.verdict == "trusted"
    edge = torch.tensor([0.0, 0.04, 0.06, 0.0]).double()  # half of the error is 0.05
    assert dataclasses.replace(fine, edge=edge).verdicts()[2] == "doubtful: rounding"
    few = dataclasses.replace(
        fine, draws=torch.full((4,), 24.0).double(), ess=torch.full((4,), 20.0).double()
    )
    assert few.unreliable().all()
    exact = dataclasses.replace(few, ess=torch.full((4,), 24.0).double())
    assert not exact.unreliable().any()
    missed = dataclasses.replace(fine, search=Search(annealed=12, annealed_missed=1))
    assert missed.unreliable().all()
    assert missed.verdict == "doubtful: missed (4 of 4 data)"


def test_k_of_few_draws_counts_only_where_weights_differ():
    """Of 32 draws of nearly equal weight k̂ shows nothing."""
    alike = dataclasses.replace(
        _evidence([-1.0] * 4, samples=32), ess=torch.tensor([31.0, 31, 20, 31]).double()
    )
    k = torch.tensor([0.5, 0.1, 0.5, 0.5]).double()
    assert dataclasses.replace(alike, pareto_k=k).unreliable().tolist() == [
        False,
        False,
        True,
        False,
    ]


def test_table_says_which_estimates_are_doubtful():
    bad, good = _evidence([-1.0, -2.0, -1.5]), _evidence([-3.0, -4.5, -4.0])  # 1 of 3 has k̂ = 0.9
    good = dataclasses.replace(good, pareto_k=torch.full((3,), 0.1).double())
    text = str(pv.compare({"low": bad, "fine": good}))
    said = "log p(x) of low is doubtful: heavy tail (1 of 3 data); "
    assert text.endswith(f"{said}use method='auto'.")
    climbed = dataclasses.replace(bad, method="auto")
    assert f"{said}take more samples." in str(pv.compare({"low": climbed}))
    missed = dataclasses.replace(climbed, search=Search(simulated=16, simulated_missed=1))
    assert "missed (3 of 3 data); use method='modes'." in str(pv.compare({"low": missed}))
    sizes = {name: torch.full((3,), size).double() for name, size in (("draws", 24), ("ess", 12))}
    short = dataclasses.replace(bad, **sizes)
    assert "few draws (3 of 3 data); take more" in str(pv.compare({"low": short}))
    assert "doubtful:" not in str(pv.compare({"fine": good}))
    few = str(pv.compare({"few": _evidence([-1.0] * 5)}))  # 1 of 5: counted, and nothing to do
    assert few.endswith("log p(x) of few is doubtful: heavy tail (1 of 5 data).")
    rare = pv.compare({"rare": _evidence([-1.0] * 300)})
    assert rare.cells()[1][-1] == "<1%"  # not none


def test_refuses_other_data():
    with pytest.raises(ValueError, match="different data"):
        pv.compare({"a": _evidence([-1.0, -2.0]), "b": _evidence([-1.0, -2.0], data="b")})
    with pytest.raises(ValueError, match="nothing to compare"):
        pv.compare({})
