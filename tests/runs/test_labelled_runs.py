"""Conditional and semi-supervised programs from the command line, in run folders."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.runs.inputs import load_data
from pyro_vae.runs.new_data import read_new
from pyro_vae.runs.run import train_run

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_SMALL = ["--hidden", "16", "--latent-dim", "2", "--batch-size", "200"]
_FIGURES = ("samples", "reconstructions", "curves", "latent", "evidence")
_PROGRAMS = {
    "conditional": ["--program", "conditional", "--learned-prior"],
    "semi-supervised": ["--program", "semi-supervised", "--labels", "50"],
}


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def _parameters(folder):
    return pv.checkpoint.read(folder / "checkpoint.pt")["parameters"]


@pytest.mark.parametrize("program", _PROGRAMS)
def test_fit_evaluate_sample_plot(program, tmp_path, capsys):
    out = tmp_path / "r"
    assert run("fit", "--out", out, *_PROGRAMS[program], *_SMALL, "--epochs", 2) == 0
    assert json.loads((out / "config.json").read_text())["classes"] == 10
    assert pv.load_run(out).config.program == program
    assert run("evaluate", out, "--samples", 20, "--number", 30) == 0
    text = capsys.readouterr().out
    assert ("given labels" in text) == (program == "conditional")
    assert ("accuracy of labels" in text) == (program == "semi-supervised")
    assert run("sample", out, "--number", 12) == 0
    assert np.load(out / "samples.npy").shape == (12, 8, 8)
    assert run("plot", out) == 0
    names = {path.name for path in (out / "figures").iterdir()}
    assert names == {f"{name}.png" for name in _FIGURES}


@pytest.mark.parametrize("program", _PROGRAMS)
def test_resumed_run_ends_at_the_same_bits(program, tmp_path):
    """With data drawn anew in every epoch, and labels beside them."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*_PROGRAMS[program], *_SMALL]
    assert run("fit", "--out", whole, *options, "--epochs", 3) == 0
    assert run("fit", "--out", parts, *options, "--epochs", 1) == 0
    assert run("fit", "--out", parts, "--resume", "--epochs", 3) == 0
    expected = _parameters(whole)
    for name, value in _parameters(parts).items():
        assert torch.equal(value, expected[name])
    config = pv.Config(program=program, epochs=3, hidden=(16,), latent_dim=2, batch_size=200)
    with pytest.raises(ValueError, match="leave these options out to resume it"):
        train_run(config, parts, resume=True)


def test_conditional_data_are_drawn_anew_in_every_epoch(tmp_path):
    finals = []
    for how in ("dynamic", "static"):
        options = [*_PROGRAMS["conditional"], *_SMALL, "--epochs", 2, "--binarize", how]
        assert run("fit", "--out", tmp_path / how, *options) == 0
        finals.append(_parameters(tmp_path / how))
    assert any(not torch.equal(finals[0][name], finals[1][name]) for name in finals[0])


def test_log_px_is_compared_where_it_is_of_the_same_data(tmp_path, capsys):
    kinds = {"vae": [], **_PROGRAMS}
    for name, options in kinds.items():
        assert run("fit", "--out", tmp_path / name, *options, *_SMALL, "--epochs", 1) == 0
        assert run("evaluate", tmp_path / name, "--samples", 20, "--number", 30) == 0
    assert run("compare", tmp_path / "vae", tmp_path / "semi-supervised") == 0
    assert "difference" in capsys.readouterr().out
    assert run("compare", tmp_path / "vae", tmp_path / "conditional") == 1
    assert "given labels" in capsys.readouterr().err
    # log p(x) of a semi-supervised model is its sum over the labels
    vae, test = pv.load_run(tmp_path / "semi-supervised").vae, pv.load("digits").test.head(30)
    hidden = pv.log_evidence(vae.model, vae.guide, (test.x, torch.full((30,), -1)), samples=20)
    stored = pv.Evidence.load(tmp_path / "semi-supervised" / "evidence.json")
    torch.testing.assert_close(stored.log_px, hidden.log_px)
    assert stored.data_sha256 == test.sha256


def test_studies(tmp_path, capsys):
    options = [*_SMALL, "--epochs", 1, "--samples", 10, "--number", 20, "--method", "guide"]
    out = tmp_path / "conditional"
    study = ["study", "latent-dim", 1, 2, "--out", out, "--program", "conditional"]
    assert run(*study, *options) == 0
    assert run(*study, *options, "--resume") == 0  # estimates are found again by their data
    assert capsys.readouterr().out.count("log p(x) of the test data") == 2
    out = tmp_path / "both"
    assert (
        run("study", "program", "vae", "semi-supervised", "--labels", 50, "--out", out, *options)
        == 0
    )
    assert pv.load_run(out / "vae").config.labels is None
    assert pv.load_run(out / "semi-supervised").config.labels == 50
    usage = json.loads((out / "study.json").read_text())["usage"]
    assert usage["vae"]["latents"] == usage["semi-supervised"]["latents"] == 2


@pytest.mark.filterwarnings("ignore:'rates.npz' has exposures:pyro_vae.PyroVAEWarning")
def test_studies_of_different_densities_are_refused_before_training(tmp_path, capsys):
    """log p(x|y) and log p(x|e) are not log p(x); without exposures all programs are of p(x)."""
    options = [*_SMALL, "--epochs", 1, "--samples", 10, "--number", 20, "--method", "guide"]
    out = tmp_path / "study"
    assert run("study", "program", "vae", "conditional", "--out", out, *options) == 1
    assert "given labels: these cannot be compared" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    x = rng.poisson(3.0, (100, 4)).astype("float32")
    counts = ["--likelihood", "poisson", "--binarize", "none", "--data"]
    np.savez(tmp_path / "rates.npz", x=x, exposure=rng.gamma(5.0, 0.2, 100).astype("float32"))
    study = ["study", "program", "vae", "counts", *options, *counts]
    assert run(*study, tmp_path / "rates.npz", "--out", out) == 1
    assert "given exposures: these cannot be compared" in capsys.readouterr().err
    assert not (out / "vae").exists()
    np.savez(tmp_path / "plain.npz", x=x)
    assert run(*study, tmp_path / "plain.npz", "--out", out) == 0
    study = ["study", "latent-dim", 1, 2, "--program", "counts", *options, *counts]
    assert run(*study, tmp_path / "rates.npz", "--out", tmp_path / "rates") == 0


def test_labels_of_a_file(tmp_path, capsys):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(120, 3)), generator.integers(0, 3, 120)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "xy.npz", x=x, y=y)
    np.savez(tmp_path / "floats.npz", x=x, y=y / 2)
    options = [*_SMALL, "--likelihood", "normal", "--epochs", 1, "--program", "conditional"]
    assert run("fit", "--data", tmp_path / "xy.npz", "--out", tmp_path / "r", *options) == 0
    assert pv.load_run(tmp_path / "r").config.classes == 3
    assert run("fit", "--data", tmp_path / "x.npy", "--out", tmp_path / "s", *options) == 1
    error = capsys.readouterr().err
    assert "needs labels, which the train split of 'x.npy' has not" in error
    assert run("fit", "--data", tmp_path / "floats.npz", "--out", tmp_path / "s", *options) == 1
    assert "labels must be integers" in capsys.readouterr().err
    few = [*options, "--classes", 2]
    assert run("fit", "--data", tmp_path / "xy.npz", "--out", tmp_path / "s", *few) == 1
    assert "labels must be integers from 0 to 1; got 2" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("fit --program semi-supervised --labels 9", 1, "labels must be from 10, one of each"),
        ("fit --program semi-supervised --classes -1", 2, "classes must be at least 1; got -1"),
        ("fit --program semi-supervised --gradient stl", 1, "does not take gradient='stl'"),
        ("fit --program semi-supervised --objective iwae", 1, "does not take objective='iwae'"),
        ("fit --labels 50", 1, "'vae' does not take labels=50; only 'semi-supervised' does"),
        ("fit --top-dim 2", 1, "only 'bottom-up' and 'top-down' do"),
        ("study program vae conditional --method guide", 1, "cannot be compared"),
        ("study program vae top-down --labels 20", 1, "takes labels"),
    ],
)
def test_wrong_usage(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*arguments.split(), "--out", "x"]) == code
    assert message in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert not list(tmp_path.iterdir())


def test_an_unknown_label_is_summed_out(tmp_path):
    """One number by every method: with the label drawn by the guide, and without."""
    out = tmp_path / "r"
    assert run("fit", "--out", out, *_PROGRAMS["semi-supervised"], *_SMALL, "--epochs", 1) == 0
    found = {}
    for method, samples in {"guide": 5000, "auto": 1000, "laplace": 1000}.items():
        options = ("--method", method, "--number", 20, "--samples", samples)
        assert run("evaluate", out, *options) == 0
        found[method] = pv.Evidence.load(out / "evidence.json")
    best = found.pop("laplace")
    assert best.standard_error.max() < 0.02
    for one in found.values():
        error = torch.hypot(one.standard_error, best.standard_error)
        assert ((one.log_px - best.log_px) / error)[~one.unreliable()].abs().max() < 4.5


def test_data_keep_some_labels(digits):
    some = pv.partially_labelled(digits.train, labels=50, repeats=3, seed=1)
    x, y = pv.partially_labelled(digits.train.x, digits.train.y, labels=50, repeats=3, seed=1)
    assert torch.equal(some.x, x)
    assert torch.equal(some.y, y)
    assert len(some.intensities) == len(x) == len(digits.train) + 100
    assert torch.equal(
        some.intensities[-100:], digits.train.intensities[y[:1257] >= 0].repeat(2, 1, 1)
    )
    with pytest.raises(ValueError, match="one label for each"):
        pv.partially_labelled(pv.Data(digits.train.x), labels=50)


def _pictures(folder, **shades):
    """A folder of pictures for each class, each class of one shade."""
    for name, shade in shades.items():
        (folder / name).mkdir(parents=True)
        for number in range(6):
            picture = Image.fromarray(np.full((2, 2), shade + number, np.uint8))
            picture.save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def animals(tmp_path):
    """A run conditional on the classes of a folder of pictures."""
    data = _pictures(tmp_path / "abc", ant=10, bee=100, cat=200)
    options = ["--program", "conditional", "--likelihood", "normal", "--epochs", 1, *_SMALL]
    assert run("fit", "--data", data, "--out", tmp_path / "r", *options) == 0
    return tmp_path / "r"


def test_classes_of_new_data_are_found_by_their_names(animals, tmp_path, capsys):
    assert pv.load_run(animals).config.class_names == ("ant", "bee", "cat")
    whole = read_new(animals, tmp_path / "abc")
    some = read_new(animals, _pictures(tmp_path / "bc", bee=100, cat=200))
    for before, after in zip(some.arguments, whole.arguments, strict=True):
        assert torch.equal(before, after[6:])
    assert some.columns()["label"] == ["bee"] * 6 + ["cat"] * 6
    other = _pictures(tmp_path / "other", bee=100, zebra=0)
    assert run("score", animals, other, "--out", tmp_path / "s.csv") == 1
    error = capsys.readouterr().err
    assert "of class 'zebra', which the model was not trained on; it knows 'ant', 'bee'" in error
    assert run("fit", "--out", animals, "--resume", "--epochs", 2) == 0
    shutil.rmtree(tmp_path / "abc" / "ant")  # of the run's own data
    assert set(load_data(pv.load_run(animals).config).train.y.tolist()) == {1, 2}


def test_runs_without_names_of_their_classes_go_on(animals, tmp_path):
    """Those of versions before, and of data whose labels are numbers."""
    path = animals / "checkpoint.pt"
    state = pv.checkpoint.read(path)
    for name in ("format", "version"):
        del state[name]
    del state["config"]["class_names"]
    pv.checkpoint.write(path, state)
    (animals / "config.json").unlink()
    with pytest.warns(pv.PyroVAEWarning, match="no names of its classes; those of .*: bee, cat"):
        new = read_new(animals, _pictures(tmp_path / "bc", bee=100, cat=200))
    assert set(new.arguments[1].tolist()) == {0, 1}
