"""Priors, likelihoods and posteriors whose densities the page computes, as plain values."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import nn

from ..distributions import densities
from ..distributions.vectors import NormalMixture
from ..likelihoods import LIKELIHOODS, Likelihood
from ..likelihoods.scale import Scaled
from ..posteriors import DiagonalNormal, FullNormal, LowRankNormal
from .operations import UnknownPart
from .packing import Pack

__all__ = ["KNOWN_LIKELIHOODS", "describe_likelihood", "describe_posterior", "describe_prior"]

_COUNTS = {"levels": "levels", "components": "components", "trials": "count"}
_SEVERAL_DEGREES = "the page does not know Student's t of several degrees of freedom."
_POSTERIORS: dict[type[nn.Module], str] = {
    DiagonalNormal: "normal",
    FullNormal: "full",
    LowRankNormal: "low-rank",
}


def describe_prior(prior: dist.TorchDistribution, pack: Pack) -> dict[str, Any]:
    """Describe p(z) by the distribution that it is, its parameters put into ``pack``.

    Independent normal, Laplace and Student's t latents, and mixtures of normals: so VampPrior's
    components are there by their moments.

    Raises:
        UnknownPart: another distribution.
    """
    if isinstance(prior, NormalMixture):
        return {
            "family": "mixture",
            "logits": pack.add(prior.logits.log_softmax(-1)),
            "loc": pack.add(prior.loc),
            "scale": pack.add(prior.scale),
        }
    base = prior.base_dist if isinstance(prior, dist.Independent) else prior
    kinds: dict[type[Any], str] = {
        dist.Normal: "normal",
        torch.distributions.Normal: "normal",
        dist.Laplace: "laplace",
        densities.Laplace: "laplace",
        dist.StudentT: "student-t",
        densities.DeviceStudentT: "student-t",
        densities.StudentT: "student-t",
    }
    family = kinds.get(type(base))
    if family is None or len(prior.event_shape) != 1:
        raise UnknownPart(f"the page does not know a prior that is a {type(base).__name__}.")
    shape = prior.event_shape
    content = {
        "family": family,
        "loc": pack.add(base.loc.expand(shape)),
        "scale": pack.add(base.scale.expand(shape)),
    }
    if family == "student-t":
        content["degrees"] = base.df.expand(shape)[0].item()
        if (base.df != content["degrees"]).any():
            raise UnknownPart(_SEVERAL_DEGREES)
    return content


def describe_likelihood(likelihood: nn.Module, pack: Pack) -> dict[str, Any]:
    """Describe p(x|z) given the network's output, its own parameters put into ``pack``.

    Raises:
        UnknownPart: not a likelihood of the package.
    """
    names: dict[type[nn.Module], str] = {kind: name for name, kind in LIKELIHOODS.items()}
    name = names.get(type(likelihood))
    if name not in KNOWN_LIKELIHOODS or not isinstance(likelihood, Likelihood):
        raise UnknownPart(f"the page does not know the likelihood {type(likelihood).__name__}.")
    content: dict[str, Any] = {"family": name, "size": likelihood.event_shape.numel()}
    for short, attribute in _COUNTS.items():
        if hasattr(likelihood, attribute):
            content[short] = getattr(likelihood, attribute)
    if hasattr(likelihood, "floor"):
        content["floor"] = likelihood.floor
    if isinstance(likelihood, Scaled):
        of_network = likelihood.scale_kind == "network"
        content["scale"] = None if of_network else pack.add(likelihood.scale)
    if name == "student-t":
        degrees: Any = likelihood.degrees_of_freedom
        if degrees.numel() > 1:
            raise UnknownPart(_SEVERAL_DEGREES)
        content["degrees"] = degrees.item()
    return content


def describe_posterior(posterior: nn.Module) -> str:
    """Name of the family of q(z|x), given the network's output.

    Raises:
        UnknownPart: not a normal posterior of the package.
    """
    family = _POSTERIORS.get(type(posterior))
    if family is None:
        raise UnknownPart(f"the page does not know the posterior {type(posterior).__name__}.")
    return family


KNOWN_LIKELIHOODS = (
    "bernoulli",
    "continuous-bernoulli",
    "normal",
    "laplace",
    "student-t",
    "discretized-logistic",
    "logistic-mixture",
    "categorical",
    "binomial",
    "poisson",
    "negative-binomial",
)
