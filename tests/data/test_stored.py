"""Arrays on disk and streams: the same numbers as in memory, in the same order."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler

import pyro_vae as pv
from pyro_vae.data import Data, as_source, fingerprint, fingerprint_of, stored
from pyro_vae.data.stored import Stored, check_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence"),
    pytest.mark.filterwarnings("ignore:training made the model worse:pyro_vae.PyroVAEWarning"),
]


def _program(x):
    pass


def _pair(x, y):
    pass


@pytest.fixture
def on_disk(tmp_path):
    """Write an array, and give it as it is in memory and on disk."""

    def write(array):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(path, array)
        return array, np.load(path, mmap_mode="r")

    return write


def _numbers(shape, kind="f4"):
    return np.random.default_rng(0).normal(100, 50, shape).clip(0, 255).astype(kind)


@pytest.mark.parametrize("kind", ["f4", "f8", "u1", "i2", ">f4", "?"])
def test_rows_are_those_in_memory(on_disk, kind):
    array, mapped = on_disk(_numbers((70, 3, 2), kind))
    for floating in (False, True):
        options = {"dtype": torch.float32, "floating": floating}
        inside, outside = (as_source(a, _program, **options) for a in (array, mapped))
        assert (inside.in_memory, outside.in_memory) == (True, False)
        assert len(outside) == 70
        for call in (
            lambda s: list(s.blocks(32)),
            lambda s: list(s.select(torch.tensor([3, 40, 69]), 2)),
            lambda s: list(s.shuffled(16, torch.Generator().manual_seed(1), slice(0, 9))),
        ):
            for (a,), (b,) in zip(call(inside), call(outside), strict=True):
                assert a.dtype == b.dtype
                assert torch.equal(a, b)
        assert fingerprint_of(inside) == fingerprint_of(outside)
        assert inside.sha256 == outside.sha256


def test_fit_and_evidence_are_those_in_memory(on_disk):
    array, mapped = on_disk(_numbers((150, 6)) / 100)
    results = []
    for x in (array, mapped, mapped[:]):
        config = pv.Config(latent_dim=2, hidden=(5,), likelihood="normal")
        vae = pv.VAE.from_config(config, event_shape=(6,))
        history = pv.fit(vae, x, x[:40], epochs=2, batch_size=40, progress=False, device="cpu")
        evidence = pv.log_evidence(vae.model, vae.guide, x, samples=10, search=False)
        results.append(([e.train_elbo for e in history.epochs], evidence))
    for elbos, evidence in results[1:]:
        assert elbos == results[0][0]
        assert torch.equal(evidence.log_px, results[0][1].log_px)
        assert evidence.data_sha256 == results[0][1].data_sha256
    mask = torch.rand(150, 6, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[:, 0] = True
    masked = [
        pv.log_evidence(vae.model, vae.guide, a, mask=mask, samples=10, search=False).log_px
        for a in (array, mapped)
    ]
    assert torch.equal(*masked)


def test_labels_beside_rows_on_disk(on_disk):
    array, mapped = on_disk(_numbers((30, 4)))
    y = torch.arange(30)
    for data in ((mapped, y), Data(Stored(mapped), y)):
        source = as_source(data, _pair)
        batches = list(source.shuffled(8, torch.Generator().manual_seed(0), slice(None)))
        assert sorted(torch.cat([b for _, b in batches]).tolist()) == list(range(30))
        for x, labels in batches:
            assert torch.equal(x, torch.from_numpy(array)[labels])


def test_large_files_stay_on_disk(on_disk, tmp_path, monkeypatch):
    """Splits, numbers and hashes of a file do not depend on where its data are kept."""
    for kind, binarize in (("f4", "none"), ("u1", "gray"), ("u1", "none"), ("i4", "gray")):
        path = tmp_path / "x.npy"
        np.save(path, _numbers((90, 5), kind))
        inside = pv.load(path, binarize=binarize)
        with monkeypatch.context() as patched:
            for module in ("files", "loading", "stored"):
                patched.setattr(f"pyro_vae.data.{module}.LARGE", 8)
            outside = pv.load(path, binarize=binarize)
            with pytest.raises(ValueError, match=r"stays on disk, where.*none or gray; got 'stat"):
                pv.load(path, binarize="static")
        for a, b in zip(inside, outside, strict=True):
            assert isinstance(b.x, Stored)
            assert torch.equal(a.x, b.in_memory().x)
            assert a.sha256 == b.sha256 == fingerprint(b.x)
            assert torch.equal(a.take(torch.tensor([2, 1])).x, b.take(torch.tensor([2, 1])).x[:])


def test_what_is_read_is_given_back(on_disk, monkeypatch):
    _, mapped = on_disk(_numbers((5000, 50)))
    monkeypatch.setattr(stored, "_PIECE", 100_000)
    rows = Stored(mapped.view())
    before = [rows[i : i + 500] for i in range(0, 5000, 500)]
    assert rows._mapped < 100_000  # the rest was unmapped
    assert torch.equal(rows[torch.tensor([7, 4999, 0])], rows[:][[7, 4999, 0]])
    assert torch.equal(rows[100:4000], rows[:][100:4000])
    assert torch.equal(torch.cat(before), torch.from_numpy(np.array(mapped)))


def test_a_hole_on_disk_is_named(on_disk):
    array = _numbers((5000, 2))
    array[4500, 1] = np.nan
    _, mapped = on_disk(array)
    with pytest.raises(ValueError, match="first in datum 4500"):
        check_rows(Stored(mapped))
    vae = pv.VAE.from_config(
        pv.Config(latent_dim=1, hidden=(3,), likelihood="normal"), event_shape=(2,)
    )
    with pytest.raises(ValueError, match="first in datum 4500"):
        pv.log_evidence(vae.model, vae.guide, mapped, samples=2, search=False)


def test_copied_on_write_is_never_dropped(tmp_path):
    """What was changed in memory alone would be lost with the mapping."""
    np.save(tmp_path / "x.npy", _numbers((9, 2)))
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[0] = 7
    assert not stored.is_stored(private)
    assert not stored.is_stored(np.asarray(private)[2:])
    assert stored.is_stored(np.load(tmp_path / "x.npy", mmap_mode="r")[2:])


class _Stream(IterableDataset):
    def __init__(self, x, lost=0):
        self.x, self.lost, self.passes = x, lost, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.x[: len(self.x) - self.lost * self.passes])


class _Stated(_Stream):
    def __len__(self):
        return len(self.x) + 5


def test_streams_train_and_are_counted(digits):
    x = digits.train.x[:50]
    results = []
    for data in (_Stream(x), list(x.split(20)), DataLoader(_Stream(x), 20)):
        vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(4,)), event_shape=(8, 8))
        history = pv.fit(vae, data, epochs=2, batch_size=20, schedule="one-cycle", progress=False)
        evidence = pv.log_evidence(vae.model, vae.guide, data, samples=5, search=False)
        results.append((history.epochs[-1].train_elbo, evidence.log_px))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert len(results[2][1]) == 50  # a loader draws a seed for its workers from the caller's noise


@pytest.mark.parametrize("make", [_Stated, lambda x: _Stream(x, lost=1)])
def test_a_stream_of_another_length_is_named(make, digits):
    vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(4,)), event_shape=(8, 8))
    with pytest.raises(ValueError, match=r"has \d+ data by its length.*, and gave \d+ now"):
        pv.fit(vae, make(digits.train.x[:50]), epochs=4, batch_size=20, progress=False)


class _Rows(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index]


def test_workers_give_the_same_numbers(linear_gaussian):
    lg = linear_gaussian
    x = torch.randn(80, 5).double()
    loader = DataLoader(_Rows(x), 30, num_workers=1)
    one, two = (
        pv.log_evidence(lg.model, lg.guide, data, samples=4, search=False) for data in (x, loader)
    )
    assert torch.equal(one.log_px, two.log_px)


def test_loaders_that_shuffle_are_refused(linear_gaussian):
    lg = linear_gaussian
    rows = _Rows(torch.randn(40, 5).double())
    shuffled = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(rows), 8, False)
    for loader in (
        DataLoader(rows, 8, shuffle=True),
        DataLoader(rows, 8, sampler=SubsetRandomSampler(range(40))),
        DataLoader(rows, batch_sampler=shuffled),
    ):
        with pytest.raises(ValueError, match="shuffle=False"):
            pv.log_evidence(lg.model, lg.guide, loader, samples=2, search=False)
