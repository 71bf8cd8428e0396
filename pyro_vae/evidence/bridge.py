"""log p(x) of a data set from draws of its posterior, such as those of MCMC: bridge sampling."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common.errors import UnreliableEvidence, warn
from ..common.seeding import seeded
from ..common.verbs import verb
from ..data import AnyData
from ..programs.evaluation import evaluating
from ..programs.traces import Fn
from .diagnostics import log_mean_exp, pareto_k
from .proposals import NormalProposal
from .result import METHODS, Evidence
from .space import Space

__all__ = ["bridge"]

_MOST_STEPS = 1000
_PIECE = 64  # draws that go through the model at once


@verb
@torch.no_grad()
def bridge(
    model: Fn,
    x: AnyData,
    draws: Mapping[str, Tensor],
    *,
    chains: int = 1,
    seed: int = 0,
) -> Evidence:
    r"""Estimate log p(x) of a data set from draws of the posterior, by bridge sampling.

    Half of the draws fit a normal g to the unconstrained latents u; with the :math:`N_1` others,
    and :math:`N_2` draws of g, the optimal bridge of Meng and Wong is iterated,

    .. math:: \hat p(x) \leftarrow \frac{\frac{1}{N_2} \sum_{u \sim g} \frac{p(x, u)}
        {s_1 p(x, u) + s_2 \hat p(x) g(u)}}{\frac{1}{N_1} \sum_{u \sim p(u|x)} \frac{g(u)}
        {s_1 p(x, u) + s_2 \hat p(x) g(u)}}

    with :math:`s_1, s_2` the shares of both kinds, draws of a chain counted by their effective
    number. The error is that of Frühwirth-Schnatter (2004), autocorrelation included; k̂ is the
    larger one of numerator and denominator (Micaletto and Vehtari, 2025). As the draws decide what
    is seen of the posterior, a mode that they miss is missed here, too.

    Args:
        model: Pyro program whose latents are drawn together for the whole data set.
        x: data, as for :func:`log_evidence`.
        draws: posterior draws by latent site, ``(S, *shape)``, such as those of
            ``pyro.infer.MCMC.get_samples()``, chain after chain; on any device, like the data.
        chains: number of chains that they come from.
        seed: seed of the draws of g.

    Returns:
        Evidence of one value; its ``ess`` is the lesser of the effective numbers of draws of the
        posterior and of g.

    Raises:
        ValueError: latents that are missing in ``draws``, or of another shape; fewer than 20 draws
            a chain; a model of which each datum has latents of its own.

    Warns:
        UnreliableEvidence: as :func:`log_evidence`.

    References:
        Meng and Wong (1996), Simulating ratios of normalizing constants via a simple identity.
        Gronau et al. (2017), A tutorial on bridge sampling. https://arxiv.org/abs/1703.05984
        Micaletto and Vehtari (2025), Bridge sampling diagnostics. https://arxiv.org/abs/2508.14487
    """
    start = time.perf_counter()

    def prior(*args: object, **kwargs: object) -> None:
        with pyro.poutine.block(hide_fn=_is_no_draw):
            model(*args, **kwargs)

    with evaluating(model, prior, x, narrow=True) as evaluation:
        if not evaluation.data_set:
            raise ValueError(
                "bridge is for latents of the whole data set; here each datum has its own: use "
                "log_evidence(method='auto')."
            )
        (block,) = evaluation.blocks()
        space = Space.of(evaluation.pair, block.batch)
        values = _checked(space, draws, chains, block.batch[0].device)
        u = space.vector({name: value[:, None] for name, value in values.items()})
        by_chain = u.reshape(chains, -1, *u.shape[1:])
        half = by_chain.shape[1] // 2
        fitting = by_chain[:, :half].flatten(0, 1)
        rest = by_chain[:, half:].flatten(0, 1)
        normal = _fitted(space, fitting)
        with seeded("bridge", seed):
            proposed = normal.place(normal.noise(len(rest)))
        ours, theirs = (
            torch.cat([space.log_joint(block.batch, part)[:, 0] for part in points.split(_PIECE)])
            - normal.log_density_of_vector(points)[:, 0]
            for points in (rest, proposed)
        )
        log_px, error, k, effective = _iterate(ours, theirs, chains)
        one = torch.tensor([log_px], dtype=torch.float64)
        evidence = Evidence(
            log_px=one,
            standard_error=torch.full_like(one, error),
            ess=torch.full_like(one, effective),
            pareto_k=torch.full_like(one, k),
            jackknife=one,
            elbo=theirs.mean().cpu()[None],
            draws=torch.full_like(one, len(rest)),
            rung=torch.full_like(one, METHODS.index("bridge")),
            samples=len(rest),
            seed=seed,
            **evaluation.identity(),
            seconds=time.perf_counter() - start,
            method="bridge",
        )
    if evidence.verdict != "trusted":
        warn(
            f"log p(x) by bridge sampling is {evidence.verdict}: the normal is far from the "
            "posterior. Take more draws, or log_evidence(method='auto').",
            UnreliableEvidence,
        )
    return evidence


def _is_no_draw(site: Any) -> bool:
    """Whether a site of the model is none of the guide's: observed, or to be summed out."""
    infer = site["infer"] or {}
    return bool(site["is_observed"]) or infer.get("enumerate") == "parallel"


def _checked(
    space: Space, draws: Mapping[str, Tensor], chains: int, device: torch.device
) -> dict[str, Tensor]:
    """Draws of the latents that the space has, on the device."""
    names = [part.name for part in space.parts]
    missing = [name for name in names if name not in draws]
    if missing:
        raise ValueError(
            f"the draws lack latent sites {missing}; they hold {list(draws)}. Give all that the "
            "model draws, (S, *shape) each."
        )
    number = len(draws[names[0]])
    if number % chains or number // chains < _LEAST:
        raise ValueError(
            f"there are {number} draws of {chains} chains; expected at least {_LEAST} of each, as "
            "many of one as of the others, in one dimension, chain after chain."
        )
    reference = space.values(torch.zeros(1, 1, space.size, device=device))[0]
    for name in names:
        wanted = tuple(reference[name].shape[2:])
        if tuple(draws[name].shape) != (number, *wanted):
            raise ValueError(
                f"draws of {name!r} have shape {tuple(draws[name].shape)}; expected "
                f"{(number, *wanted)}."
            )
    return {name: draws[name].to(device) for name in names}


_LEAST = 20


def _fitted(space: Space, u: Tensor) -> NormalProposal:
    """Normal with the moments of draws ``(S, 1, D)``."""
    covariance = torch.cov(u[:, 0].double().T).reshape(space.size, space.size)
    tril = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(space.size).to(covariance))
    return NormalProposal(space, u.mean(0), tril[None].to(u.dtype))


def _iterate(posterior: Tensor, normal: Tensor, chains: int) -> tuple[float, float, float, float]:
    """Optimal bridge from log ratios p(x, u) / g(u) at draws of the posterior and of g.

    Returns:
        log p(x), its standard error, k̂, and the effective number of draws, of posterior or normal.
    """
    effective = len(posterior) / _autocorrelation(posterior, chains)
    share = effective / (effective + len(normal))
    centre = posterior.median()
    ours, theirs = posterior - centre, normal - centre
    log_r = 0.0
    for _ in range(_MOST_STEPS):
        bottom = math.log(1 - share) + log_r
        top = theirs - torch.logaddexp(math.log(share) + theirs, torch.full_like(theirs, bottom))
        low = -torch.logaddexp(math.log(share) + ours, torch.full_like(ours, bottom))
        new = (log_mean_exp(top) - log_mean_exp(low)).item()
        converged = abs(new - log_r) < 1e-10 * max(1.0, abs(new))
        log_r = new
        if converged:
            break
    relative = [(v - log_mean_exp(v)).exp() for v in (top, low)]  # of mean one
    spread = [value.var() for value in relative]
    worth = _autocorrelation(relative[1], chains)
    variance = spread[0] / len(normal) + spread[1] / len(posterior) * worth
    effective = min(
        len(normal) / (1 + spread[0].item()), len(posterior) / (1 + spread[1].item()) / worth
    )
    k = torch.stack([pareto_k(value[:, None])[0] for value in (top, low)])
    k = k.nan_to_num(-math.inf).max()
    return (log_r + centre.item(), variance.sqrt().item(), k.item(), effective)


def _autocorrelation(values: Tensor, chains: int) -> float:
    """Draws of a chain that are worth an independent one, at least one (Geyer's estimate)."""
    rows = values.reshape(chains, -1)
    rows = rows - rows.mean(1, keepdim=True)
    n = rows.shape[1]
    spectrum = torch.fft.rfft(rows, n=2 * n).abs().square()
    covariance = torch.fft.irfft(spectrum)[:, :n].mean(0) / n
    if not covariance[0] > 0:
        return 1.0
    pairs = (covariance / covariance[0])[: n // 2 * 2].reshape(-1, 2).sum(1)
    positive = (pairs > 0).long().cumprod(0).bool()
    return max(1.0, 2 * pairs[positive].sum().item() - 1)
