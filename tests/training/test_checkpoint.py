import os
import pickle

import pytest
import torch

import pyro_vae as pv
from pyro_vae.training import checkpoint


@pytest.fixture
def run(tmp_path, small_config, digits):
    vae = pv.VAE.from_config(small_config, event_shape=(8, 8))
    pv.fit(vae, digits.train.head(50), epochs=1, out=tmp_path / "run", config=small_config)
    return tmp_path / "run", vae


def test_round_trip(run, small_config):
    folder, vae = run
    loaded = pv.load_run(folder)
    assert loaded.config == small_config
    assert loaded.finished
    assert len(loaded.history) == 1
    assert not loaded.vae.training
    for a, b in zip(loaded.vae.parameters(), vae.parameters(), strict=True):
        assert torch.equal(a, b)


def test_hostile_checkpoint_does_not_run(run, tmp_path):
    folder, _ = run
    witness = tmp_path / "witness"

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(witness),)

    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        write(
            {"format": "pyro_vae checkpoint", "version": 1, "x": Hostile()},
            folder / "checkpoint.pt",
        )
        with pytest.raises(pv.CheckpointError, match="not loaded"):
            pv.load_run(folder)
        assert not witness.exists()


@pytest.mark.parametrize("keep", [0, 10, 1000, 0.5, 0.99])
def test_truncated_checkpoint(run, keep):
    path = run[0] / "checkpoint.pt"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(pv.CheckpointError, match="checkpoint"):
        pv.load_run(run[0])


def test_foreign_checkpoint(run):
    path = run[0] / "checkpoint.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(pv.CheckpointError, match=r"is not a checkpoint of pyro_vae"):
        pv.load_run(run[0])
    torch.save({"format": "pyro_vae checkpoint", "version": 99}, path)
    with pytest.raises(pv.CheckpointError, match="version 99"):
        pv.load_run(run[0])
    path.unlink()
    with pytest.raises(pv.CheckpointError, match="no checkpoint"):
        pv.load_run(run[0])


def test_another_architecture(run):
    path = run[0] / "checkpoint.pt"
    state = checkpoint.read(path)
    state["config"] = {**state["config"], "latent_dim": 5}
    checkpoint.write(path, state)
    with pytest.raises(pv.CheckpointError, match=r"another architecture: .* has shape"):
        pv.load_run(run[0])
    state["config"] = {**state["config"], "prior": "mixture"}
    checkpoint.write(path, state)
    with pytest.raises(pv.CheckpointError, match=r"missing prior\.logits"):
        pv.load_run(run[0])
    state["config"] = {"latent_dims": 5}
    checkpoint.write(path, state)
    with pytest.raises(pv.CheckpointError, match=r"no field 'latent_dims'.*'latent_dim'"):
        pv.load_run(run[0])


def test_model_without_config(tmp_path, small_config, digits):
    vae = pv.VAE.from_config(small_config, event_shape=(8, 8))
    pv.fit(vae, digits.train.head(50), epochs=1, out=tmp_path)
    with pytest.raises(pv.CheckpointError, match="not built from a config"):
        pv.load_run(tmp_path)


def test_early_stopping_is_remembered(tmp_path, digits):
    config = pv.Config(latent_dim=8, hidden=(64,))
    vae = pv.VAE.from_config(config, event_shape=(8, 8))
    history = pv.fit(
        vae,
        digits.train.x[:60],
        digits.valid,
        epochs=400,
        patience=3,
        learning_rate=1e-2,
        out=tmp_path,
        config=config,
    )
    loaded = pv.load_run(tmp_path).history
    assert loaded.stopped_early
    assert loaded.restored_epoch == history.restored_epoch is not None
