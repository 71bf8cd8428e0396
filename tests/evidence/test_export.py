import csv
import dataclasses
import math
import sys

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evidence.diagnostics import pareto_k
from pyro_vae.evidence.export import to_csv, to_datatree, write_csv
from pyro_vae.evidence.result import METHODS

_TENSORS = (
    "log_px",
    "standard_error",
    "ess",
    "pareto_k",
    "jackknife",
    "elbo",
    "draws",
    "rung",
    "edge",
)


@pytest.fixture
def evidence():
    """Every column differs from every other, and holds what text loses: thirds, NaN, infinity."""
    columns = {name: (torch.arange(4) - 7.0 * i).double() / 3 for i, name in enumerate(_TENSORS)}
    columns["log_px"][1] = -math.inf
    columns["pareto_k"][2] = math.nan
    columns["draws"] = torch.tensor([1000, 1000, 16, 2000]).double()
    columns["rung"] = torch.tensor([0, 2, 3, 1]).double()
    return pv.Evidence(
        **columns, samples=1000, seed=7, event_size=6, data_sha256="abc", data="digits, test"
    )


def _assert_same(values, evidence, name):
    expected = getattr(evidence, name).numpy()
    np.testing.assert_array_equal(np.asarray(values, dtype=np.float64), expected, err_msg=name)


def test_csv_reads_back_to_the_same_bits(evidence):
    head, *rows = csv.reader(to_csv(evidence).splitlines())
    assert head == ["datum", *_TENSORS, "verdict"]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    column = {name: [row[i] for row in rows] for i, name in enumerate(head)}
    for name in _TENSORS:
        if name != "rung":
            _assert_same([float(value) for value in column[name]], evidence, name)
    assert column["draws"] == ["1000", "1000", "16", "2000"]  # whole numbers
    assert column["rung"] == ["guide", "laplace", "annealed", "refined"]
    assert column["verdict"] == evidence.verdicts()
    assert column["verdict"][2].startswith("doubtful: ")


def test_csv_names_rungs_as_the_result_does(evidence):
    for number in range(4):
        one = dataclasses.replace(evidence, rung=torch.full((4,), number).double())
        named = {row["rung"] for row in csv.DictReader(to_csv(one).splitlines())}
        assert named == set(one.rungs())


def test_write_csv_replaces_the_whole_file(evidence, tmp_path):
    path = tmp_path / "folder" / "e.csv"
    assert write_csv(evidence, str(path)) == path
    path.write_text("x" * 100_000)
    write_csv(evidence, path)
    assert path.read_bytes().decode() == to_csv(evidence)
    assert [file.name for file in path.parent.iterdir()] == ["e.csv"]


def test_without_xarray_the_error_says_what_to_install(evidence, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r'pip install "pyro-vae\[xarray\]"'):
        to_datatree(evidence)


def test_tree_keeps_every_number_and_setting(evidence):
    xarray = pytest.importorskip("xarray")
    tree = to_datatree(evidence, labels=["a", "b", "a", "c"])
    again = xarray.DataTree.from_dict(tree.to_dict())
    for group in (tree["log_evidence"], again["log_evidence"]):
        assert set(group.data_vars) == set(_TENSORS)
        for name in _TENSORS:
            assert group[name].dims == ("datum",)
            _assert_same(group[name].values, evidence, name)
        assert group["label"].values.tolist() == ["a", "b", "a", "c"]
        assert group["log_px"].attrs["units"] == "nats"
        assert group["draws"].dtype == np.int64
        flags = group["rung"].attrs
        assert flags["flag_meanings"].split() == list(METHODS)
        assert flags["flag_values"].tolist() == [0, 1, 2, 3, 4, 5]
    for node in (tree, again["log_evidence"]):
        expected = {"samples": 1000, "seed": 7, "method": "guide", "data": "digits, test"}
        expected |= {"data_sha256": "abc", "event_size": 6, "units": "nats"}
        assert expected.items() <= node.attrs.items()
    assert "log_weights" not in tree.children


def test_tree_is_a_copy(evidence):
    pytest.importorskip("xarray")
    before = evidence.ess.clone()
    weights = torch.zeros(3, 4).double()
    tree = to_datatree(evidence, log_weights=weights)
    tree["log_evidence/ess"].values[:] = 0
    tree["log_weights/log_weights"].values[:] = 1
    assert torch.equal(evidence.ess, before)
    assert torch.equal(weights, torch.zeros(3, 4).double())


def test_tree_refuses_other_shapes(evidence):
    pytest.importorskip("xarray")
    with pytest.raises(ValueError, match=r"log_weights have shape \(4, 3\); expected \(samples, 4"):
        to_datatree(evidence, log_weights=torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"labels have shape \(3,\); expected one per datum"):
        to_datatree(evidence, labels=torch.arange(3))


def test_arviz_base_reads_the_results(evidence):
    pytest.importorskip("xarray")
    base = pytest.importorskip("arviz_base")
    tree = base.convert_to_datatree(to_datatree(evidence, labels=torch.tensor([3, 1, 3, 0])))
    read = base.extract(tree, group="log_evidence", sample_dims="datum", combined=False)
    for name in _TENSORS:
        _assert_same(read[name].values, evidence, name)
    by_class = read["elbo"].groupby("label").mean()
    assert by_class.sel(label=3).item() == pytest.approx((evidence.elbo[0] + evidence.elbo[2]) / 2)


def test_arviz_stats_summarizes_the_results(evidence):
    pytest.importorskip("xarray")
    pytest.importorskip("xarray_einstats")  # arviz-stats[xarray]; else it has only numpy functions
    stats = pytest.importorskip("arviz_stats")
    log_px = torch.tensor([-3.0, -1.0, -4.0, -1.5]).double()
    finite = dataclasses.replace(evidence, log_px=log_px)
    table = stats.summary(
        to_datatree(finite),
        group="log_evidence",
        var_names=["log_px", "elbo"],
        sample_dims=["datum"],
        kind="stats",
        round_to="none",
    )
    assert float(table.loc["log_px", "mean"]) == pytest.approx(
        finite.log_px.mean().item(), rel=1e-12
    )
    assert float(table.loc["elbo", "mean"]) == pytest.approx(finite.elbo.mean().item(), rel=1e-12)


def test_arviz_stats_finds_the_same_pareto_k_in_the_log_weights(evidence):
    pytest.importorskip("xarray")
    stats = pytest.importorskip("arviz_stats.base")
    uniform = torch.rand(2000, 4, generator=torch.Generator().manual_seed(0)).double()
    log_weights = -torch.tensor([0.2, 0.5, 0.8, 1.1]).double() * uniform.log()  # Pareto tails
    tree = to_datatree(evidence, log_weights=log_weights)
    weights = tree["log_weights/log_weights"]
    assert weights.dims == ("sample", "datum")
    np.testing.assert_array_equal(weights.values, log_weights.numpy())
    axis = weights.get_axis_num("sample")
    _, theirs = stats.array_stats.psislw(-weights.values, axis=axis)  # the negative, as in LOO
    np.testing.assert_allclose(theirs, pareto_k(log_weights).numpy(), atol=0.02)
