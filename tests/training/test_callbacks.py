"""Functions called after every epoch: what they see, what they may do, what they cannot change."""

import csv
import math
import random

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.common.processes import Processes, unshared
from pyro_vae.training.callbacks import Callbacks


def _fit(linear, epochs=3, **options):
    vae = pv.VAE.from_config(
        pv.Config(latent_dim=2, hidden=(8,), likelihood="normal"), event_shape=(5,)
    ).double()
    x = linear.x.repeat(20, 1)
    given = {"batch_size": 50, "device": "cpu", "checkpoint_seconds": 1e9, **options}
    return vae, pv.fit(vae, x, x[:50], epochs=epochs, **given)


def _same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_they_see_every_row_once_and_in_turn(linear_gaussian):
    seen = []
    _, history = _fit(linear_gaussian, on_epoch=[lambda row: seen.append(("a", row)), print])
    assert [row for _, row in seen] == history.epochs
    assert [row.epoch for row in history.epochs] == [1, 2, 3]
    row = history.epochs[0].to_dict()
    assert row["train_elbo"] == history.epochs[0].train_elbo
    assert next(iter(row)) == "epoch"


def test_they_change_no_bit_of_the_training(linear_gaussian):
    """Whatever they draw, switch, or evaluate; a learning program takes dropout, say, as before."""
    plain, history = _fit(linear_gaussian)

    seen = []

    def meddle(row):
        seen.append((other.training, torch.get_num_threads()))
        torch.randn(row.epoch)
        torch.manual_seed(random.randrange(1000))
        torch.set_num_threads(1 + row.epoch % 2)
        other.eval()
        pv.log_evidence(vae.model, vae.guide, linear_gaussian.x, samples=20)
        torch.set_grad_enabled(True)

    vae = pv.VAE.from_config(
        pv.Config(latent_dim=2, hidden=(8,), likelihood="normal"), event_shape=(5,)
    ).double()
    other = vae
    x = linear_gaussian.x.repeat(20, 1)
    options = {"batch_size": 50, "device": "cpu", "on_epoch": meddle}
    with torch.random.fork_rng():
        again = pv.fit(vae, x, x[:50], epochs=3, **options)
    assert _same(plain, vae)
    assert seen == [(True, 1)] * 3  # undone every time
    for a, b in zip(history.epochs, again.epochs, strict=True):
        assert (a.train_elbo, a.valid_elbo) == (b.train_elbo, b.valid_elbo)


def test_what_they_return_becomes_columns(linear_gaussian, tmp_path):
    seen = []

    def noise(row):
        return {"noise": torch.rand(())}

    def late(row):
        seen.append(row.more)
        return {"late": 7} if row.epoch == 2 else None

    out = tmp_path / "r"
    _, history = _fit(linear_gaussian, on_epoch=[noise, late], out=out)
    columns = history.columns()
    assert columns["noise"] == [one["noise"] for one in seen]
    assert len(set(columns["noise"])) == 3  # seeded by the epoch
    assert math.isnan(columns["late"][0])
    assert columns["late"][1] == 7
    rows = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    assert [float(row["noise"]) for row in rows] == columns["noise"]
    # a resumed run keeps the columns of its earlier rows
    _, longer = _fit(linear_gaussian, epochs=4, out=out, resume=True)
    assert longer.columns()["noise"][:3] == columns["noise"]
    assert math.isnan(longer.columns()["noise"][3])


def test_an_error_names_itself_and_loses_nothing(linear_gaussian, tmp_path):
    plain, _ = _fit(linear_gaussian)
    out = tmp_path / "r"

    def stumble(row):
        if row.epoch == 2:
            raise KeyError("missing")

    with pytest.raises(KeyError, match="missing") as caught:
        _fit(linear_gaussian, on_epoch=stumble, out=out)
    notes = " ".join(caught.value.__notes__)
    assert "stumble) after epoch 2" in notes
    assert f"saved to {out}" in notes
    assert pv.checkpoint.read(out / "checkpoint.pt")["epoch"] == 2
    vae, history = _fit(linear_gaussian, out=out, resume=True)
    assert len(history) == 3
    assert _same(plain, vae)
    with pytest.raises(KeyError) as caught:
        _fit(linear_gaussian, on_epoch=stumble)
    assert "nothing was saved" in caught.value.__notes__[-1]


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ({"seconds": 1.0}, ValueError, "'seconds', which is a column already"),
        ({"text": "3"}, TypeError, "must return numbers by name"),
        ({"many": torch.zeros(2)}, TypeError, "must return numbers by name"),
    ],
)
def test_wrong_columns_are_refused(returned, error, message, linear_gaussian):
    with pytest.raises(error, match=message):
        _fit(linear_gaussian, epochs=1, on_epoch=lambda row: returned)


def test_what_cannot_be_called_is_refused_at_once(linear_gaussian):
    with pytest.raises(TypeError, match="the row of the history"):
        _fit(linear_gaussian, on_epoch=["print"])


def test_of_several_processes_the_first_calls_them(linear_gaussian):
    called = []
    row = pv.training.Epoch(1, -1.0, -1.0, 1.0, 0.1, 0.0)

    class Second(Processes):
        def gather(self, value):
            return [(True, row), value]  # as the first sends that it has failed

    callbacks = Callbacks((called.append,))
    history = pv.History([row])
    callbacks(torch.nn.Linear(1, 1), history, 0, Second(1, 2))
    assert not called
    with pytest.raises(RuntimeError, match="failed in the first process"):
        callbacks.check("")
    with unshared():
        assert Processes.join() == Processes()


def test_monitors_are_what_analysis_says_at_the_end(tmp_path):
    from pyro_vae.runs.run import train_run

    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(100, 4)))
    config = pv.Config(
        data=str(tmp_path / "x.npz"), likelihood="normal", latent_dim=2, hidden=(8,), epochs=2
    )
    train_run(config, tmp_path / "r", monitor=True)
    rows = list(csv.DictReader((tmp_path / "r" / "history.csv").read_text().splitlines()))
    vae, valid = pv.load_run(tmp_path / "r").vae, pv.load(config.data).valid
    rate = pv.analysis.rate(vae.model, vae.guide, valid)
    active = pv.analysis.active_units(vae.model, vae.guide, valid).number
    assert float(rows[-1]["rate"]) == pytest.approx(rate.rate, abs=1e-5)
    assert float(rows[-1]["mutual_information"]) == pytest.approx(rate.mutual_information, abs=1e-5)
    assert [float(row["active_units"]) for row in rows][-1] == active
