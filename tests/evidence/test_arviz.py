"""ArviZ on our results: comparisons with closed-form weights, draws with dimensions."""

import dataclasses
import importlib
import sys

import numpy as np
import pytest
import torch

import pyro_vae as pv


def _evidence(log_px, sha256="abc", **columns):
    n = len(log_px)
    given = {
        "standard_error": torch.full((n,), 0.01),
        "ess": torch.full((n,), 500.0),
        "pareto_k": torch.linspace(-0.2, 0.3, n),
        "jackknife": log_px,
        "elbo": log_px - 1,
        "draws": torch.full((n,), 1000.0),
        "rung": torch.zeros(n),
        **columns,
    }
    given = {name: values.double() for name, values in given.items()}
    return pv.Evidence(
        log_px=log_px.double() - 0.5,
        **given,
        samples=1000,
        seed=0,
        event_size=1,
        data_sha256=sha256,
    )


def _two_models():
    """Of 100 data 70 are likelier under the first: stacking maximizes sum log(w p1 + (1 - w) p2).

    With densities of 1 and 1/3 that is at w = (3 * 0.7 - 0.3) / 2 = 0.9.
    """
    better = torch.arange(100) % 10 < 7
    low = -torch.tensor(3.0).double().log()
    zero = torch.zeros(100).double()
    return torch.where(better, zero, low), torch.where(better, low, zero)


def test_arviz_compares_and_stacks():
    stats = pytest.importorskip("arviz_stats")
    a, b = map(_evidence, _two_models())
    table = stats.compare({"a": a.to_elpd(), "b": b.to_elpd()})
    assert list(table.index) == ["a", "b"]
    assert table["weight"]["a"] == pytest.approx(0.9, abs=1e-3)
    ours = pv.compare({"a": a, "b": b})
    difference = 100 * (a.mean().value - b.mean().value)
    assert table["elpd_diff"]["b"] == pytest.approx(difference)
    row = next(row for row in ours.to_dict()["rows"] if row["name"] == "b")
    assert abs(difference / 100) == pytest.approx(abs(row["difference"]), rel=1e-6)
    assert table["elpd"]["a"] == pytest.approx(100 * a.mean().value)  # the corrected values
    assert table["se"]["a"] == pytest.approx(100 * a.mean().sampling_error, rel=0.01)
    assert not table["warning"].any()


def test_elpd_has_khat_and_verdict():
    pytest.importorskip("arviz_stats")
    one = _evidence(_two_models()[0])
    elpd = one.to_elpd()
    np.testing.assert_array_equal(elpd.pareto_k.values, one.pareto_k.numpy())
    assert elpd.good_k == pytest.approx(1 - 1 / 3)
    assert elpd.n_samples == 1000
    assert "elpd_log_px" in str(elpd)
    doubtful = dataclasses.replace(one, pareto_k=torch.full((100,), 0.9).double())
    assert doubtful.to_elpd().warning


def test_densities_that_vanish_are_told_and_taken_relative():
    stats = pytest.importorskip("arviz_stats")
    a, b = (_evidence(log_px - 2000) for log_px in _two_models())
    with pytest.warns(pv.PyroVAEWarning, match=r"write to_elpd\(relative_to=\.\.\.\)"):
        a.to_elpd()
    table = stats.compare({"a": a.to_elpd(relative_to=a), "b": b.to_elpd(relative_to=a)})
    assert table["weight"]["a"] == pytest.approx(0.9, abs=1e-3)
    with pytest.raises(ValueError, match="on the same data"):
        a.to_elpd(relative_to=_evidence(a.log_px, sha256="other"))
    with pytest.raises(ValueError, match="two data at least"):
        _evidence(torch.zeros(1)).to_elpd()
    with pytest.raises(TypeError, match=r"relative_to must be a result .* got int"):
        a.to_elpd(relative_to=3)


def test_without_arviz_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_stats.utils", None)
    with pytest.raises(ImportError, match=r'pip install "pyro-vae\[arviz\]"'):
        _evidence(torch.zeros(3)).to_elpd()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::DeprecationWarning")
def test_arviz_plots_them():
    importlib.import_module("matplotlib.style.core")  # which arviz-plots takes for granted
    plots = pytest.importorskip("arviz_plots", reason="arviz-plots draws comparisons")
    stats = pytest.importorskip("arviz_stats")
    a, b = map(_evidence, _two_models())
    for drawn in (
        plots.plot_khat(a.to_elpd(), backend="matplotlib"),
        plots.plot_compare(
            stats.compare({"a": a.to_elpd(), "b": b.to_elpd()}), backend="matplotlib"
        ),
    ):
        assert drawn.viz["figure"].item() is not None


def test_draws_have_dimensions_and_labels(linear_gaussian):
    pytest.importorskip("xarray")
    lg = linear_gaussian
    draws = pv.sample_posterior(lg.model, lg.guide, lg.x, 20, method="guide", samples=40)
    tree = draws.to_datatree(dims={"z": ["factor"]}, coords={"factor": ["a", "b", "c"]})
    z = tree["posterior/z"]
    assert z.dims == ("chain", "draw", "datum", "factor")
    assert z.shape == (1, 20, 11, 3)
    np.testing.assert_array_equal(z.sel(factor="b", chain=0).values, draws["z"][..., 1].numpy())
    assert tree["log_evidence/log_px"].dims == ("datum",)
    assert tree.attrs["seed"] == 0
    assert draws.to_datatree()["posterior/z"].dims[-1] == "z_dim_0"
    z.values[:] = 0
    assert draws["z"].abs().max() > 0
    for wrong, message in (
        ({"dims": {"w": ["factor"]}}, r"dims names sites \['w'\]; there are z"),
        ({"dims": {"z": ["a", "b"]}}, r"2 names for site 'z', whose own shape is \(3,\)"),
        ({"coords": {"z_dim_0": ["a"]}}, "1 labels for dimension 'z_dim_0'"),
        ({"coords": {"factor": ["a"]}}, "there are chain of 1, datum of 11, draw of 20"),
    ):
        with pytest.raises(ValueError, match=message):
            draws.to_datatree(**wrong)


def test_arviz_summarizes_draws_of_latents_of_all_data():
    """The mean of normal data: N(n mean / (n + 1), 1 / (n + 1)) under a standard normal prior."""
    import pyro
    import pyro.distributions as dist

    pytest.importorskip("xarray_einstats")
    stats = pytest.importorskip("arviz_stats")
    x = torch.tensor([0.3, 1.2, 0.9, 0.4]).double()
    exact = dist.Normal(x.sum() / 5, 0.2**0.5)

    def model(x):
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        pyro.sample("mean", dist.Normal(exact.loc, exact.scale * 1.2))

    draws = pv.sample_posterior(model, guide, x, 400, method="guide", samples=4000)
    tree = draws.to_datatree()
    assert tree["posterior/mean"].dims == ("chain", "draw")
    table = stats.summary(tree, kind="stats", round_to="none")
    error = exact.scale.item() * (1 / 400 + 1 / draws.ess.item()) ** 0.5
    assert abs(float(table.loc["mean", "mean"]) - exact.loc.item()) < 4 * error
