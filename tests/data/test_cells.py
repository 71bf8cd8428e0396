"""Files of count matrices, and the exposures that they come with."""

import builtins

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.data import Data
from pyro_vae.data.classes import as_in, label_column
from pyro_vae.data.exposure import with_exposure

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_X = np.random.default_rng(0).poisson(2.0, (60, 5)).astype("f4") + np.eye(60, 5, dtype="f4")


def _cells(path, x=_X, layers=None, **obs):
    names = [str(row) for row in range(x.shape[0])]
    anndata.AnnData(x, pd.DataFrame(obs, index=names), layers=layers).write_h5ad(path)
    return path


def _rows(splits):
    return torch.cat([split.x for split in splits]).sort(0).values


@pytest.mark.parametrize(
    "x", [_X, scipy.sparse.csr_matrix(_X), scipy.sparse.csc_matrix(_X.astype("i8"))]
)
def test_h5ad(tmp_path, x):
    path = _cells(tmp_path / "c.h5ad", x, exposure=_X.sum(1), y=pd.Categorical(["b", "a"] * 30))
    splits = pv.load(path)
    assert [len(split) for split in splits] == [49, 5, 6]
    assert torch.equal(_rows(splits), torch.from_numpy(_X).sort(0).values)
    for split in splits:
        assert torch.equal(split.exposure, split.x.sum(1))
        assert split.exposure.dtype == split.x.dtype == torch.float32
        assert set(split.y.tolist()) <= {0, 1}


def test_layers_and_splits_of_h5ad(tmp_path):
    where = np.array(["train"] * 40 + ["test"] * 20)
    path = _cells(tmp_path / "c.h5ad", np.log1p(_X), {"counts": _X}, split=where)
    train, valid, test = pv.load(path)
    assert [len(train), len(valid), len(test)] == [36, 4, 20]
    assert torch.equal(test.x, torch.from_numpy(_X[40:]))
    assert test.exposure is None
    path = _cells(tmp_path / "d.h5ad", split=np.array(["train", "other"] * 30))
    with pytest.raises(ValueError, match=r"obs\['split'\] holds other, train; expected train"):
        pv.load(path)


def test_sparse_npz(tmp_path):
    scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.csr_matrix(_X))
    assert torch.equal(_rows(pv.load(tmp_path / "x.npz")), torch.from_numpy(_X).sort(0).values)


def test_categories_of_h5ad(tmp_path):
    exposure = pd.Categorical([20.0, 30.0] * 30, categories=[10.0, 20.0, 30.0])
    path = _cells(tmp_path / "c.h5ad", exposure=exposure, y=["T", "B"] * 30)
    splits = pv.load(path)
    for split in splits:
        assert split.class_names == ("B", "T")
        assert torch.equal(split.exposure, 30 - 10.0 * split.y)
    _cells(path, exposure=["much", "little"] * 30)
    with pytest.raises(
        ValueError, match=r"obs\['exposure'\] holds 'much' \(row 0\), which is no n"
    ):
        pv.load(path)
    _cells(path, y=np.arange(60) % 3)
    assert pv.load(path).train.class_names is None


def test_classes_of_other_data():
    data = Data(torch.zeros(4, 1), torch.tensor([1, 0, -1, 1]), class_names=("cat", "bee"))
    found = as_in(("ant", "bee", "cat"), data, "x")
    assert found.y.tolist() == [1, 2, -1, 1]
    assert label_column(found) == ["bee", "cat", "", "bee"]
    assert as_in(None, data, "x") is data
    assert as_in(("ant",), Data(data.x, data.y), "x").y is data.y
    assert as_in(("bee",), data.head(1), "x").y.tolist() == [0]
    with pytest.raises(ValueError, match="x holds data of class 'cat', which"):
        as_in(("bee",), data, "x")


def test_wrong_files(tmp_path, monkeypatch):
    path = tmp_path / "c.h5ad"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as an AnnData file"):
        pv.load(path)
    anndata.AnnData(obs=pd.DataFrame(index=["a", "b"])).write_h5ad(path)
    with pytest.raises(ValueError, match=r"has no X|is empty"):
        pv.load(path)
    whole = builtins.__import__

    def without(name, *args):
        if name == "anndata":
            raise ImportError(name)
        return whole(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'pyro-vae\[counts\]'"):
        pv.load(path)


def test_large_counts_are_not_rounded_in_silence(tmp_path):
    for kind in ("i8", "f8"):
        x = _X.astype(kind)
        x[3, 0] = 2**24 + 1
        np.save(tmp_path / "x.npy", x)
        scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.csr_matrix(x))
        for name in ("x.npy", "x.npz"):
            with pytest.raises(ValueError, match=r"cannot tell apart.*clip those in a file"):
                pv.load(tmp_path / name)
        x[3, 0] = 2**30  # which float32 holds
        np.save(tmp_path / "x.npy", x)
        assert max(split.x.max() for split in pv.load(tmp_path / "x.npy")) == 2**30


@pytest.mark.parametrize(
    ("exposure", "says"),
    [
        (np.ones(7), r"exposure of the x of .* has shape \(7,\); expected \(60,\)"),
        (np.arange(60.0), "must be positive and finite; that of datum 0 is 0"),
        (np.where(np.arange(60) == 4, np.nan, 1), "that of datum 4 is nan"),
        (-np.ones(60), "that of datum 0 is -1"),
    ],
)
def test_wrong_exposures(tmp_path, exposure, says):
    np.savez(tmp_path / "x.npz", x=_X, exposure=exposure)
    with pytest.raises(ValueError, match=says):
        pv.load(tmp_path / "x.npz")


def test_exposures_of_some_splits(tmp_path):
    np.savez(tmp_path / "x.npz", train=_X, train_exposure=_X.sum(1), test=_X)
    with pytest.raises(ValueError, match="some of its splits, and none for test"):
        pv.load(tmp_path / "x.npz")
    np.savez(
        tmp_path / "x.npz", train=_X, train_exposure=_X.sum(1), test=_X, test_exposure=_X[:, 0]
    )
    with pytest.raises(ValueError, match="exposure of the test of"):
        pv.load(tmp_path / "x.npz")


def test_kinds_of_exposure():
    data = pv.Data(torch.from_numpy(_X), exposure=torch.full((60,), 3.0))
    assert with_exposure(data, "file") is data
    assert (with_exposure(data, "none").exposure == 1).all()
    assert torch.equal(with_exposure(data, "library").exposure, data.x.sum(1))
    bare = pv.Data(torch.zeros(3, 2))
    assert (with_exposure(bare, "file").exposure == 1).all()
    with pytest.raises(ValueError, match=r"3 of the 3 data .*\(the first is datum 0.*library size"):
        with_exposure(bare, "library")


def _run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("exposure", [pytest.param("file", marks=pytest.mark.slow), "library"])
def test_from_the_command_line(tmp_path, capsys, exposure):
    path, out = tmp_path / "c.h5ad", tmp_path / "r"
    _cells(path, scipy.sparse.csr_matrix(_X), exposure=2 * _X.sum(1))
    options = ["--program", "counts", "--likelihood", "zero-inflated-negative-binomial"]
    options += [
        "--likelihood.gate",
        0.1,
        "--likelihood.dispersion",
        "value",
        "--exposure",
        exposure,
    ]
    small = ["--latent-dim", 2, "--hidden", 8, "--epochs", 2]
    assert _run("fit", "--data", path, "--out", out, *options, *small) == 0
    assert _run("evaluate", out, "--samples", 20) == 0
    text = capsys.readouterr().out
    assert "given exposures" in text
    assert "with gate 0.1" in text
    unit = pv.load_run(out).vae.unit.item()
    assert unit == pytest.approx((2 if exposure == "file" else 1) * _X.sum(1).mean(), rel=0.05)
    assert _run("sample", out, "--number", 4) == 0
    assert np.load(out / "samples.npy").shape == (4, 5)


@pytest.mark.filterwarnings("default::pyro_vae.PyroVAEWarning")
def test_the_command_line_says_what_is_wrong(tmp_path, capsys):
    out = tmp_path / "r"
    x = _X.copy()
    x[:7] = 0
    np.savez(tmp_path / "x.npz", x=x)
    np.savez(tmp_path / "e.npz", x=_X, exposure=_X.sum(1))
    np.save(tmp_path / "f.npy", _X / 2)
    for options, says in (
        (["--data", tmp_path / "x.npz", "--program", "counts", "--exposure", "library"], "library"),
        (
            ["--data", tmp_path / "x.npz", "--exposure", "library"],
            "does not take exposure='library'",
        ),
        (["--data", tmp_path / "f.npy", "--program", "counts"], "outside the support"),
    ):
        assert _run("fit", "--out", out, "--likelihood", "poisson", *options) == 1
        error = capsys.readouterr().err
        assert says in error
        assert not out.exists()
    fit = ["fit", "--out", out, "--likelihood", "poisson", "--epochs", 1, "--hidden", 4]
    assert _run(*fit, "--data", tmp_path / "e.npz") == 0
    assert "has exposures, which program 'vae' leaves unused" in capsys.readouterr().err
