"""Runs made longer: estimates of a run go when it trains on, and only then."""

from dataclasses import replace

import pytest
import torch

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.runs.run import EVIDENCE, METRICS, train_run

_CONFIG = pv.Config(latent_dim=2, hidden=(8,), epochs=1, batch_size=400)


def _train(out, config=_CONFIG, **options):
    return train_run(config, out, device="cpu", **options)


def _evaluated(out):
    for name in (EVIDENCE, METRICS):
        (out / name).write_text("{}")


def _is_evaluated(out):
    return [(out / name).exists() for name in (EVIDENCE, METRICS)] == [True, True]


def test_refused_run_keeps_its_estimates(tmp_path):
    config = replace(_CONFIG, schedule="cosine")
    _train(tmp_path, config)
    _evaluated(tmp_path)
    with pytest.raises(ValueError, match=r"spreads over all epochs.*--config .* --epochs 2"):
        _train(tmp_path, replace(config, epochs=2), resume=True)
    assert _is_evaluated(tmp_path)
    assert pv.load_run(tmp_path).config.epochs == 1


def test_run_that_stopped_early(tmp_path, capsys):
    """More epochs leave its parameters and estimates alone, more patience does not."""
    config = replace(_CONFIG, patience=1, epochs=30, learning_rate=0.3)
    assert _train(tmp_path, config).stopped_early
    _evaluated(tmp_path)
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
    assert not (tmp_path / EVIDENCE).exists()
    assert len(pv.load_run(tmp_path).history) > len(before.history)
    assert pv.load_run(tmp_path).config.patience == 2
    assert cli.main([*options, "--epochs", "3"]) == 1
    assert "epochs 40 (now 3); it can be given more" in capsys.readouterr().err
