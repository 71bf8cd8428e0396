"""NumPy's files of others: what they declare, what they hold, and what is wrong with them."""

import io
import os
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

import pyro_vae as pv
from pyro_vae.data import numpy_files
from pyro_vae.data.numpy_files import read_numpy

_X = np.random.default_rng(0).integers(0, 2, (40, 6))


def _header(shape, descr="<f4", fortran=False):
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return file.getvalue()


def _archive(path, **members):
    """An archive of members that are bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def _bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _refused(path):
    """The one line with which a file is refused; it names the file and where to look."""
    with pytest.raises(ValueError, match=r"cannot be read as a NumPy file of numbers: ") as error:
        read_numpy(path)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(str(path))
    return line


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
def test_numbers_of_every_type_keep_their_values(kind, order, tmp_path):
    array = np.array([[0, 1, 100], [7, 2, 3]], dtype=f"{order}{kind}")
    for name, one in (("c", array), ("f", np.asfortranarray(array))):
        np.savez(tmp_path / f"{name}.npz", x=one)
        np.save(tmp_path / f"{name}.npy", one)
        for suffix in ("npz", "npy"):
            x = read_numpy(tmp_path / f"{name}.{suffix}")["x"].x
            assert x.tolist() == [[0, 1, 100], [7, 2, 3]]
            assert x.is_contiguous()
    np.savez_compressed(tmp_path / "z.npz", x=array > 1)
    assert read_numpy(tmp_path / "z.npz")["x"].x.dtype == torch.bool


def test_large_arrays_are_read_in_blocks(monkeypatch, tmp_path):
    monkeypatch.setattr(numpy_files, "_AT_ONCE", 1024)
    array = np.random.default_rng(0).normal(size=(33, 7, 5))
    np.savez_compressed(tmp_path / "a.npz", x=array, y=np.arange(33), test=array.T.copy().T)
    found = read_numpy(tmp_path / "a.npz")
    assert torch.equal(found["x"].x, torch.from_numpy(array))
    assert torch.equal(found["x"].y, torch.arange(33))
    assert torch.equal(found["test"].x, torch.from_numpy(array))


@pytest.mark.parametrize(
    ("dtype", "times"), [("f4", 1), (">f8", 1), ("u1", 1), ("u2", 2), ("u4", 2), ("u8", 1)]
)
def test_reading_takes_at_most_twice_what_is_declared(dtype, times, monkeypatch, tmp_path):
    monkeypatch.setattr(numpy_files, "_AT_ONCE", 2**14)
    array = np.asfortranarray(np.ones((500, 400), dtype))
    np.savez(tmp_path / "a.npz", x=array)
    read_numpy(tmp_path / "a.npz")  # imports are not counted
    tracemalloc.start()
    read_numpy(tmp_path / "a.npz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < times * array.nbytes + 200_000


def test_unsigned_integers_too_large_for_torch(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[2**63 - 1]], dtype=np.uint64))
    assert read_numpy(tmp_path / "a.npy")["x"].x.item() == 2**63 - 1
    np.save(tmp_path / "a.npy", np.array([[1], [2**63]], dtype=np.uint64))
    assert "integers above 2^63 - 1; give them as type float64" in _refused(tmp_path / "a.npy")


# Which arrays are which split -------------------------------------------------------------------


def test_given_splits_are_used_beside_x(tmp_path):
    x = np.arange(200.0).reshape(100, 2)
    test, valid = -np.ones((7, 2)), -2 * np.ones((5, 2))
    np.savez(tmp_path / "a.npz", x=x, test=test, y=np.arange(100), test_y=np.arange(7))
    splits = pv.load(tmp_path / "a.npz")
    assert torch.equal(splits.test.x, torch.tensor(test).float())
    assert splits.test.y.tolist() == list(range(7))
    assert [len(split) for split in splits] == [90, 10, 7]
    together = torch.cat([splits.train.x, splits.valid.x])
    assert torch.equal(together.sort(0).values, torch.tensor(x).float())
    np.savez(tmp_path / "a.npz", x=x, valid=valid)
    splits = pv.load(tmp_path / "a.npz")
    assert torch.equal(splits.valid.x, torch.tensor(valid).float())
    assert [len(split) for split in splits] == [90, 5, 10]
    np.savez(tmp_path / "a.npz", x=x, valid=valid, test=test)
    assert [len(split) for split in pv.load(tmp_path / "a.npz")] == [100, 5, 7]


def test_names_that_leave_open_what_is_meant(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=_X, train=_X)
    assert "both x and train" in _refused(path)
    np.savez(path, valid=_X, test=_X)
    assert "holds valid, test; expected arrays named x, or train" in _refused(path)
    np.savez(path, valid=_X, y=_X)
    assert "expected arrays named x, or train" in _refused(path)
    np.savez(path)
    assert "holds nothing" in _refused(path)
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("x.npy", _bytes(_X))
        archive.writestr("x.npy", _bytes(1 - _X))
    assert "several arrays of one name" in _refused(path)


def test_arrays_that_are_not_used_are_said(tmp_path):
    np.savez(tmp_path / "a.npz", train=_X, y=_X[:, 0], Test=_X, names=np.array(["a", None], object))
    with pytest.warns(pv.PyroVAEWarning, match=r"a\.npz also holds Test, names, y, which is not"):
        found = read_numpy(tmp_path / "a.npz")
    assert found.keys() == {"train"}
    assert found["train"].y is None


# Damage and malice ------------------------------------------------------------------------------


def test_sizes_are_looked_at_before_memory_is_taken(monkeypatch, tmp_path):
    (tmp_path / "h.npy").write_bytes(_header((10**12, 8)))
    assert "declares 32,000,000,000,000 bytes of values, and 0 are there" in _refused(
        tmp_path / "h.npy"
    )
    _archive(tmp_path / "h.npz", x=_header((10**12, 8)) + bytes(32))
    assert "array x: it is cut or damaged: its header declares 32,000" in _refused(
        tmp_path / "h.npz"
    )
    for shape in ((-1, 4), (2**70, 2**70)):
        (tmp_path / "h.npy").write_bytes(_header(shape) + bytes(32))
        _refused(tmp_path / "h.npy")
    # a bomb that is as large as it says: the memory there is decides, before it is unpacked
    bomb = _archive(tmp_path / "b.npz", x=_header((2**20, 8), "|u1") + bytes(2**23), y=_bytes(_X))
    assert bomb.stat().st_size < 2**14
    monkeypatch.setattr(numpy_files, "free_memory", lambda: 2**22)
    monkeypatch.setattr(np, "empty", None)
    assert "need 0.0 GB of memory, and 0.0 GB are free" in _refused(bomb)


def test_bombs_that_are_not_what_they_say(tmp_path):
    _archive(tmp_path / "b.npz", x=_bytes(np.ones((4, 4), "f4")) + bytes(2**23))
    assert "declares 64 bytes of values, and 8,388,672 are there" in _refused(tmp_path / "b.npz")
    (tmp_path / "a.npy").write_bytes(2 * _bytes(_X))
    assert "is cut or damaged" in _refused(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "array",
    [
        np.array([["a"]]),
        np.array([[1 + 1j]]),
        np.zeros(3, "datetime64[s]"),
        np.zeros(3, [("a", "f4"), ("b", "i4")]),
        np.array([[{"a": 1}]], object),
    ],
    ids=["text", "complex", "dates", "columns", "objects"],
)
def test_what_is_no_number_is_refused(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", x=_X, y=array)
    kind = "Python objects" if array.dtype.hasobject else "expected numbers"
    assert kind in _refused(tmp_path / "a.npy")
    assert "array y: " in _refused(tmp_path / "a.npz")


def test_other_files_under_the_name(tmp_path):
    for content in (b"", b"x", b"\x93NUMPY", b"\x93NUMPY\x07\x07", b"PK\x03\x04" + bytes(50)):
        for name in ("a.npy", "a.npz"):
            (tmp_path / name).write_bytes(content)
            _refused(tmp_path / name)
    header = b"\x93NUMPY\x01\x00" + (8000).to_bytes(2, "little") + b"(" * 8000
    (tmp_path / "a.npy").write_bytes(header)
    _refused(tmp_path / "a.npy")
    (tmp_path / "d.npy").mkdir()
    os.mkfifo(tmp_path / "p.npy")
    for name in ("d.npy", "p.npy"):
        assert "it is no file" in _refused(tmp_path / name)
    # the content decides, not the suffix
    np.savez(tmp_path / "b.npz", train=_X)
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    assert read_numpy(tmp_path / "b.npy").keys() == {"train"}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_damaged_archives_give_the_same_numbers_or_a_line(save, tmp_path):
    """Bits flipped, ends cut, pieces left out or exchanged: 160 of each file."""
    path = tmp_path / "a.npz"
    save(path, x=_X.astype("f4"), test=_X.astype("u1"), y=_X[:, 0])
    good = path.read_bytes()
    expected = {name: (data.x, data.y) for name, data in read_numpy(path).items()}
    random = np.random.default_rng(0)
    refused = 0
    for case in range(160):
        content = bytearray(good)
        a, b = sorted(random.integers(0, len(good), 2).tolist())
        if case % 4 == 0:
            del content[a:]
        elif case % 4 == 1:
            del content[a : a + 1 + (b - a) % 50]
        elif case % 4 == 2:
            content[a], content[b] = content[b], content[a]
        else:
            content[a] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pv.PyroVAEWarning)  # names that were changed
                found = read_numpy(path)
        except ValueError as error:
            refused += str(error).startswith(f"{path} cannot be read as a NumPy file")
            continue
        for name, data in found.items():
            assert torch.equal(data.x, expected[name][0])
            assert data.y is None or torch.equal(data.y, expected[name][1])
    assert refused > 80
