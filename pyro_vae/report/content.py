"""What the page holds of each model: all of it, to compute with, or else pictures of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..common.devices import exact_convolutions
from ..data.sets import Data
from ..evidence import Evidence
from ..evidence.diagnostics import pareto_k_threshold
from ..models import VAE
from .families import describe_likelihood, describe_posterior, describe_prior
from .operations import UnknownPart, operations
from .packing import Pack, Weights, packed_data

__all__ = ["Subject", "data_content", "model_content"]

_GRID = 15  # pictures along each side of a precomputed plane
_LEVELS = 255


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that a page is about.

    Attributes:
        name: what it is called there.
        model: the trained model, in evaluation mode.
        sentence: what it is, in a sentence.
        codes: posterior means of the page's data, shape ``(N, D)``.
        reconstructions: the decoder's means there, ``(N, *event_shape)``.
        decode: means of p(x|z) for any z of shape ``(M, D)``, if the model has one latent vector.
        evidence: log p(x) of the first test data, where it was estimated.
        history: columns of the training history.
        facts: pairs of a term and its value, to be listed.
        advice: what to do next, pairs of a sentence and a command.
    """

    name: str
    model: nn.Module
    sentence: str
    codes: Tensor
    reconstructions: Tensor
    decode: Callable[[Tensor], Tensor] | None = None
    evidence: Evidence | None = None
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    facts: Sequence[tuple[str, str]] = ()
    advice: Sequence[tuple[str, str]] = ()


def data_content(data: Data) -> dict[str, Any]:
    """Return the page's data as plain values; what is missing is NaN among them."""
    known = data.x[data.x.isfinite()]
    return {
        "number": len(data),
        "shape": list(data.event_shape),
        "values": packed_data(data.x),
        "low": known.min().item() if len(known) else 0.0,
        "high": known.max().item() if len(known) else 1.0,
        "labels": None if data.y is None else data.y.tolist(),
    }


def model_content(subject: Subject, data: Data, *, weights: Weights = "float32") -> dict[str, Any]:
    """Return a model as plain values, to compute with if the page knows all of its parts.

    Else ``live`` is ``None``, ``reason`` says why, and ``pictures`` has its reconstructions and, if
    there is one latent vector, a grid of decoded points.
    """
    numbers = Pack()
    codes = subject.codes.detach().cpu()
    content: dict[str, Any] = {
        "name": subject.name,
        "latents": codes.shape[1],
        "codes": numbers.add(codes),
        "variances": [_finite(v) for v in codes.double().var(0, correction=0).tolist()],
        "evidence": _evidence(subject.evidence, len(data), numbers),
        "history": {
            name: numbers.add(torch.tensor([*values]))
            for name, values in subject.history.items()
            if name in ("epoch", "train_elbo", "valid_elbo")
        },
        "live": None,
        "reason": "",
    }
    try:
        content["live"] = _live(subject.model, data.x, codes.shape[1], numbers, weights)
    except UnknownPart as error:
        content["reason"] = str(error)
        content["pictures"] = _pictures(subject, data)
    return {**content, "numbers": numbers.content()}


def _live(
    model: nn.Module, x: Tensor, latents: int, numbers: Pack, weights: Weights
) -> dict[str, Any]:
    """Describe a model, with densities at one point for the page to check itself by."""
    if type(model) is not VAE:
        raise UnknownPart(
            "the page computes models of one latent vector that take the data alone, and this is "
            f"a {type(model).__name__}."
        )
    networks = Pack(weights)
    likelihood: Any = model.likelihood
    posterior: Any = model.posterior
    with torch.no_grad():
        described = {
            "prior": describe_prior(model.prior(), numbers),
            "likelihood": describe_likelihood(likelihood, numbers),
            "posterior": describe_posterior(posterior),
            "encoder": operations(posterior.network, x.shape[1:], networks),
            "decoder": operations(likelihood.network, (latents,), networks),
        }
    return {**described, "weights": networks.content(), "check": _check(model, x[:1])}


@torch.no_grad()
def _check(model: VAE, x: Tensor) -> dict[str, Any]:
    """Densities of the first datum at a point half a standard deviation from the guide's mean."""
    exact = copy.deepcopy(model).cpu().double()
    x = x.detach().cpu().double()
    with exact_convolutions():
        posterior = exact.posterior(x)
        z = posterior.mean + 0.5 * posterior.variance.sqrt()
        return {
            "z": z[0].tolist(),
            "log_likelihood": _finite(exact.likelihood(z).log_prob(x).item()),
            "log_prior": _finite(exact.prior().log_prob(z).item()),
            "log_posterior": _finite(posterior.log_prob(z).item()),
        }


def _evidence(evidence: Evidence | None, number: int, numbers: Pack) -> dict[str, Any] | None:
    if evidence is None:
        return None
    columns = {
        "log_px": evidence.corrected(),
        "standard_error": evidence.standard_error,
        "pareto_k": evidence.pareto_k,
        "ess": evidence.ess,
        "elbo": evidence.elbo,
        "doubtful": evidence.unreliable(),
    }
    mean = evidence.mean()
    return {
        "number": min(number, len(evidence)),
        "samples": evidence.samples,
        "method": evidence.method,
        "limit": pareto_k_threshold(int(evidence.draws.max())),
        "mean": _finite(mean.value),
        "elbo": _finite(evidence.elbo.mean().item()),
        "mc_error": _finite(mean.mc_error),
        "sampling_error": _finite(mean.sampling_error),
        "all": numbers.add(evidence.corrected()),
        "all_k": numbers.add(evidence.pareto_k),
        **{name: numbers.add(column[:number]) for name, column in columns.items()},
    }


def _pictures(subject: Subject, data: Data) -> dict[str, Any]:
    """Reconstructions, and a grid over the plane of the two most active latents."""
    codes = subject.codes.detach().cpu().float()
    content: dict[str, Any] = {"reconstructions": _levels(subject.reconstructions), "grid": None}
    if subject.decode is None:
        return content
    axes = codes.var(0, correction=0).argsort(descending=True)[:2].tolist()
    low, high = codes.quantile(0.005, dim=0), codes.quantile(0.995, dim=0)
    lines = [torch.linspace(low[d].item(), high[d].item(), _GRID) for d in axes]
    places = torch.cartesian_prod(*lines).reshape(-1, len(axes))
    z = codes.mean(0).repeat(len(places), 1)
    z[:, axes] = places
    decoded = subject.decode(z)
    grid = {"axes": axes, "lines": [line.tolist() for line in lines], "images": _levels(decoded)}
    return {**content, "grid": grid}


def _levels(values: Tensor) -> dict[str, Any]:
    """Values in 256 steps between the least and the largest, which is enough for pictures."""
    values = values.detach().cpu().float().nan_to_num()
    low, high = values.min().item(), values.max().item()
    steps = ((values - low) / max(high - low, 1e-12) * _LEVELS).round()
    return {"low": low, "high": high, "steps": packed_data(steps)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
