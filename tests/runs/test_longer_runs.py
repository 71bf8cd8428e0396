"""Runs made longer: estimates of a run count until it trains on, and are kept."""

import warnings
from dataclasses import replace

import pytest
import torch

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.common.errors import CheckpointError
from pyro_vae.common.settings import EvaluationSettings
from pyro_vae.runs.export import export_run
from pyro_vae.runs.results import EVIDENCE, stored_evidence
from pyro_vae.runs.run import compare_runs, evaluate_run, train_run

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_CONFIG = pv.Config(latent_dim=2, hidden=(8,), epochs=1, batch_size=400)


def _train(out, config=_CONFIG, **options):
    return train_run(config, out, device="cpu", **options)


def _evaluate(out):
    return evaluate_run(out, EvaluationSettings(samples=30, number=5, search=False), device="cpu")


def _is_evaluated(out):
    return stored_evidence(out) is not None


def test_refused_run_keeps_its_estimates(tmp_path):
    config = replace(_CONFIG, schedule="cosine")
    _train(tmp_path, config)
    _evaluate(tmp_path)
    with pytest.raises(ValueError, match=r"spreads over all epochs.*--config .* --epochs 2"):
        _train(tmp_path, replace(config, epochs=2), resume=True)
    assert _is_evaluated(tmp_path)
    assert pv.load_run(tmp_path).config.epochs == 1


def test_run_that_stopped_early(tmp_path, capsys):
    """More epochs leave its parameters and estimates alone, more patience does not."""
    config = replace(_CONFIG, patience=1, epochs=30, learning_rate=0.3)
    assert _train(tmp_path, config).stopped_early
    _evaluate(tmp_path)
    before = pv.load_run(tmp_path)
    options = ["fit", "--out", str(tmp_path), "--resume"]
    assert cli.main([*options, "--epochs", "40"]) == 0
    assert f"stopped early, after {len(before.history)} epochs" in capsys.readouterr().out
    assert _is_evaluated(tmp_path)
    after = pv.load_run(tmp_path)
    assert after.config.epochs == 40
    assert after.history.epochs == before.history.epochs
    pairs = zip(before.vae.parameters(), after.vae.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert cli.main([*options, "--patience", "2"]) == 0
    capsys.readouterr()
    with pytest.warns(pv.PyroVAEWarning, match="is of other parameters than the run has now"):
        assert not _is_evaluated(tmp_path)
    assert len(pv.load_run(tmp_path).history) > len(before.history)
    assert pv.load_run(tmp_path).config.patience == 2
    assert cli.main([*options, "--epochs", "3"]) == 1
    assert "epochs 40 (now 3); it can be given more" in capsys.readouterr().err


def test_estimates_belong_to_the_parameters(tmp_path, capsys):
    """Those of another run, or of the same one before it went on, are left out with a warning."""
    one, other = tmp_path / "one", tmp_path / "other"
    _train(one)
    _train(other, replace(_CONFIG, seed=1))
    assert torch.equal(_evaluate(one).log_px, stored_evidence(one).log_px)
    (other / EVIDENCE).write_text((one / EVIDENCE).read_text())
    with (
        pytest.warns(pv.PyroVAEWarning, match="is of other parameters"),
        pytest.raises(CheckpointError, match=r"other was not evaluated; run `pyro-vae evaluate"),
    ):
        compare_runs([one, other])
    with pytest.raises(CheckpointError, match=r"there is no folder .*onne"):
        compare_runs([one, tmp_path / "onne"])
    _train(one, replace(_CONFIG, epochs=2), resume=True)
    assert (one / EVIDENCE).exists()
    with warnings.catch_warnings():
        warnings.simplefilter("always", pv.PyroVAEWarning)
        assert cli.main(["plot", str(one)]) == 0
    assert "is of other parameters than the run has now" in capsys.readouterr().err
    with pytest.warns(pv.PyroVAEWarning, match="is of other parameters"):
        exported = export_run(one)
    assert not (exported / EVIDENCE).exists()
    _evaluate(one)
    assert (export_run(one) / EVIDENCE).exists()
    assert stored_evidence(exported).model_sha256 == stored_evidence(one).model_sha256
