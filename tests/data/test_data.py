import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae import data


@pytest.fixture
def fake_mnist(monkeypatch):
    """Uniform uint8 images in place of the downloaded ones."""
    from torchvision import datasets

    class Fake:
        def __init__(self, root, train, download):
            n = 60_000 if train else 10_000
            self.data = torch.zeros(n, 4, 4, dtype=torch.uint8)
            self.data[:, 0] = 255
            self.data[:, 1] = 51
            self.targets = torch.arange(n) % 10

    monkeypatch.setattr(datasets, "MNIST", Fake)


def test_digits_split_and_binarization(digits):
    assert [len(split) for split in digits] == [1257, 180, 360]
    assert digits.train.event_shape == (8, 8)
    assert all(set(split.x.unique().tolist()) == {0, 1} for split in digits)
    assert digits.test.description == "digits test, dynamic binarization, seed 0"
    gray = pv.load("digits", binarize="none")
    # every digit is in one split, whatever the binarization
    everything = torch.cat([split.x for split in gray]).flatten(1)
    from sklearn.datasets import load_digits

    original = torch.tensor(load_digits().data / 16).float()
    assert torch.equal(everything.sort(0).values, original.sort(0).values)
    for a, b in zip(digits, gray, strict=True):
        assert torch.equal(a.y, b.y)


def test_dynamic_draws_training_data_anew_and_the_rest_once(digits):
    index = torch.arange(1257)
    first, second = digits.train.batch(index), digits.train.batch(index)
    assert not torch.equal(first, second)
    assert torch.equal(digits.test.batch(index[:9]), digits.test.x[:9])
    # pixels are one with their gray value as probability: 400 draws of 4 images, 5 standard errors
    gray = digits.train.intensities[:4]
    mean = torch.stack([digits.train.batch(index[:4]) for _ in range(400)]).mean(0)
    error = (gray * (1 - gray) / 400).sqrt()
    assert ((mean - gray).abs() <= 5 * error + 1e-6).all()


def test_seed_of_the_binarization(digits):
    assert pv.load("digits").test.sha256 == digits.test.sha256
    assert pv.load("digits", seed=1).test.sha256 != digits.test.sha256
    assert torch.equal(pv.load("digits", seed=1).test.y, digits.test.y)


def test_static_and_threshold():
    static = pv.load("digits", binarize="static")
    assert static.train.intensities is None
    index = torch.arange(5)
    assert torch.equal(static.train.batch(index), static.train.x[index])
    gray = pv.load("digits", binarize="none").test.x
    assert torch.equal(pv.load("digits", binarize="threshold").test.x, (gray > 0.5).float())


def test_mnist_splits_and_scale(fake_mnist):
    train, valid, test = pv.load("mnist")
    assert [len(train), len(valid), len(test)] == [50_000, 10_000, 10_000]
    assert train.intensities[0].tolist() == [[1.0] * 4, [pytest.approx(0.2)] * 4, [0] * 4, [0] * 4]
    assert (test.x[:, 0] == 1).all()
    assert (test.x[:, 2:] == 0).all()
    train, valid, _ = pv.load("mnist", validation=0)
    assert [len(train), len(valid)] == [60_000, 0]


def test_absent_mnist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="PYRO_VAE_DATA"):
        pv.load("mnist", root=tmp_path, download=False)


def test_broken_torchvision_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="pip install --upgrade torch torchvision"):
        pv.load("mnist")
    assert len(pv.load("digits").test) == 360


def test_npy_of_any_shape(tmp_path):
    x = np.random.default_rng(0).normal(size=(100, 3, 2))
    np.save(tmp_path / "x.npy", x)
    train, valid, test = pv.load(tmp_path / "x.npy")
    assert [len(train), len(valid), len(test)] == [81, 9, 10]
    assert train.event_shape == (3, 2)
    assert train.x.dtype == torch.float32
    together = torch.cat([train.x, valid.x, test.x]).flatten(1).sum(1).sort().values
    torch.testing.assert_close(together, torch.tensor(x).float().flatten(1).sum(1).sort().values)
    assert test.description == "x.npy test"
    assert pv.load(tmp_path / "x.npy").test.sha256 == test.sha256


def test_npz_splits_and_labels(tmp_path):
    x = np.arange(40, dtype=np.uint8).reshape(20, 2)
    np.savez(tmp_path / "d.npz", train=x, train_y=np.arange(20), test=x[:4])
    train, valid, test = pv.load(tmp_path / "d.npz", validation=5)
    assert [len(train), len(valid), len(test)] == [15, 5, 4]
    assert train.y.tolist() == list(range(15))
    assert test.y is None
    binary = pv.load(tmp_path / "d.npz", binarize="threshold")
    assert (binary.test.x == 0).all()  # 8-bit integers are divided by 255
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20))
    splits = pv.load(tmp_path / "x.npz")
    for split in splits:
        assert torch.equal(split.x[:, 0], 2.0 * split.y)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"not numpy", "cannot be read as a NumPy file"),
        (b"", "cannot be read as a NumPy file"),
    ],
)
def test_damaged_files(tmp_path, content, match):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=match):
        pv.load(tmp_path / "x.npy")


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as a NumPy file of numbers"):
        pv.load(tmp_path / "x.npy")


def test_wrong_input(tmp_path):
    with pytest.raises(ValueError, match=r"unknown data set 'digit'.*Did you mean 'digits'"):
        pv.load("digit")
    with pytest.raises(FileNotFoundError, match="no file"):
        pv.load(tmp_path / "none.npy")
    with pytest.raises(ValueError, match="unknown binarization 'dynamc'"):
        pv.load("digits", binarize="dynamc")
    with pytest.raises(ValueError, match="cannot set 2000 data aside for valid: there are 1437"):
        pv.load("digits", validation=2000)
    x = np.random.default_rng(0).normal(size=(20, 2))
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"binarization needs gray values in \[0, 1\]"):
        pv.load(tmp_path / "x.npy", binarize="static")
    x[3] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"NaN or infinite values \(first in datum 3\)"):
        pv.load(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", x[:0])
    with pytest.raises(ValueError, match="empty"):
        pv.load(tmp_path / "x.npy")
    np.savez(tmp_path / "y.npz", images=x)
    with pytest.raises(ValueError, match="holds images; expected arrays named x, or train"):
        pv.load(tmp_path / "y.npz")


def test_one_datum_and_no_name(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 2)))
    with pytest.raises(ValueError, match="there is 1 datum, of which none can be set aside for te"):
        pv.load(tmp_path / "x.npy")
    for read in (pv.load, data.load_rows):
        with pytest.raises(ValueError, match="data has no name; give digits, mnist"):
            read("")


def test_fingerprint_sees_values_shape_and_type():
    x = torch.arange(6.0)
    prints = {
        data.fingerprint(x),
        data.fingerprint(x.reshape(2, 3)),
        data.fingerprint(x.double()),
        data.fingerprint(x + 1e-6),
        data.fingerprint(x[:3], x[3:]),
    }
    assert len(prints) == 5
    assert data.fingerprint(x) == data.fingerprint(torch.arange(12.0)[:6])


def test_integers_are_scaled_alike_in_all_splits(tmp_path):
    train = np.array([[0], [200]] * 10, dtype=np.int64)
    np.savez(tmp_path / "d.npz", train=train, valid=train[:4], test=np.array([[100], [200]]))
    test = pv.load(tmp_path / "d.npz", binarize="threshold").test
    assert test.x.flatten().tolist() == [0, 1]  # 100 of 200 is not above one half


def test_splits_that_do_not_fit_together(tmp_path):
    np.savez(tmp_path / "d.npz", train=np.zeros((9, 2)), test=np.zeros((3, 4)))
    with pytest.raises(ValueError, match="data of different shapes"):
        pv.load(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", x=np.zeros((9, 2)), y=np.zeros(4))
    with pytest.raises(ValueError, match="9 data, but labels of shape"):
        pv.load(tmp_path / "d.npz")


def test_gray_and_dequantized(tmp_path):
    levels = torch.randint(0, 256, (50, 6), dtype=torch.uint8)
    np.savez(tmp_path / "g.npz", train=levels.numpy(), valid=levels.numpy(), test=levels.numpy())
    gray = pv.load(tmp_path / "g.npz", binarize="gray")
    assert torch.equal(gray.test.x, levels.float() / 255)
    assert gray.test.description == "g.npz test, gray in [0, 1]"
    noisy = pv.load(tmp_path / "g.npz", binarize="dequantized", seed=3)
    assert noisy.test.description == "g.npz test, dequantized from 256 levels, seed 3"
    assert torch.equal((noisy.test.x * 256).floor(), levels.float())
    again = pv.load(tmp_path / "g.npz", binarize="dequantized", seed=3)
    assert torch.equal(noisy.test.x, again.test.x)
    assert not torch.equal(noisy.test.x, noisy.valid.x)
    rows = torch.arange(50)
    first, second = noisy.train.batch(rows), noisy.train.batch(rows)
    assert not torch.equal(first, second)
    assert torch.equal((first * 256).floor(), (second * 256).floor())
    with pytest.raises(ValueError, match="not of integers"):
        pv.load("digits", binarize="dequantized")
