"""Warnings point at the user's own line, however deep in the package they are made."""

import linecache
import warnings

import pyro
import pyro.distributions as dist
import torch

import pyro_vae as pv
from pyro_vae.common.errors import warn


def _model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _narrow(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.05))


def _line_of(warning):
    assert warning.filename == __file__
    return linecache.getline(warning.filename, warning.lineno).strip()


def test_of_a_call_of_warn():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn("a word")  # here
    assert _line_of(said[0]) == 'warn("a word")  # here'


def test_of_an_evaluation():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pv.log_evidence(_model, _narrow, torch.linspace(-1, 1, 5), samples=100)
    assert issubclass(said[0].category, pv.UnreliableEvidence)
    assert _line_of(said[0]).startswith("pv.log_evidence(_model")


def test_each_place_warns_once_by_default():
    """Python shows a warning once for each line of the caller's, not once for the package."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(2):
            warn("again")
        warn("again")
    assert len(said) == 2
