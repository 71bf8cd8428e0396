"""Arrays of other libraries, integers, lists: what they become, or what is said."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from pyro_vae.data import as_source
from pyro_vae.data.arrays import as_tensor, to_floating, to_single


def _program(x):
    pass


def _pair(x, y):
    pass


def _first(source, rows=100):
    return next(iter(source.batches(rows)))


NUMBERS = np.array([[0.0, 1.5, 0.0], [2.0, 0.0, -3.25]])


@pytest.mark.parametrize(
    "array",
    [
        NUMBERS,
        NUMBERS.astype(">f8"),
        NUMBERS.astype(np.longdouble),
        np.asfortranarray(NUMBERS),
        pd.DataFrame(NUMBERS, columns=["a", "b", "c"]),
        scipy.sparse.csr_matrix(NUMBERS),
        torch.tensor(NUMBERS).to_sparse(),
    ],
    ids=["float64", "big-endian", "long", "fortran", "frame", "csr", "coo"],
)
def test_arrays_become_dense_tensors(array):
    assert torch.equal(as_tensor(array), torch.tensor(NUMBERS))
    (x,) = _first(as_source(array, _program, dtype=torch.float32))
    wanted = torch.float64 if isinstance(array, torch.Tensor) else torch.float32  # as it was given
    assert torch.equal(x, torch.tensor(NUMBERS).to(wanted))


def test_tensors_stay_and_arrays_are_copied():
    x = torch.zeros(3, 2)
    assert as_tensor(x, dtype=torch.float64) is x
    array = np.zeros((3, 2))
    array.setflags(write=False)
    as_tensor(array).add_(1)
    assert (array == 0).all()
    assert as_tensor(np.array([1, 70000], dtype=np.uint32)).tolist() == [1, 70000]


def test_tuples_and_loaders_of_arrays():
    labels = pd.Series([1, 0])
    for data in ((NUMBERS, labels), [(NUMBERS, labels)]):
        x, y = _first(as_source(data, _pair, dtype=torch.float32))
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert y.tolist() == [1, 0]


def test_integers_as_floating_point_numbers_on_request():
    x = torch.tensor([[1, 2], [3, 4]])
    y = torch.tensor([5, 6])
    for data in ((x, y), [(x, y)]):
        source = as_source(data, _pair, dtype=torch.float64, floating=True)
        first, second = _first(source)
        assert (first.dtype, second.dtype) == (torch.float64, torch.int64)
    with pytest.raises(ValueError, match=r"float32 numbers cannot tell apart; give x.double\(\)"):
        to_floating(torch.tensor([2**24, 2**24 + 1]), torch.float32)
    assert to_floating(torch.tensor([True, False]), torch.float32).tolist() == [1.0, 0.0]


def test_what_cannot_be_converted_is_said():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]})
    with pytest.raises(ValueError, match="training data has type object; expected numbers"):
        as_source(frame, _program, what="training data")
    masked = np.ma.masked_array(NUMBERS, NUMBERS == 0)
    with pytest.raises(TypeError, match="masked array, whose mask would be lost"):
        as_source(masked, _program)
    tensors = {"pixels": torch.zeros(2, 3), "labels": torch.zeros(2)}
    with pytest.raises(TypeError, match=r"x is a dict; .*: d\['pixels'\]\."):
        as_source(tensors, _program)
    with pytest.raises(TypeError, match=r"in their order: \(d\['pixels'\], d\['labels'\]\)"):
        as_source(tensors, _pair)
    with pytest.raises(TypeError, match=r"got str\. Read a file with pv.load\(path\)"):
        as_source("x.npy", _program)


def test_a_list_is_one_of_batches():
    x = torch.randn(12, 3)
    assert len(as_source(list(x.split(5)), _program)) == 12
    for rows in (list(x), list(x.unbind(1)), list(x.numpy()), [(a, a[0]) for a in x]):
        with pytest.raises(ValueError, match=r"list of \d+ items of shape .*torch.stack\(x\)"):
            as_source(rows, _program)
    with pytest.raises(ValueError, match=r"items of shape \(\)"):
        as_source(list(x[0]), _program)
    with pytest.raises(TypeError, match=r"a list of float; give a torch tensor"):
        as_source([1.0, 2.0], _program)
    with pytest.raises(TypeError, match=r"a list of list; give a torch tensor"):
        as_source(x.tolist(), _program)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: as_tensor(x, dtype=torch.float32),
        lambda x: to_single(torch.from_numpy(x)),
    ],
    ids=["frame", "file"],
)
def test_numbers_beyond_the_type_are_named(convert):
    """Beside others that it holds; infinite numbers are another matter."""
    x = np.full((5000, 2), 0.5)
    x[4500, 1], x[0, 0] = -1e39, np.inf
    with pytest.raises(ValueError, match=r"beyond 3\.4e\+38, the largest of float32 .*datum 4500"):
        convert(x)
    x[4500, 1] = -1e38
    assert torch.equal(convert(x), torch.from_numpy(x).float())
