"""Distributions that the page does not know are refused with the words that it shows instead."""

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.likelihoods import StudentT
from pyro_vae.report import UnknownPart
from pyro_vae.report.families import describe_likelihood, describe_prior
from pyro_vae.report.packing import Pack


def _student(*degrees):
    return dist.StudentT(torch.tensor(degrees), torch.zeros(2), torch.ones(2)).to_event(1)


def test_one_number_of_degrees_of_freedom_is_known():
    assert describe_prior(_student(5.0, 5.0), Pack())["degrees"] == 5.0
    likelihood = StudentT(lambda shape: torch.nn.Linear(3, 4), (4,), degrees_of_freedom=4.0)
    assert describe_likelihood(likelihood, Pack())["degrees"] == pytest.approx(4.0)


def test_several_degrees_of_freedom_are_refused():
    with pytest.raises(UnknownPart, match="of several degrees of freedom"):
        describe_prior(_student(3.0, 5.0), Pack())
    likelihood = StudentT(lambda shape: torch.nn.Linear(3, 4), (4,), degrees_of_freedom="value")
    with pytest.raises(UnknownPart, match="of several degrees of freedom"):
        describe_likelihood(likelihood, Pack())


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        (dist.Gamma(torch.ones(2), 1.0).to_event(1), "a prior that is a Gamma"),
        (dist.Normal(torch.zeros(2, 3), 1.0).to_event(2), "a prior that is a Normal"),
    ],
)
def test_other_priors_are_refused(prior, words):
    with pytest.raises(UnknownPart, match=words):
        describe_prior(prior, Pack())


def test_other_likelihoods_are_refused():
    with pytest.raises(UnknownPart, match="the likelihood Linear"):
        describe_likelihood(torch.nn.Linear(2, 2), Pack())
