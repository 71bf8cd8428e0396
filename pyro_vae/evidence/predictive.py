"""Densities of new data given others: log p(x_new | data), where latents belong to all data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common.devices import sent
from ..common.errors import UnreliableEvidence, warn
from ..common.verbs import verb
from ..data import AnyData
from ..programs.arguments import bound
from ..programs.inputs import source_for
from ..programs.modules import device_of, evaluation_mode
from ..programs.traces import Fn, observed_sites, run, sample_sites
from .diagnostics import (
    effective_sample_size,
    jackknife,
    log_mean_exp,
    pareto_k,
    standard_error,
)
from .importance import log_evidence
from .result import METHODS, Evidence

__all__ = ["log_predictive"]

_FEW = 5  # data, on which the plate over the data is looked for


@verb
def log_predictive(
    model: Fn,
    x: AnyData,
    draws: Mapping[str, Tensor],
    *,
    guide: Fn | None = None,
    samples: int = 100,
    method: str = "guide",
    seed: int = 0,
) -> Evidence:
    r"""Estimate :math:`\log p(x_n \mid D)` of each new datum from posterior draws given data D.

    .. math:: \log \hat p(x_n \mid D) = \log \frac{1}{S} \sum_s p(x_n \mid \theta_s), \qquad
        \theta_s \sim p(\theta \mid D)

    The latents :math:`\theta` that belong to all data are fixed at each draw in turn; what a datum
    has of its own is integrated by :func:`log_evidence`, with a guide for it. Without latents of
    its own each term is exact. Sums over new data are the expected log predictive density that
    models are compared by.

    Args:
        model: Pyro program of the new data.
        x: new data, as for :func:`log_evidence`.
        draws: draws of the posterior by site, ``(S, *shape)``, such as those of
            :func:`sample_posterior` or of ``pyro.infer.MCMC.get_samples()``.
        guide: Pyro program of a datum's own latents; it may draw others, too, which are left out.
        samples: importance samples for a datum's own latents, at each draw.
        method: their proposal.
        seed: seed of these.

    Returns:
        Evidence of N values, whose K are the S draws: the error knows their number, and takes them
        for independent.

    Raises:
        ValueError: draws of different numbers, of sites that the model does not have, or of latents
            that each datum has of its own.

    Warns:
        UnreliableEvidence: estimates are to doubt.
    """
    start = time.perf_counter()
    numbers = {len(value) if value.dim() else 0 for value in draws.values()}
    if len(numbers) != 1 or numbers == {0}:
        raise ValueError(
            f"draws have {sorted(numbers)} rows; expected (S, *shape) for every latent site, S the "
            "same for all."
        )
    names = set(draws)
    if own := _of_single_data(model, guide or model, x, names):
        raise ValueError(
            f"draws hold {own}, which each datum has of its own: in new data it is another. Leave "
            "it out of the draws, and give a guide of it (guide=...), so that it is integrated out."
        )

    def fixed(program: Fn, values: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> None:
        there = next((a.device for a in args if isinstance(a, Tensor)), torch.device("cpu"))
        with (
            pyro.poutine.block(hide_fn=lambda site: site["name"] in names),
            pyro.poutine.condition(data={name: sent(v, there) for name, v in values.items()}),
        ):
            program(*args, **kwargs)

    def nothing(*args: Any, **kwargs: Any) -> None:
        """Draw nothing: a datum has no latents of its own."""

    rows = []
    for number in range(numbers.pop()):
        values = {name: value[number] for name, value in draws.items()}
        guided: Fn = nothing if guide is None else partial(fixed, guide, values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableEvidence)  # said of the whole, below
            try:
                given = log_evidence(
                    partial(fixed, model, values),
                    guided,
                    x,
                    samples=samples if guide is not None else 1,
                    method=method,  # type: ignore[arg-type]
                    search=False,
                    seed=seed + number,
                    progress=False,
                )
            except ValueError as error:
                if guide is not None:
                    raise
                raise ValueError(
                    f"{error} Or add it to the draws, which hold {sorted(names)}, if it belongs to "
                    "all data; else give a guide of what a datum has of its own."
                ) from error
        if given.data_set:
            raise ValueError(
                "the model has sites outside of the plate over the data besides what the draws "
                f"hold, {sorted(names)}. Add latents that belong to all data to the draws, and "
                "leave out for new data what belongs to the old ones: a pyro.factor, or an "
                "observation of all of them."
            )
        rows.append(given)
    terms = torch.stack([evidence.log_px for evidence in rows])
    log_px = log_mean_exp(terms)
    evidence = Evidence(
        log_px=log_px,
        standard_error=standard_error(terms),  # their own noise, too, is in their spread
        ess=effective_sample_size(terms),
        pareto_k=pareto_k(terms),
        jackknife=jackknife(terms),
        elbo=terms.mean(0),
        draws=torch.full_like(log_px, len(terms)),
        rung=torch.full_like(log_px, METHODS.index("guide")),
        samples=len(terms),
        seed=seed,
        event_size=rows[0].event_size,
        data_sha256=rows[0].data_sha256,
        data=rows[0].data,
        seconds=time.perf_counter() - start,
    )
    doubtful = int(evidence.unreliable().sum())
    if doubtful:
        warn(
            f"log p(x | data) of {doubtful} of {len(evidence)} data is {evidence.verdict}: they "
            "are far from what most draws expect. Take more draws.",
            UnreliableEvidence,
        )
    return evidence


def _of_single_data(model: Fn, guide: Fn, x: AnyData, names: set[str]) -> list[str]:
    """Latents, of those named, that lie in the plate over the data; none where that is not seen."""
    data, programs = bound(x, model, guide)
    inside: list[set[str]] = []
    with suppress(Exception), evaluation_mode(*programs):  # what is wrong is said elsewhere
        batch = next(source_for(data, *programs, finite=False).batches(_FEW))
        device = device_of(*programs) or batch[0].device
        for rows in (len(batch[0]), len(batch[0]) - 1):
            trace = run(programs[0], tuple(argument[:rows].to(device) for argument in batch))
            stacks = {name: s["cond_indep_stack"] for name, s in sample_sites(trace)}
            follow = {n: {f.name for f in stack if f.size == rows} for n, stack in stacks.items()}
            plates = set.intersection(*(follow[name] for name, _ in observed_sites(trace)))
            inside.append({name for name in names & follow.keys() if follow[name] & plates})
    return sorted(set.intersection(*inside)) if len(inside) == 2 else []
