"""Every verb x every container: the bits of the tensor that it means, or what to write instead."""

import array
import collections

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from devices.twins import numbers_of

import pyro_vae as pv

pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_vae.UnreliableEvidence", "ignore:Sparse CSR tensor support:UserWarning"
)

_X = torch.poisson(torch.full((12, 3), 3.0), generator=torch.Generator().manual_seed(0))
_A = _X.numpy()


def _with(value, dtype):
    changed = _A.astype(dtype)
    changed[0, 0] = value
    return changed


def _read_only():
    changed = _A.copy()
    changed.setflags(write=False)
    return changed


_NUMPY = [*(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8", "g"]
_NUMPY += [">i2", ">u2", ">u4", ">u8", ">f4", ">f8"]
_TORCH = (torch.int16, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)

SAME = {
    **{f"numpy {name}": lambda name=name: _A.astype(name) for name in _NUMPY},
    **{f"{name}": lambda name=name: _X.to(name) for name in _TORCH},
    "fortran": lambda: np.asfortranarray(_A),
    "negative strides": lambda: _A[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": _read_only,
    "transposed": lambda: _X.T.contiguous().T,
    "parameter": lambda: torch.nn.Parameter(_X.clone()),
    "frame": lambda: pd.DataFrame(_A),
    "frame of integers": lambda: pd.DataFrame(_A.astype("int16")),
    "csr": lambda: scipy.sparse.csr_matrix(_A),
    "csc of integers": lambda: scipy.sparse.csc_array(_A.astype("i4")),
    "torch coo": lambda: _X.to_sparse(),
    "torch csr": lambda: _X.to_sparse_csr(),
    "tuple": lambda: (_A.astype("i4"),),
    "dict": lambda: {"x": _A},
    "list of batches": lambda: [_X],
    "Data": lambda: pv.Data(_X),
}
SAID = {
    "uint64 above 2**63": (lambda: _with(2**63, "u8"), r"above 2\*\*63 - 1.*astype\('float64'\)"),
    "int64 above 2**24": (lambda: _with(2**24 + 1, "i8"), r"cannot tell apart; give x.double\(\)"),
    "float64 above 2**24": (
        lambda: _with(2**24 + 1, "f8"),
        r"cannot tell apart; give x.double\(\)",
    ),
    "float64 tensor": (lambda: _X.double(), r"convert the data with x.to\(torch.float32\)"),
    "float16 tensor": (lambda: _X.half(), r"convert the data with x.to\(torch.float32\)"),
    "bfloat16 tensor": (lambda: _X.bfloat16(), r"convert the data with x.to\(torch.float32\)"),
    "list of rows": (lambda: list(_X), r"torch.stack\(x\)"),
    "deque of rows": (lambda: collections.deque(_X), r"torch.stack\(x\)"),
    "list of lists": (lambda: _A.tolist(), r"torch.tensor\(x\)"),
    "list of numbers": (lambda: _A[:, 0].tolist(), r"torch.tensor\(x\)"),
    "dict of lists": (lambda: {"x": _A.tolist()}, r"12 rows.*torch.tensor"),
    "array.array": (lambda: array.array("f", [1, 2]), r"torch.tensor\(x\)"),
    "memoryview": (lambda: memoryview(_A), "Convert arrays with torch.as_tensor"),
    "number": (lambda: 3.0, "Convert arrays with torch.as_tensor"),
    "scalar": (lambda: np.float32(3), r"is a single number; expected shape .*x\[None\]"),
    "structured": (lambda: np.zeros(12, "f4,i4"), r"structured_to_unstructured\(x\).*x\['f0'\]"),
    "objects": (lambda: _A.astype(object), r"x.astype\('float32'\)"),
    "text": (lambda: _A.astype(str), r"x.astype\('float32'\)"),
    "masked": (lambda: np.ma.masked_array(_A, _A > 5), r"mask=torch.as_tensor\(~x.mask\)"),
    "complex": (lambda: _A.astype(complex), r"torch.view_as_real\(torch.as_tensor\(x\)\)"),
    "complex tensor": (lambda: _X.to(torch.complex64), r"torch.view_as_real\(x\)"),
    "dates": (lambda: _A.astype("M8[s]"), r"x.astype\('int64'\)"),
    "nested": (
        lambda: torch.nested.nested_tensor([_X[0], _X[1, :2]], layout=torch.jagged),
        "torch.nested.to_padded_tensor",
    ),
    "frame of text": (lambda: pd.DataFrame({"a": list("abcdefghijkl")}), "columns holds text"),
    "another name": (lambda: {"pixels": _X}, r"d\['pixels'\]"),
    "nothing": (lambda: None, "got NoneType"),
    "no rows": (lambda: _A[:0], "is empty"),
    "NaN": (lambda: _with(np.nan, "f4"), r"NaN or infinite values \(first in datum 0\)"),
    "beyond float32": (lambda: _A.astype("f8") + 1e300, r"beyond 3.4e\+38.*give x.double\(\)"),
}


def _program():
    config = pv.Config(latent_dim=2, hidden=(4,), likelihood="poisson")
    return pv.VAE.from_config(config, event_shape=(3,))


def _fit(data):
    program = _program()
    pv.fit(program, data, data, epochs=1, device="cpu")
    return list(program.parameters())


def _amortized(data):
    torch.manual_seed(0)
    return list(pv.amortize(_program().model, data, hidden=(4,), features=4).parameters())


def _of(verb, **options):
    def compute(data):
        program = _program()
        return verb(program.model, program.guide, data, **options)

    return compute


_GUIDE = {"method": "guide", "samples": 100}
VERBS = {
    "fit": _fit,
    "amortize": _amortized,
    "log_evidence": _of(pv.log_evidence, samples=5, search=False),
    "sample_posterior": _of(pv.sample_posterior, n=2, samples=5, method="guide", search=False),
    "rate": _of(pv.analysis.rate),
    "active_units": _of(pv.analysis.active_units, samples=4),
    "kl_per_dimension": _of(pv.analysis.kl_per_dimension),
}
SLOW = {
    "inference_gaps": _of(pv.analysis.inference_gaps, samples=10),
    "predictive": _of(pv.check.predictive, replicates=20, classifier=False, **_GUIDE),
    "calibration": _of(pv.check.calibration, simulations=50, draws=7, **_GUIDE),
    "certify": _of(pv.certify, number=4, **_GUIDE),
}


_expected = {}


def _check_same(verb, compute, container):
    if verb not in _expected:
        _expected[verb] = numbers_of(compute(_X.clone()))
    found = numbers_of(compute(SAME[container]()))
    assert found
    for one, two in zip(found, _expected[verb], strict=True):
        assert torch.equal(one.nan_to_num(1e99), two.nan_to_num(1e99))


def _check_said(compute, container):
    make, says = SAID[container]
    with pytest.raises((ValueError, TypeError), match=says):
        compute(make())


@pytest.mark.parametrize("container", SAME)
def test_a_container_is_the_tensor_that_it_means(container):
    _check_same("log_evidence", VERBS["log_evidence"], container)


@pytest.mark.parametrize("container", SAID)
def test_what_is_said_of_a_container(container):
    for verb in ("log_evidence", "fit"):
        _check_said(VERBS[verb], container)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_containers(verb):
    for container in ("numpy >u2", "transposed", "csr"):
        _check_same(verb, VERBS[verb], container)
    for container in ("uint64 above 2**63", "list of lists", "complex tensor"):
        _check_said(VERBS[verb], container)


# A model may count integers, or mask NaN, itself; the network sees the former as floats.
_TAKEN = {"amortize": {"int64 above 2**24", "NaN"}}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS | SLOW)
def test_every_verb_takes_every_container(verb):
    compute = (VERBS | SLOW)[verb]
    for container in SAME:
        _check_same(verb, compute, container)
    for container in SAID.keys() - _TAKEN.get(verb, set()):
        _check_said(compute, container)
    for container in _TAKEN.get(verb, set()):
        assert compute(SAID[container][0]())
