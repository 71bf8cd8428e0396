import csv
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyro_vae as pv
from pyro_vae.training import checkpoint, loop


def _vae(config, **changes):
    return pv.VAE.from_config(config, event_shape=(8, 8))


def _same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


class OneBatch:
    """A loader of one batch, the same every epoch."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return 1

    def __iter__(self):
        yield self.x


def test_fit_takes_the_steps_of_pyros_svi(small_config, digits):
    """Same initial values, same noise: same parameters after every epoch of one batch."""
    x = digits.train.x[:50]
    ours, theirs = _vae(small_config), _vae(small_config)
    noise = []

    class Recording(pv.ELBO):
        def terms(self, *args, **kwargs):
            noise.append(torch.get_rng_state())
            return super().terms(*args, **kwargs)

    history = pv.fit(ours, OneBatch(x), objective=Recording(), epochs=5, device="cpu")
    # Adam does not see the scale of the gradient but through eps; fit divides by the batch.
    svi = SVI(theirs.model, theirs.guide, pyro.optim.Adam({"lr": 1e-3, "eps": 50e-8}), Trace_ELBO())
    for state, row in zip(noise, history.epochs, strict=True):
        torch.set_rng_state(state)
        loss = svi.step(x)
        assert row.train_elbo == pytest.approx(-loss / 50, rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_elbo_rises_and_history_is_complete(small_config, digits, tmp_path):
    vae = _vae(small_config)
    history = pv.fit(vae, digits.train, digits.valid, epochs=8, learning_rate=5e-3, out=tmp_path)
    assert len(history) == 8
    columns = history.columns()
    assert columns["epoch"] == list(range(1, 9))
    assert columns["valid_elbo"][-1] > columns["valid_elbo"][0] + 1
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    assert [float(row["train_elbo"]) for row in rows] == columns["train_elbo"]


def test_validation_elbo_is_the_elbo(small_config, digits):
    """The logged number is the mean log weight, within its Monte-Carlo error."""
    vae = _vae(small_config)
    history = pv.fit(vae, digits.train, digits.valid, epochs=3)
    with pytest.warns(pv.UnreliableEvidence):
        evidence = pv.log_evidence(vae.model, vae.guide, digits.valid, samples=300)
    n = len(digits.valid)
    log_weights_spread = 3.0  # of one draw, generously; the mean over n data
    assert history.epochs[-1].valid_elbo == pytest.approx(
        evidence.elbo.mean().item(), abs=4 * log_weights_spread / math.sqrt(n)
    )


def test_seed_decides_everything(small_config, digits):
    runs = []
    for seed, disturb in ((0, 1), (0, 2), (1, 1)):
        vae = _vae(small_config)
        torch.manual_seed(disturb)
        state = torch.get_rng_state()
        pv.fit(vae, digits.train, digits.valid, epochs=2, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(vae)
    assert _same(runs[0], runs[1])
    assert not _same(runs[0], runs[2])


def test_sources_of_data(small_config, digits):
    """A tensor, a data set and a loader all train."""
    x = digits.train.x[:64]
    dataset = torch.utils.data.TensorDataset(x, digits.train.y[:64])
    loader = torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True)
    finals = []
    for source in (x, dataset, loader, [x[:32], x[32:]]):
        vae = _vae(small_config)
        history = pv.fit(vae, source, epochs=30, batch_size=16, learning_rate=1e-2)
        assert history.epochs[-1].train_elbo > history.epochs[0].train_elbo + 3
        finals.append(history.epochs[-1].train_elbo)
    assert max(finals) - min(finals) < 4


def test_users_own_program(linear_gaussian):
    """fit trains any module with a model and a guide; the exact log p(x) is the ceiling."""
    lg = linear_gaussian

    class Program(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(5, 3).double()
            self.log_scale = torch.nn.Parameter(torch.zeros(3).double())

        def model(self, x):
            lg.model(x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), self.log_scale.exp()).to_event(1))

    program = Program()
    history = pv.fit(
        program, lg.x, lg.x, objective=pv.ELBO(particles=64), epochs=1500, learning_rate=2e-2
    )
    ceiling = lg.log_px.mean().item()
    assert history.epochs[-1].valid_elbo < ceiling + 0.05
    # A diagonal posterior cannot be exact; the best one loses this much.
    precision = torch.linalg.inv(lg.covariance)
    gap = 0.5 * (precision.diagonal().log().sum() + torch.logdet(lg.covariance)).item()
    assert history.epochs[-1].valid_elbo == pytest.approx(ceiling - gap, abs=0.1)


def test_kl_warmup_runs_from_zero_to_one(small_config, digits):
    weights = []

    class Recording(pv.ELBO):
        def terms(self, *args, kl_weight=1.0):
            weights.append(kl_weight)
            return super().terms(*args, kl_weight=kl_weight)

    pv.fit(
        _vae(small_config),
        digits.train.x[:40],
        objective=Recording(),
        epochs=4,
        batch_size=10,
        kl_warmup=2,
    )
    assert weights == [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8] + [1.0] * 8


def test_warmup_in_steps(small_config, digits):
    """Of 3 steps per epoch, the weight rises over 6 steps as over 2 epochs, and may end midway."""
    x, valid, found = digits.train.x[:60], digits.valid.x[:20], {}
    options = {"epochs": 4, "patience": 1, "batch_size": 20}
    for length, unit in ((2, "epochs"), (6, "steps"), (5, "steps")):
        vae = _vae(small_config)
        history = pv.fit(vae, x, valid, kl_warmup=length, kl_warmup_unit=unit, **options)
        found[length, unit] = vae, history.columns()["kl_weight"]
        assert history.restored_epoch > 2
    assert _same(found[2, "epochs"][0], found[6, "steps"][0])
    assert found[5, "steps"][1][:2] == [2 / 5, 1.0]
    for length, unit in ((4, "epochs"), (10, "steps")):
        with pytest.raises(ValueError, match="after 4 of 4 epochs"):
            pv.fit(_vae(small_config), x, valid, kl_warmup=length, kl_warmup_unit=unit, **options)


@pytest.mark.parametrize(("schedule", "first", "last"), [("cosine", 1.0, 0), ("one-cycle", 0.1, 0)])
def test_schedules(small_config, digits, schedule, first, last):
    history = pv.fit(
        _vae(small_config), digits.train.x, epochs=20, schedule=schedule, learning_rate=1e-3
    )
    rates = history.columns()["learning_rate"]
    assert rates[0] / 1e-3 == pytest.approx(first, abs=0.05)
    assert rates[-1] / 1e-3 == pytest.approx(last, abs=1e-3)
    assert max(rates) <= 1e-3


def test_early_stopping_restores_the_best(digits):
    vae = _vae(pv.Config(latent_dim=8, hidden=(128,)))
    history = pv.fit(
        vae, digits.train.x[:60], digits.valid, epochs=400, patience=5, learning_rate=1e-2
    )
    best = history.best()
    assert history.stopped_early
    assert len(history) == best.epoch + 5 < 400
    assert history.restored_epoch == best.epoch
    assert max(history.columns()["valid_elbo"]) == best.valid_elbo
    # the model is that of the best epoch: training to there gives the same bits
    again = _vae(pv.Config(latent_dim=8, hidden=(128,)))
    pv.fit(again, digits.train.x[:60], digits.valid, epochs=best.epoch, learning_rate=1e-2)
    assert _same(vae, again)


_FILES = {"checkpoint.pt", "checkpoint.previous.pt", "history.csv"}


# Killed and resumed -------------------------------------------------------------------------

_SETTINGS = {
    "epochs": 4,
    "batch_size": 100,
    "schedule": "one-cycle",
    "kl_warmup": 2,
    "patience": 3,
    "checkpoint_seconds": 0.0,
}
_SCRIPT = """
    import os, signal, sys
    import pyro_vae as pv
    from pyro_vae.common import files
    from pyro_vae.training import loop

    moment, out = int(sys.argv[1]), sys.argv[2]
    steps = 0

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    step = loop.Loop._train_step

    def counted(self, batch):
        global steps
        step(self, batch)
        steps += 1
        if steps == moment:
            die()

    loop.Loop._train_step = counted
    if moment < 0:  # between the temporary file and its renaming, at the -moment-th file
        replace, written = files.Path.replace, 0

        def counted_replace(self, target):
            global written
            written += 1
            if written == -moment:
                die()
            return replace(self, target)

        files.Path.replace = counted_replace
    train, valid, _ = pv.load("digits")
    config = pv.Config(latent_dim=3, hidden=(16,))
    vae = pv.VAE.from_config(config, event_shape=(8, 8))
    pv.fit(vae, train, valid, out=out, resume=True, config=config, **SETTINGS)
"""


@pytest.fixture(scope="module")
def uninterrupted(digits):
    config = pv.Config(latent_dim=3, hidden=(16,))
    vae = pv.VAE.from_config(config, event_shape=(8, 8))
    history = pv.fit(vae, digits.train, digits.valid, device="cpu", **_SETTINGS)
    return vae, history


@pytest.mark.parametrize(
    "moment", [8, -2, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 13, 40, -31))]
)
def test_killed_run_resumes_to_the_same_bits(moment, uninterrupted, digits, tmp_path):
    """13 steps an epoch: killed in the first step, inside and at the end of epochs, and midway
    through writing a checkpoint."""
    script = textwrap.dedent(_SCRIPT).replace("SETTINGS", repr(_SETTINGS))
    done = subprocess.run(
        [sys.executable, "-c", script, str(moment), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    expected, expected_history = uninterrupted
    config = pv.Config(latent_dim=3, hidden=(16,), seed=9)  # other initial values: all is restored
    vae = pv.VAE.from_config(config, event_shape=(8, 8))
    if (tmp_path / "checkpoint.pt").exists():
        reached = checkpoint.read(tmp_path / "checkpoint.pt")
        assert reached["epoch"] * 13 + reached["step"] <= abs(moment)
    else:
        vae = pv.VAE.from_config(pv.Config(latent_dim=3, hidden=(16,)), event_shape=(8, 8))
    history = pv.fit(
        vae, digits.train, digits.valid, device="cpu", out=tmp_path, resume=True, **_SETTINGS
    )
    assert _same(vae, expected)
    for name in ("train_elbo", "valid_elbo", "kl_weight", "learning_rate"):
        assert history.columns()[name] == expected_history.columns()[name]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".") and moment > 0]


def test_interrupted_run_is_saved_and_resumes(small_config, digits, tmp_path):
    expected = _vae(small_config)
    pv.fit(expected, digits.train, epochs=3)

    class Impatient(pv.ELBO):
        count = 0

        def terms(self, *args, **kwargs):
            self.count += 1
            if self.count == 17:
                os.kill(os.getpid(), signal.SIGINT)
            return super().terms(*args, **kwargs)

    vae, handler = _vae(small_config), signal.getsignal(signal.SIGINT)
    with pytest.raises(pv.Interrupted, match=r"epoch 2 after step 4; saved to .*resume"):
        pv.fit(vae, digits.train, objective=Impatient(), epochs=3, out=tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    other = _vae(pv.Config(latent_dim=3, hidden=(16,), seed=4))
    pv.fit(other, digits.train, epochs=3, out=tmp_path, resume=True)
    assert _same(other, expected)


def test_fit_works_outside_the_main_thread(small_config, digits):
    failures = []

    def work():
        try:
            pv.fit(_vae(small_config), digits.train.x[:20], epochs=1)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures


def test_finished_run_resumes_to_nothing_and_can_be_made_longer(small_config, digits, tmp_path):
    expected = _vae(small_config)
    pv.fit(expected, digits.train, epochs=4)
    vae = _vae(small_config)
    pv.fit(vae, digits.train, epochs=2, out=tmp_path)
    middle = [p.clone() for p in vae.parameters()]
    pv.fit(vae, digits.train, epochs=2, out=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(middle, vae.parameters(), strict=True))
    pv.fit(vae, digits.train, epochs=4, out=tmp_path, resume=True)
    assert _same(vae, expected)


def test_early_stopping_can_be_made_longer(digits, tmp_path):
    """More epochs are nothing to a run that stopped early, more patience is."""
    given = (digits.train.x[:60], digits.valid.x[:60])
    options = {"learning_rate": 3e-2, "batch_size": 20, "device": "cpu"}

    def fit(seed=4, **more):
        vae = _vae(pv.Config(latent_dim=8, hidden=(64,), seed=seed))
        return vae, pv.fit(vae, *given, **options, **more)

    vae, longest = fit(0, epochs=60, patience=6)
    short, stopped = fit(0, epochs=30, patience=2)
    assert stopped.stopped_early
    assert len(stopped) < len(longest) <= 60
    folder = {"out": tmp_path, "resume": True}
    _, cut = fit(0, epochs=stopped.restored_epoch + 1, patience=2, **folder)
    assert not cut.stopped_early
    assert cut.restored_epoch == stopped.restored_epoch
    again, history = fit(epochs=30, patience=2, **folder)
    assert _same(again, short)
    assert history.columns()["valid_elbo"] == stopped.columns()["valid_elbo"]
    again, history = fit(epochs=60, patience=2, **folder)
    assert _same(again, short)
    assert history.stopped_early
    assert checkpoint.read(tmp_path / "checkpoint.pt")["settings"]["epochs"] == 60
    again, history = fit(epochs=60, patience=6, **folder)
    assert _same(again, vae)
    assert history.restored_epoch == longest.restored_epoch
    with pytest.raises(ValueError, match=r"patience 6 \(now 5\); it can be given more"):
        fit(epochs=60, patience=5, **folder)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_schedules_over_all_epochs_cannot_be_made_longer(schedule, small_config, digits, tmp_path):
    x, options = digits.train.x[:20], {"schedule": schedule, "out": tmp_path, "resume": True}
    pv.fit(_vae(small_config), x, epochs=1, **options)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=rf"{schedule}.*Only a run with schedule 'constant'"):
        pv.fit(_vae(small_config), x, epochs=2, **options)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_checkpoint_without_last_parameters_cannot_be_made_longer(small_config, digits, tmp_path):
    """As the versions before wrote them."""
    given, options = (digits.train.x[:20], digits.valid.x[:20]), {"patience": 1, "out": tmp_path}
    pv.fit(_vae(small_config), *given, epochs=2, **options)
    state = checkpoint.read(tmp_path / "checkpoint.pt")
    state["best"] = state["parameters"]
    del state["last"]
    checkpoint.write(tmp_path / "checkpoint.pt", state)
    assert len(pv.fit(_vae(small_config), *given, epochs=2, resume=True, **options)) == 2
    with pytest.raises(pv.CheckpointError, match="earlier version"):
        pv.fit(_vae(small_config), *given, epochs=3, resume=True, **options)


# Wrong input --------------------------------------------------------------------------------


def test_run_folder_exists(small_config, digits, tmp_path):
    pv.fit(_vae(small_config), digits.train.x[:20], epochs=1, out=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already"):
        pv.fit(_vae(small_config), digits.train.x[:20], epochs=1, out=tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_resume_with_other_settings(small_config, digits, tmp_path):
    x = digits.train.x[:20]
    pv.fit(_vae(small_config), x, epochs=1, out=tmp_path)
    with pytest.raises(ValueError, match=r"seed 0 \(now 3\)"):
        pv.fit(_vae(small_config), x, epochs=1, seed=3, out=tmp_path, resume=True)
    other = _vae(pv.Config(latent_dim=4, hidden=(16,)))
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(pv.CheckpointError, match="another architecture"):
        pv.fit(other, x, epochs=1, out=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_data_errors(small_config, digits):
    vae = _vae(small_config)
    x = digits.train.x[:20].clone()
    with pytest.raises(ValueError, match="empty"):
        pv.fit(vae, x[:0])
    bad = x.clone()
    bad[7, 0, 0] = math.inf
    with pytest.raises(ValueError, match=r"training data holds NaN or infinite.*datum 7"):
        pv.fit(vae, bad)
    with pytest.raises(ValueError, match=r"validation data holds NaN"):
        pv.fit(vae, x, bad * math.nan)
    with pytest.raises(ValueError, match=r"(?s)Bernoulli.*datum 0.*binarization"):
        pv.fit(vae, torch.rand(20, 8, 8))
    with pytest.raises(ValueError, match=r"expects input of shape \(\.\.\., 8, 8\)"):
        pv.fit(vae, torch.zeros(20, 28, 28))
    with pytest.raises(TypeError, match="must be a tensor, a data set or a loader"):
        pv.fit(vae, 3)
    with pytest.raises(TypeError, match="can be read only once"):
        pv.fit(vae, (batch for batch in [x]))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'"),
        ({"patience": 3}, "needs validation data"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_settings_errors(small_config, digits, change, match):
    with pytest.raises(ValueError, match=match):
        pv.fit(_vae(small_config), digits.train.x[:20], **change)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_absent_gpu(small_config, digits):
    with pytest.raises(ValueError, match="torch sees no GPU"):
        pv.fit(_vae(small_config), digits.train.x[:20], device="cuda")


def test_nan_loss_names_step_and_cause_and_keeps_the_checkpoint(small_config, digits, tmp_path):
    vae = _vae(small_config)

    class Poisoned(pv.ELBO):
        count = 0

        def terms(self, *args, **kwargs):
            self.count += 1
            if self.count == 5:
                with torch.no_grad():
                    vae.likelihood.network.output.bias.fill_(math.nan)
            return super().terms(*args, **kwargs)

    with pytest.raises(pv.NonFiniteLoss, match=r"epoch 1, step 5: parameters likelihood.network"):
        pv.fit(
            vae, digits.train, objective=Poisoned(), epochs=2, out=tmp_path, checkpoint_seconds=0
        )
    kept = checkpoint.read(tmp_path / "checkpoint.pt")
    assert kept["step"] == 4
    assert all(value.isfinite().all() for value in kept["parameters"].values())


def test_losses_looked_at_now_and_then_are_the_same(small_config, digits, monkeypatch):
    """As on a GPU, where every look would make the host wait."""
    often = pv.fit(_vae(small_config), digits.train, epochs=2)
    monkeypatch.setattr(loop, "_LOOK_EVERY", {})
    monkeypatch.setattr(loop, "_LOOK_EVERY_ELSE", 5)
    vae, seldom = _vae(small_config), {}

    class Poisoned(pv.ELBO):
        def terms(self, *args, **kwargs):
            seldom["steps"] = seldom.get("steps", 0) + 1
            loss, elbo = super().terms(*args, **kwargs)
            return loss, elbo + (math.inf if seldom["steps"] == 8 else 0.0)

    again = pv.fit(_vae(small_config), digits.train, epochs=2)
    assert again.columns()["train_elbo"] == often.columns()["train_elbo"]
    with pytest.raises(pv.NonFiniteLoss, match=r"epoch 1, step 8[.]"):
        pv.fit(vae, digits.train, objective=Poisoned(), epochs=1)
    assert seldom["steps"] == 10  # the next look


def test_nan_density_is_named(digits):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(64, 2)

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                logits = z.sum(-1).log().reshape(-1, 1, 1).expand(-1, 8, 8)
                pyro.sample("pixels", dist.Bernoulli(logits=logits).to_event(2), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                loc = self.encoder(x.flatten(1))
                pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    with pytest.raises(pv.NonFiniteLoss, match=r"step 1: log density of site 'pixels' \(Bernoulli"):
        pv.fit(Broken(), digits.train, epochs=1)


def test_full_disk_keeps_the_last_checkpoint(small_config, digits, tmp_path, monkeypatch):
    saves = 0
    save = torch.save

    def failing(content, file):
        nonlocal saves
        saves += 1
        if saves == 4:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match=r"cannot write .*checkpoint.pt: .*No space left"):
        pv.fit(_vae(small_config), digits.train, epochs=2, out=tmp_path, checkpoint_seconds=0)
    assert checkpoint.read(tmp_path / "checkpoint.pt")["step"] == 2
    assert {p.name for p in tmp_path.iterdir()} == _FILES


def test_unwritable_folder(small_config, digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        pv.fit(_vae(small_config), digits.train.x[:20], out=tmp_path / "file" / "run")
    assert Path(tmp_path / "file").read_text() == ""


# Found by others -------------------------------------------------------------------------------


def test_changed_data_do_not_resume(small_config, digits, tmp_path):
    pv.fit(_vae(small_config), digits.train.x[:40], epochs=1, out=tmp_path)
    with pytest.raises(ValueError, match="train_data"):
        pv.fit(_vae(small_config), digits.train.x[1:41], epochs=1, out=tmp_path, resume=True)


def test_list_of_batches_counts_batches(small_config, digits):
    x = digits.train.x[:60]
    history = pv.fit(_vae(small_config), [x[:30], x[30:]], epochs=3, schedule="cosine", kl_warmup=1)
    rates = history.columns()["learning_rate"]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert history.columns()["kl_weight"] == [0.5, 1, 1]


def test_loader_with_a_generator_of_its_own_resumes(small_config, digits, tmp_path):
    def loader():
        return torch.utils.data.DataLoader(
            digits.train.x[:64], 16, shuffle=True, generator=torch.Generator().manual_seed(5)
        )

    expected = _vae(small_config)
    pv.fit(expected, loader(), epochs=4)
    vae = _vae(small_config)
    pv.fit(vae, loader(), epochs=2, out=tmp_path)
    pv.fit(vae, loader(), epochs=4, out=tmp_path, resume=True)
    assert _same(vae, expected)


def test_gradient_that_is_not_finite_never_reaches_a_checkpoint(digits, tmp_path):
    class Poisoned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(()))

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                # finite value, NaN gradient: sqrt at 0
                loc = z[..., 0] + (self.loc * 0).sqrt()
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, 0, 0])

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    with pytest.raises(pv.NonFiniteLoss, match="parameters loc became NaN"):
        pv.fit(Poisoned(), digits.train.x[:10], epochs=1, out=tmp_path)
    kept = checkpoint.read(tmp_path / "checkpoint.pt")
    assert kept["parameters"]["loc"].isfinite()


def test_parameters_in_the_global_store_are_refused(digits):
    class Stored(torch.nn.Module):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0, 0])

        def guide(self, x):
            loc = pyro.param("loc", torch.zeros(()))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, 1.0))

    with pytest.raises(ValueError, match="parameter 'loc' lives in Pyro's global store"):
        pv.fit(Stored(), digits.train.x[:10], epochs=1)
    pyro.clear_param_store()


def test_history_is_per_datum_whatever_the_plate_scale(small_config, digits):
    class Scaled(pv.VAE):
        def model(self, x):
            with pyro.plate("data", 5000, subsample=x):
                pyro.sample("x", self.likelihood(pyro.sample("z", self.prior())), obs=x)

        def guide(self, x):
            with pyro.plate("data", 5000, subsample=x):
                pyro.sample("z", self.posterior(x))

    plain = _vae(small_config)
    scaled = Scaled(plain.prior, plain.likelihood, plain.posterior)
    x = digits.train.x[:50]
    one = pv.fit(plain, x, digits.valid, epochs=1, learning_rate=1e-9)
    two = pv.fit(scaled, x, digits.valid, epochs=1, learning_rate=1e-9)
    assert two.epochs[0].train_elbo == pytest.approx(one.epochs[0].train_elbo, rel=1e-4)
    assert two.epochs[0].valid_elbo == pytest.approx(one.epochs[0].valid_elbo, rel=1e-4)


def test_frozen_submodules_stay_frozen(small_config, digits):
    vae = _vae(small_config)
    vae.likelihood.eval()
    pv.fit(vae, digits.train.x[:20], digits.valid, epochs=1)
    assert vae.training
    assert not vae.likelihood.training


def test_validation_has_the_same_noise_after_every_epoch(small_config, digits):
    history = pv.fit(
        _vae(small_config), digits.train.x[:20], digits.valid, epochs=3, learning_rate=1e-12
    )
    values = history.columns()["valid_elbo"]
    assert max(values) - min(values) < 1e-5


def test_leftovers_of_a_killed_write_are_swept(small_config, digits, tmp_path):
    (tmp_path / ".checkpoint.pt.tmp-abc").write_bytes(b"half")
    pv.fit(_vae(small_config), digits.train.x[:20], epochs=1, out=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == _FILES


def test_wrong_kinds_of_arguments(small_config, digits):
    x = digits.train.x[:20]
    with pytest.raises(TypeError, match=r"objective must be one of pyro_vae's, such"):
        pv.fit(_vae(small_config), x, objective=Trace_ELBO())
    with pytest.raises(TypeError, match=r"program must be an nn\.Module"):
        pv.fit(lambda x: None, x)
    with pytest.raises(ValueError, match="resume=True needs the run folder"):
        pv.fit(_vae(small_config), x, resume=True)
    with pytest.raises(ValueError, match=r"float64.*float32"):
        pv.fit(_vae(small_config), x.double())


def test_says_where_the_kl_term_is_sampled(digits):
    config = pv.Config(latent_dim=2, hidden=(8,))
    data, analytic = digits.train.head(50), pv.ELBO(kl="analytic")
    vae = pv.VAE.from_config(config, event_shape=(8, 8))
    pv.fit(vae, data, objective=analytic, epochs=1)  # closed form: no warning
    mixture = pv.VAE(pv.priors.MixtureOfNormals(2), vae.likelihood, vae.posterior)
    with pytest.warns(pv.PyroVAEWarning, match="KL term of z has no closed form here"):
        pv.fit(mixture, data, objective=analytic, epochs=1)
