"""KL terms of single latent dimensions, kept at or above a threshold."""

from __future__ import annotations

from typing import Any

from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from .base import ParticlePlate

__all__ = ["floored_kl"]


def floored_kl(q: Any, p: Any, plate: ParticlePlate, *, free_bits: float, analytic: bool) -> Tensor:
    """Sum over a site's dimensions the larger of the mean KL and the threshold.

    Args:
        q: site of the guide.
        p: site of the model at the same draws.
        plate: plate over the data; means are over it and over the particles.
        free_bits: threshold of each dimension, in nats.
        analytic: whether to take the closed form rather than log q - log p at the draws.

    Returns:
        Scalar, nats per datum.
    """
    fns, event_dim, size = [q["fn"], p["fn"]], 0, q["fn"].event_shape.numel()
    factors = [_factors(fn) for fn in fns]
    if None not in factors:
        fns, event_dim, size = factors, q["fn"].event_dim, 1
    if analytic:
        kl = _masked(kl_divergence(*fns), p, event_dim)
    else:
        log_q, log_p = (
            _masked(fn.log_prob(site["value"]), site, event_dim)
            for fn, site in zip(fns, (q, p), strict=True)
        )
        kl = log_q - log_p
    kl = kl.mean(plate.dim - event_dim, keepdim=True)
    if plate.particles > 1:
        kl = kl.mean(0)
    return kl.clamp(min=free_bits * size).sum()


def _factors(fn: Any) -> Any:
    """Distribution of the elements of an event, if they are independent."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return None if fn.event_shape else fn


def _masked(terms: Tensor, site: Any, event_dim: int) -> Tensor:
    mask = site["mask"]
    if isinstance(mask, Tensor):
        mask = mask.reshape(*mask.shape, *[1] * event_dim)
    masked: Tensor = scale_and_mask(terms, mask=mask)
    return masked
