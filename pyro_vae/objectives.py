"""Objectives of SVI, on Pyro's classes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from .config import KL
from .seeding import seeded

__all__ = ["ELBO"]


class ELBO(Trace_ELBO):  # type: ignore[misc, unused-ignore]
    r"""Evidence lower bound of a Pyro model and guide, with a weight on its KL term.

    .. math:: L = E_{q(z \mid x)}[\log p(x \mid z)] - \beta \, KL(q(z \mid x) \,\|\, p(z))

    A lower bound of log p(x) at :math:`\beta = 1`. It is a ``pyro.infer.Trace_ELBO``: loss and
    gradient are the same numbers (a sampled KL, reparameterized latents), and
    ``pyro.infer.SVI(model, guide, optimizer, pv.ELBO())`` works. :func:`pyro_vae.fit` uses
    :meth:`terms`, whose KL weight may be anything from exactly 0.

    Args:
        particles: draws of z per datum, in one vectorized pass.
        kl: ``"sampled"`` takes log q - log p at the draws; ``"analytic"`` takes the closed form at
            each latent site for which torch has one, and the sampled term at the others. Sites
            whose distribution depends on later latents of the guide keep the sampled term.

    Raises:
        ValueError: fewer than one particle, or an unknown ``kl``.

    References:
        Kingma and Welling (2014). https://arxiv.org/abs/1312.6114
    """

    def __init__(self, *, particles: int = 1, kl: KL = "sampled") -> None:
        if particles < 1:
            raise ValueError(f"particles must be at least 1; got {particles}.")
        if kl not in ("sampled", "analytic"):
            raise ValueError(f"kl must be 'sampled' or 'analytic'; got {kl!r}.")
        super().__init__(
            num_particles=particles, vectorize_particles=True, max_plate_nesting=math.inf
        )
        self.kl = kl

    def __repr__(self) -> str:
        return f"ELBO(particles={self.num_particles}, kl={self.kl!r})"

    def terms(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Tensor,
        kl_weight: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Run both programs once and return the loss and the unweighted ELBO.

        Args:
            model: Pyro program.
            guide: Pyro program with reparameterized latents.
            args: arguments of both.
            kl_weight: weight of the KL term.

        Returns:
            Loss to minimize (differentiable) and ELBO at ``kl_weight`` 1 (detached), scalars: sums
            over the batch, in nats. A scale of the programs (of a subsampled plate) is in the loss,
            not in the ELBO.

        Raises:
            NotImplementedError: a latent site of the guide is not reparameterized; use
                ``pyro.infer.SVI`` with ``Trace_ELBO`` or ``TraceGraph_ELBO`` there.
        """
        if math.isinf(self.max_plate_nesting):
            self._find_plates(model, guide, args)
        ((model_trace, guide_trace),) = self._get_traces(model, guide, args, {})
        observed, kl = self._split(model_trace, guide_trace)
        loss = kl_weight * kl - observed
        return loss, (observed - kl).detach() / _scale(model_trace)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the negative ELBO as a differentiable scalar, as Pyro's class does."""
        if self.kl == "sampled":
            return super().differentiable_loss(model, guide, *args, **kwargs)
        return self.terms(model, guide, *args)[0]

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the negative ELBO and backpropagate it, as Pyro's class does."""
        if self.kl == "sampled":
            loss: float = super().loss_and_grads(model, guide, *args, **kwargs)
            return loss
        differentiable = self.terms(model, guide, *args)[0]
        differentiable.backward()
        return differentiable.item()

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the negative ELBO."""
        if self.kl == "sampled":
            loss: float = super().loss(model, guide, *args, **kwargs)
            return loss
        return self.terms(model, guide, *args)[0].item()

    def _find_plates(self, model: Any, guide: Any, args: Any) -> None:
        """Let Pyro find the plates, without its log line and the caller's random numbers."""
        logger, level = logging.getLogger("pyro"), logging.getLogger("pyro").level
        logger.setLevel(logging.WARNING)
        try:
            with seeded("plates", 0):
                self._guess_max_plate_nesting(model, guide, args, {})
        finally:
            logger.setLevel(level)

    def _split(self, model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor]:
        """Sum the observed sites' log densities and the KL terms of the latent sites."""
        observed: Tensor | float = 0.0
        kl: Tensor | float = 0.0
        closed_form = self._closed_forms(model_trace, guide_trace)
        sites: Any = model_trace.nodes
        for name, site in sites.items():
            if site["type"] != "sample" or name in closed_form:
                continue
            if site["is_observed"]:
                observed = observed + site["log_prob_sum"]
            else:
                kl = kl - site["log_prob_sum"]
        sites = guide_trace.nodes
        for name, site in sites.items():
            if site["type"] != "sample":
                continue
            if not (site["is_observed"] or site["fn"].has_rsample):
                raise NotImplementedError(
                    f"latent site {name!r} of the guide is not reparameterized "
                    f"({type(site['fn']).__name__}); use pyro.infer.SVI with Trace_ELBO."
                )
            kl = kl + (closed_form[name] if name in closed_form else site["log_prob_sum"])
        particles = self.num_particles
        return torch.as_tensor(observed) / particles, torch.as_tensor(kl) / particles

    def _closed_forms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        """Closed-form KL of the latent sites that have one, summed with the model's scale."""
        if self.kl == "sampled":
            return {}
        latents = [
            name
            for name, site in guide_trace.nodes.items()
            if site["type"] == "sample" and name in model_trace.nodes
        ]
        in_model = [name for name in model_trace.nodes if name in latents]
        found = {}
        for name in latents if latents == in_model else []:
            q: Any = guide_trace.nodes[name]
            p: Any = model_trace.nodes[name]
            try:
                kl = kl_divergence(q["fn"], p["fn"])
            except NotImplementedError:
                continue
            found[name] = scale_and_mask(kl, scale=p["scale"], mask=p["mask"]).sum()
        return found


def _scale(trace: Trace) -> float | Tensor:
    """Scale of the observed sites: how many data of the whole set one of the batch stands for."""
    sites: Any = trace.nodes
    for site in sites.values():
        if site["type"] == "sample" and site["is_observed"]:
            scale: float | Tensor = site["scale"]
            return scale
    return 1.0
