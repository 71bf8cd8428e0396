"""The ELBO with discrete latents summed out, on Pyro's enumeration."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import TraceEnum_ELBO
from pyro.infer.traceenum_elbo import _compute_dice_elbo
from pyro.ops import packed
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ..programs.traces import (
    Fn,
    is_regularizer,
    latent_sites,
    observed_scale,
    observed_sites,
    sample_sites,
)
from .base import count_plates, rows_of

__all__ = ["EnumeratedELBO"]


class EnumeratedELBO(TraceEnum_ELBO):  # type: ignore[misc, unused-ignore]
    r"""Evidence lower bound with the discrete latents summed out exactly.

    .. math:: L = \sum_y q(y \mid x) \, E_{q(z \mid x, y)} \left[\log p(x \mid z, y)
        - \beta \log \frac{q(y \mid x) \, q(z \mid x, y)}{p(y) \, p(z)} \right]

    The sum is over the sites of the guide (or of the model alone) that are marked with
    ``infer={"enumerate": "parallel"}``; other latents are drawn for each of their values. It is a
    ``pyro.infer.TraceEnum_ELBO``, with the same loss and gradient, and works in ``pyro.infer.SVI``.
    Neither has the noise of a drawn label, and labels of probability zero contribute nothing.

    Observed sites marked with ``infer={"regularizer": True}`` are terms of the loss only, such as
    the classification term of :class:`pyro_vae.models.SemiSupervisedVAE`.

    Args:
        particles: draws of the latents that are not summed out, in one vectorized pass.
        plates: number of nested plates of the programs, 1 for the plate over the data alone; by
            default they are counted in a run of the programs.

    Raises:
        ValueError: fewer than one particle or plate.

    References:
        Kingma et al. (2014), equation 7. https://arxiv.org/abs/1406.5298
    """

    def __init__(self, *, particles: int = 1, plates: int | None = None) -> None:
        for name, value, least in (("particles", particles, 1), ("plates", plates, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}.")
        super().__init__(
            num_particles=particles,
            vectorize_particles=True,
            max_plate_nesting=math.inf if plates is None else plates,
        )

    def __repr__(self) -> str:
        return f"EnumeratedELBO(particles={self.num_particles})"

    def prepare(self, model: Fn, guide: Fn, *args: Tensor) -> None:
        """Count the nested plates of the programs, if their number was not given."""
        if math.isinf(self.max_plate_nesting):
            count_plates(self, model, guide, args)

    def terms(
        self,
        model: Fn,
        guide: Fn,
        *args: Tensor,
        kl_weight: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor]:
        r"""Run both programs once and return the loss and the unweighted ELBO.

        Arguments and results are those of :meth:`Objective.terms`. ``kl_weight`` :math:`\beta`
        weighs the terms of the latent sites, enumerated ones included (sites enumerated in the
        model alone have none). The ELBO leaves regularizers out.
        """
        self.prepare(model, guide, *args)
        loss: Tensor | float = 0.0
        elbo: Tensor | float = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, {}):
            bound = _expectation(model_trace, guide_trace)
            extra = _regularizers(model_trace)
            elbo = elbo + (bound - extra).detach() / observed_scale(model_trace, rows_of(args))
            if isinstance(kl_weight, Tensor) or kl_weight != 1:
                _weigh_latents(model_trace, guide_trace, kl_weight)
                bound = _expectation(model_trace, guide_trace)
            loss = loss - bound
        particles = self.num_particles
        return torch.as_tensor(loss) / particles, torch.as_tensor(elbo) / particles


def _expectation(model_trace: Trace, guide_trace: Trace) -> Tensor:
    """Sum the terms of all sites, each weighted by the probability of the labels it depends on.

    No branch depends on a tensor's value, so this can be compiled. Programs that draw a latent
    without reparameterization, or enumerate one in the model alone, need Pyro's own sum.
    """
    latents = dict(latent_sites(guide_trace))
    enumerated = [site for site in latents.values() if _is_summed(site)]
    drawn = (site for site in latents.values() if not _is_summed(site))
    if any(not is_identically_zero(_score(site)) for site in drawn) or any(
        name not in latents for name, _ in latent_sites(model_trace)
    ):
        return torch.as_tensor(_compute_dice_elbo(model_trace, guide_trace))
    total: Any = 0.0  # a number belongs to no device
    for trace, sign in ((model_trace, 1.0), (guide_trace, -1.0)):
        for _, site in sample_sites(trace):
            above = [_score(label) for label in enumerated if _plates(label) <= _plates(site)]
            term, *scores = packed.broadcast_all(site["packed"]["log_prob"], *above)
            if scores:
                probability: Any = sum(scores, 0.0)
                probability = probability.exp()
                term = probability * term.masked_fill(probability == 0, 0.0)  # 0 log 0 is 0
            total = total + sign * term.sum()
    return torch.as_tensor(total)


def _is_summed(site: Any) -> bool:
    """Whether a site takes all its values at once."""
    infer = site["infer"]
    return infer.get("enumerate") == "parallel" and infer.get("num_samples") is None


def _score(site: Any) -> Any:
    """Log probability of a drawn or enumerated value, unscaled; 0 where it is reparameterized."""
    return site["packed"]["score_parts"].score_function


def _plates(site: Any) -> frozenset[Any]:
    return frozenset(frame for frame in site["cond_indep_stack"] if frame.vectorized)


def _regularizers(trace: Trace) -> Tensor | float:
    """Sum of the terms that are not part of the bound."""
    sites = (site for _, site in observed_sites(trace) if is_regularizer(site))
    return sum((site["packed"]["log_prob"].sum() for site in sites), 0.0)


def _weigh_latents(model_trace: Trace, guide_trace: Trace, weight: float | Tensor) -> None:
    """Weigh the latent sites' log densities where they are costs, not probabilities."""
    latent = [n for n, s in guide_trace.nodes.items() if s["type"] == "sample"]
    for trace in (model_trace, guide_trace):
        sites: Any = trace.nodes
        for name in latent:
            if name in sites and not sites[name]["is_observed"]:
                packed = sites[name]["packed"]
                dims = packed["log_prob"]._pyro_dims
                packed["log_prob"] = weight * packed["log_prob"]
                packed["log_prob"]._pyro_dims = dims
