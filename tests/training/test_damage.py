"""Checkpoints that were damaged, changed, or never were right; folders that go away."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.common.locks import FolderLock
from pyro_vae.training import checkpoint

_CONFIG = pv.Config(latent_dim=3, hidden=(16,))


def _vae():
    return pv.VAE.from_config(_CONFIG, event_shape=(8, 8))


def _fit(folder, digits, *, vae=None, **options):
    options = {"epochs": 2, "checkpoint_seconds": 0.0, "device": "cpu", **options}
    vae = vae or _vae()
    pv.fit(vae, digits.train.x[:40], batch_size=20, out=folder, config=_CONFIG, **options)
    return vae


@pytest.fixture(scope="module")
def good(tmp_path_factory, digits):
    """A finished run, not to be written to."""
    folder = tmp_path_factory.mktemp("good") / "run"
    return folder, _fit(folder, digits)


@pytest.fixture
def run(good, tmp_path):
    """A copy of it."""
    return shutil.copytree(good[0], tmp_path / "run")


def _same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def _flip(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def _in_the_numbers(path):
    """Place of a byte of the parameters."""
    first = next(iter(checkpoint.read(path)["parameters"].values()))
    return path.read_bytes().index(first.numpy().tobytes()[:16]) + 5


@pytest.mark.parametrize("old", [False, True])
def test_flipped_bits_never_give_other_parameters(old, good, run):
    """Of this version's checkpoints and of old ones."""
    path, expected = run / "checkpoint.pt", good[1]
    if old:
        record = "tests/records/checkpoints/vae"
        shutil.rmtree(run)
        shutil.copytree(Path(__file__).parents[2] / record, run)
        expected = pv.load_run(run).vae
    content = path.read_bytes()
    random = np.random.default_rng(0)
    places = [_in_the_numbers(path), *random.integers(0, len(content), 20).tolist()]
    refused = 0
    for place in places:
        _flip(path, place, int(random.integers(8)))
        try:
            assert _same(pv.load_run(run).vae, expected)
        except pv.CheckpointError as error:
            refused += str(path) in str(error)
        path.write_bytes(content)
    assert refused > 10


def test_damage_says_what_to_do(run):
    path = run / "checkpoint.pt"
    _flip(path, _in_the_numbers(path))
    with pytest.raises(pv.CheckpointError, match=r"checkpoint\.pt .*has another checksum.*resume"):
        pv.load_run(run)
    (run / "checkpoint.previous.pt").unlink()
    with pytest.raises(pv.CheckpointError, match="Restore the file from a copy, or train again"):
        pv.load_run(run)


def test_checksums_are_written_whatever_torch_was_told(run):
    path = run / "checkpoint.pt"
    state = checkpoint.read(path)
    torch.serialization.set_crc32_options(False)
    try:
        checkpoint.write(path, state)
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert pv.load_run(run).finished


# The checkpoint before ---------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_resumes_from_the_checkpoint_before(damage, good, run, digits):
    path = run / "checkpoint.pt"
    damaged = path.read_bytes()[:-100]
    if damage == "flipped":
        _flip(path, _in_the_numbers(path))
        damaged = path.read_bytes()
    elif damage == "cut":
        path.write_bytes(damaged)
    else:
        path.unlink()
    vae = pv.VAE.from_config(pv.Config(latent_dim=3, hidden=(16,), seed=5), event_shape=(8, 8))
    words = r"checkpoint\.pt is (damaged|not there).* goes on from checkpoint\.previous\.pt, epoch"
    with pytest.warns(pv.PyroVAEWarning, match=words):
        _fit(run, digits, vae=vae, resume=True)
    assert _same(vae, good[1])
    assert _same(pv.load_run(run).vae, good[1])
    kept = run / "checkpoint.damaged.pt"
    assert kept.read_bytes() == damaged if damage != "gone" else not kept.exists()


def test_both_checkpoints_damaged(run, digits):
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        _flip(run / name, _in_the_numbers(run / name))
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(pv.CheckpointError, match=r"both checkpoints of .*/run are damaged"):
        _fit(run, digits, resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


# Entries -----------------------------------------------------------------------------------------


def _wrong_entries(state):
    for name in checkpoint.State.__annotations__.keys() - {"format", "version", "threads", "last"}:
        yield f"without {name}", {key: value for key, value in state.items() if key != name}
        if name not in ("config", "event_shape", "best", "scheduler", "restored_epoch"):
            yield f"{name} None", {**state, name: None}
        yield f"{name} bytes", {**state, name: b"x"}
    tensors = state["parameters"]
    first = next(iter(tensors))
    for what, values in {
        "numbers": dict.fromkeys(tensors, 1),
        "NaN": {name: value * float("nan") for name, value in tensors.items()},
        "infinite": {**tensors, first: tensors[first] / 0},
        "double": {name: value.double() for name, value in tensors.items()},
        "of another shape": {**tensors, first: tensors[first][:1]},
        "more": {**tensors, "foreign": torch.zeros(1)},
    }.items():
        yield f"parameters {what}", {**state, "parameters": values}
    for shape in ([10**9, 10**9], [10**5, 10**5], [-1], [8, 8, 8], [], [0], [2**62, 4]):
        yield f"shape {shape}", {**state, "event_shape": shape}
    for config in ({"latent_dim": "x"}, {"unknown": 1}, {"hidden": [10**12]}, {"epochs": -1}):
        yield f"config {config}", {**state, "config": {**state["config"], **config}}
    settings = {**state["settings"], "epochs": "x"}
    yield "settings", {**state, "settings": settings}
    yield "rows", {**state, "history": [{"epoch": 1}]}


def test_wrong_entries_are_checkpoint_errors(run, digits):
    """With checksums that are right: read, and resumed."""
    path = run / "checkpoint.pt"
    state = checkpoint.read(path)
    (run / "checkpoint.previous.pt").unlink()
    (run / "config.json").unlink()
    for what, wrong in _wrong_entries(state):
        torch.save(wrong, path)
        with pytest.raises(pv.CheckpointError, match=r"checkpoint\.pt"):
            pytest.fail(f"{what}: loaded {pv.load_run(run)}")
    optimizer = {**state["optimizer"], "param_groups": []}
    for wrong in ({"optimizer": optimizer}, {"rng": [{"cpu": torch.zeros(3)}]}, {"rng": []}):
        torch.save({**state, **wrong}, path)
        with pytest.raises(pv.CheckpointError, match="entries that do not fit"):
            _fit(run, digits, resume=True)


# Folders -----------------------------------------------------------------------------------------


class _Meddling(pv.ELBO):
    """An objective in whose third step something happens."""

    def __init__(self, what):
        super().__init__()
        self.what, self.step = what, 0

    def terms(self, *args, **kwargs):
        self.step += 1
        if self.step == 3:
            self.what()
        return super().terms(*args, **kwargs)


def test_a_folder_deleted_while_training_is_no_new_folder(digits, tmp_path):
    folder = tmp_path / "run"
    meddling = _Meddling(lambda: shutil.rmtree(folder))
    with pytest.raises(FileNotFoundError, match=r"/run was deleted, moved or replaced"):
        _fit(folder, digits, objective=meddling, epochs=4)
    assert not folder.exists()

    def replace():
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "mine").touch()

    with pytest.raises(FileNotFoundError, match=r"/run was deleted, moved or replaced"):
        _fit(folder, digits, objective=_Meddling(replace), epochs=4)
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_two_fits_into_one_folder(good, digits, tmp_path):
    folder, refused = tmp_path / "run", []

    def second():
        try:
            FolderLock(folder).take()  # as a second process begins
        except BlockingIOError as error:
            refused.append(str(error))

    def meddle():
        (folder / ".evidence.json.tmp-1").touch()  # of an evaluation beside it
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    vae = _fit(folder, digits, objective=_Meddling(meddle))
    assert "in use by another process" in refused[0]
    assert _same(vae, good[1])
    assert (folder / ".evidence.json.tmp-1").exists()
    lock = FolderLock(tmp_path / "other")
    lock.take()
    with pytest.raises(BlockingIOError, match="in use by another process"):
        _fit(tmp_path / "other", digits)
    assert [path.name for path in (tmp_path / "other").iterdir()] == [".lock"]
    lock.release()
