"""Models from several seeds: the three errors are those of known variances."""

import dataclasses
import math

import pytest
import torch
from scipy import stats

import pyro_vae as pv
from pyro_vae.evidence import compare_seeds


def _evidence(log_px, error=0.0, **options):
    """A result with known values and Monte-Carlo errors."""
    one = torch.ones(len(log_px), dtype=torch.float64)
    columns = {
        "ess": 100 * one,
        "pareto_k": 0 * one,
        "jackknife": math.nan * one,
        "elbo": log_px - 1,
        "draws": 100 * one,
        "rung": 0 * one,
    }
    settings = {"samples": 100, "seed": 0, "event_size": 4, "data_sha256": "a"}
    return pv.Evidence(log_px=log_px, standard_error=error * one, **columns, **(settings | options))


def _study(generator, seeds, data, own, shared, crossed, noise):
    """Two equal models under the model of the docstring: log p(x) of seeds by data."""

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    common, found = 3 * draw(data), {}
    for name in ("a", "b"):
        of_data = common + shared * draw(data)
        values = own * draw(seeds, 1) + of_data + crossed * draw(seeds, data)
        measured = values + noise * draw(seeds, data)
        found[name] = [_evidence(row, noise) for row in measured]
    return found


def test_variances_are_split():
    """Over many studies the squared errors are on average the variances they stand for."""
    generator = torch.Generator().manual_seed(0)
    seeds, data, own, shared, crossed, noise = 6, 40, 0.3, 0.8, 2.0, 0.7
    squares, inside, repeats = [], 0, 120
    for _ in range(repeats):
        rows = compare_seeds(_study(generator, seeds, data, own, shared, crossed, noise)).rows
        best, other = rows
        squares.append(
            [
                best.seed_error**2,
                other.difference_seed_error**2,
                other.difference_sampling_error**2,
                other.difference_mc_error**2,
            ]
        )
        inside += not other.distinguishable
    squares = torch.tensor(squares)
    means, errors = squares.mean(0), squares.std(0) / math.sqrt(repeats)
    seed, mc = own**2 / seeds, noise**2 / (seeds * data)
    sampling = 2 * shared**2 / data + 2 * crossed**2 / (seeds * data)
    assert means[3].item() == pytest.approx(2 * mc)
    assert abs(means[2] - sampling) < 4 * errors[2]
    # zero where the variance between seeds comes out negative: that adds a little
    floor = 0.15 * (seed + crossed**2 / (seeds * data) + mc)
    for square, error, expected in zip(means[:2], errors[:2], (seed, 2 * seed), strict=True):
        assert -4 * error < square - expected < 4 * error + floor
    # one-sided at 97.5 %, of the larger of two: two-sided at 95 %
    assert abs(inside / repeats - 0.955) < 4 * math.sqrt(0.95 * 0.05 / repeats)


def test_errors_of_constant_seeds_are_students():
    """Seeds that shift all data alike: the seeds' means are all that varies."""
    base = torch.arange(6.0).double()
    found = compare_seeds(
        {
            "up": [_evidence(base + shift) for shift in (2.0, 2.1, 2.6)],
            "down": [_evidence(base + shift) for shift in (1.0, 1.2)],
        }
    )
    up, down = found.rows
    assert (up.name, up.seeds, down.seeds) == ("up", 3, 2)
    shifts = torch.tensor([2.0, 2.1, 2.6]).double()
    assert up.seed_error == pytest.approx(shifts.std().item() / math.sqrt(3))
    assert up.sampling_error == pytest.approx(base.std().item() / math.sqrt(6))
    assert down.difference == pytest.approx(1.1 - shifts.mean().item())
    assert down.difference_sampling_error == pytest.approx(0, abs=1e-9)
    expected = stats.ttest_ind([1.0, 1.2], [2.0, 2.1, 2.6], equal_var=False)
    assert down.freedom == pytest.approx(expected.df)
    assert down.difference / down.difference_error == pytest.approx(expected.statistic)
    assert down.distinguishable == (expected.pvalue < 0.05)


def test_one_seed_is_the_paired_comparison():
    generator = torch.Generator().manual_seed(1)
    evidences = {
        name: _evidence(torch.randn(30, generator=generator).double() + shift, 0.02)
        for name, shift in (("a", 0.0), ("b", 1.0), ("c", 0.9))
    }
    found = compare_seeds({name: [one] for name, one in evidences.items()})
    for row, expected in zip(found.rows, pv.compare(evidences).rows, strict=True):
        assert row.name == expected.name
        assert math.isnan(row.seed_error)
        assert row.log_px == expected.log_px
        assert row.mc_error == pytest.approx(expected.mc_error)
        assert row.difference_error == pytest.approx(expected.difference_error)
    text = str(found)
    assert text.count("unknown") == 6  # three models, two differences, and a note
    assert "b has the highest log p(x)" in text
    assert "not distinguishable from it at 95%: c; worse: a (as far as one training" in text


def test_wrong_comparisons():
    x = torch.zeros(3).double()
    one = _evidence(x)
    for nothing in ({}, {"a": []}):
        with pytest.raises(ValueError, match="nothing to compare"):
            compare_seeds(nothing)
    with pytest.raises(ValueError, match="different data"):
        compare_seeds({"a": [one, _evidence(x, data_sha256="b")]})
    with pytest.raises(ValueError, match="whole data set"):
        compare_seeds({"a": [dataclasses.replace(one, data_set=5)]})
    single = compare_seeds({"a": [_evidence(x[:1])], "b": [_evidence(x[:1] - 1)]})
    assert math.isnan(single.rows[1].difference_sampling_error)
    assert single.to_dict()["rows"][0]["name"] == "a"
