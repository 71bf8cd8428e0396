"""log p(x) by Pyro alone: importance weights of its traces, enumeration, quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceEnum_ELBO
from pyro.infer.importance import vectorized_importance_weights
from torch import Tensor

__all__ = [
    "Reference",
    "by_enumeration",
    "by_quadrature",
    "by_traces",
    "by_weights",
    "exactly",
    "log_mean",
]

ROUGH = 10.0  # effective draws


@dataclass(frozen=True)
class Reference:
    """What log p(x) is.

    Attributes:
        value: of each datum ``(N,)``, or of all data together ``(1,)``, in nats, float64.
        error: standard errors, of the same shape.
        how: where it comes from.
        ess: least effective sample size of a mean of weights.
    """

    value: Tensor
    error: Tensor
    how: str
    ess: float = math.inf


def exactly(value: Tensor | float, how: str = "exact") -> Reference:
    """State exact values."""
    value = torch.as_tensor(value, dtype=torch.float64).detach().reshape(-1)
    return Reference(value, torch.zeros_like(value), how)


def log_mean(log_weights: Tensor, how: str) -> Reference:
    """Log mean of the weights ``(K, N)`` with its standard error.

    The error of so few effective draws says nothing; 2 nats are stated then.
    """
    weights = log_weights.detach().double()
    number = len(weights)
    value = weights.logsumexp(0) - math.log(number)
    error = (weights - value).exp().std(0) / math.sqrt(number)
    ess = 1 / weights.softmax(0).square().sum(0)
    error = torch.where(ess < ROUGH, error.clamp(min=2.0), error)
    return Reference(value, error, how, ess.min().item())


@torch.no_grad()
def by_weights(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batches: Sequence[Sequence[Any]],
    *,
    samples: int = 3000,
    plates: int = 1,
) -> Reference:
    """Pyro's ``vectorized_importance_weights`` of each batch of arguments: one datum, or all."""
    columns = []
    for arguments in batches:
        found = vectorized_importance_weights(
            model, guide, *arguments, num_samples=samples, max_plate_nesting=plates + 1
        )
        columns.append(found[0].reshape(samples))
    return log_mean(torch.stack(columns, 1), "vectorized_importance_weights")


@torch.no_grad()
def by_traces(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    samples: int = 1000,
    number: int | None = None,
    dim: int = -1,
) -> Reference:
    """A loop of pairs of traces, whose weights are added up here.

    Args:
        model: Pyro program.
        guide: Pyro program.
        arguments: of both.
        samples: pairs of traces.
        number: of data, each with a weight of its own; by default one weight for all.
        dim: where the data are among a site's batch dimensions.
    """
    rows = []
    for _ in range(samples):
        guided = poutine.trace(guide).get_trace(*arguments)
        modelled = poutine.trace(poutine.replay(model, guided)).get_trace(*arguments)
        total = torch.zeros(number or 1, dtype=torch.float64)
        for trace, sign in ((modelled, 1), (guided, -1)):
            for site in trace.nodes.values():
                if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample":
                    continue
                if sign < 0 and site["is_observed"]:  # no part of q
                    continue
                log_prob: Any = site["fn"].log_prob(site["value"])
                term = scale_and_mask(log_prob, mask=site["mask"])
                total += sign * _per_datum(term, number, dim)
        rows.append(total)
    return log_mean(torch.stack(rows), f"{samples} pairs of traces")


def _per_datum(term: Tensor, number: int | None, dim: int) -> Tensor:
    """Sum a site's log density over all but the data."""
    if number is None:
        return term.sum()
    others = [d for d in range(-term.dim(), 0) if d != dim]
    return term.sum(others) if others else term


@torch.no_grad()
def by_enumeration(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batches: Sequence[Sequence[Any]],
    *,
    samples: int = 1000,
    plates: int = 1,
) -> Reference:
    """Weights with the model's discrete latents summed out: ``TraceEnum_ELBO`` of single draws."""
    columns = []
    for arguments in batches:
        losses = [
            TraceEnum_ELBO(max_plate_nesting=plates, strict_enumeration_warning=False).loss(
                model, guide, *arguments
            )
            for _ in range(samples)
        ]
        columns.append(-torch.tensor(losses, dtype=torch.float64))
    if samples == 1:  # nothing is drawn
        return exactly(torch.stack(columns, 1)[0], "TraceEnum_ELBO")
    return log_mean(torch.stack(columns, 1), f"TraceEnum_ELBO of {samples} draws")


def by_quadrature(log_joint: Callable[..., Tensor], *axes: Tensor) -> Reference:
    """Log of the integral of ``exp(log_joint)`` over a grid by the trapezoidal rule.

    Args:
        log_joint: of one argument for each axis, broadcast against each other; its result may have
            the data as a last dimension.
        axes: ascending values, float64.
    """
    grid = torch.meshgrid(*axes, indexing="ij")
    terms = log_joint(*grid)
    if terms.dim() == len(axes):
        terms = terms[..., None]
    for axis in axes:
        width = torch.empty_like(axis)
        width[0], width[-1] = (axis[1] - axis[0]) / 2, (axis[-1] - axis[-2]) / 2
        width[1:-1] = (axis[2:] - axis[:-2]) / 2
        shape = [-1] + [1] * (terms.dim() - 1)
        terms = (terms + width.log().reshape(shape)).logsumexp(0)
    return exactly(terms, "quadrature")
