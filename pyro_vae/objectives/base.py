"""What objectives share: traces of both programs, sums per datum, the interface of Pyro's SVI."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro.infer
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import is_validation_enabled
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_if_enumerated, check_model_guide_match
from torch import Tensor

from ..common.seeding import seeded
from ..programs.checks import check_shape
from ..programs.shared_latents import shares_no_plate
from ..programs.traces import DataPlate, Fn, data_plate, latent_sites, sample_sites
from .gradients import PathGradient

__all__ = ["Objective", "ParticlePlate", "Traces", "count_plates", "rows_of"]

_PARTICLES = "num_particles_vectorized"  # Pyro's name of the plate over particles


@dataclass(frozen=True)
class Traces:
    """One run of both programs, with the log densities of their sites.

    Args:
        model: trace of the model at the guide's draws.
        guide: trace of the guide.
        path: differentiates log q along the draws alone, if the gradient estimator needs it.
        rows: number of data, if the first argument is of data.
    """

    model: Trace
    guide: Trace
    path: PathGradient | None
    rows: int | None


@dataclass(frozen=True)
class ParticlePlate(DataPlate):
    """The plate over the data, inside that over the particles.

    Args:
        scale: how many data of the whole set each datum stands for.
        particles: number of draws per datum.
        batch_dims: batch dimensions of all plates, including that of the particles.
    """

    scale: float
    particles: int
    batch_dims: float

    def per_datum(self, density: Tensor, event_dim: int = 0) -> Tensor:
        """Sum over all dimensions but particles and data: shape ``(K, N)``, float64."""
        if event_dim:
            density = density.flatten(-event_dim).sum(-1)
        density = density.movedim(self.dim, -1)
        return density.reshape(self.particles, -1, self.rows).sum(1, dtype=torch.float64)

    def spread(self, weights: Tensor, event_dim: int) -> Tensor:
        """Reshape weights ``(K, N)``, K > 1, to broadcast with a site's value."""
        shape = [1] * int(self.batch_dims)
        shape[self.dim] = self.rows
        shape[0] = self.particles
        return weights.reshape(*shape, *[1] * event_dim)

    def density(self, name: str, site: Any) -> Tensor:
        """Return the log density of a site without its scale, shape ``(K, N)``, float64."""
        masked = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
        check_shape(name, site, masked, self.rows, self.dim)
        return self.per_datum(masked)


@dataclass(frozen=True)
class WholePlate(ParticlePlate):
    """All data as one, where latents belong to them all: N is 1, and scales stay with the sites."""

    def per_datum(self, density: Tensor, event_dim: int = 0) -> Tensor:
        """Sum over all dimensions but particles: shape ``(K, 1)``, float64."""
        if event_dim:
            density = density.flatten(-event_dim).sum(-1)
        if density.dim() < self.batch_dims:  # the same for all particles
            return density.sum(dtype=torch.float64).expand(self.particles, 1)
        return density.reshape(self.particles, -1).sum(1, dtype=torch.float64)[:, None]

    def density(self, name: str, site: Any) -> Tensor:
        """Return the log density of a site, shape ``(K, 1)``, float64."""
        masked = scale_and_mask(site["unscaled_log_prob"], scale=site["scale"], mask=site["mask"])
        return self.per_datum(masked)


class Objective(pyro.infer.ELBO):  # type: ignore[misc, unused-ignore]
    """Base of the objectives: a ``pyro.infer.ELBO`` that also returns its :meth:`terms`.

    Args:
        particles: draws of z per datum, in one vectorized pass.
        gradient: estimator of the guide's gradient.
        gradients: the estimators that this objective has.

    Raises:
        ValueError: fewer than one particle, or an unknown estimator.
    """

    def __init__(self, *, particles: int, gradient: str, gradients: tuple[str, ...]) -> None:
        if particles < 1:
            raise ValueError(f"particles must be at least 1; got {particles}.")
        if gradient not in gradients:
            raise ValueError(
                f"gradient of {type(self).__name__} must be {_choice(gradients)}; got {gradient!r}."
            )
        super().__init__(
            num_particles=particles,
            vectorize_particles=particles > 1,
            max_plate_nesting=math.inf,
        )
        self.gradient = gradient

    @abstractmethod
    def terms(
        self, model: Fn, guide: Fn, *args: Tensor, kl_weight: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Run both programs once and return the loss and the unweighted ELBO.

        Args:
            model: Pyro program.
            guide: Pyro program with reparameterized latents.
            args: arguments of both.
            kl_weight: weight of the KL term.

        Returns:
            Loss to minimize (differentiable), and for every objective the ELBO at ``kl_weight`` 1
            (detached): scalars, sums over the batch, in nats. A scale of the programs (of a
            subsampled plate) is in the loss, not in the ELBO.

        Raises:
            NotImplementedError: a latent site of the guide is not reparameterized; use
                ``pyro.infer.SVI`` with ``Trace_ELBO`` or ``TraceGraph_ELBO`` there.
        """

    def kl_used(self, model: Fn, guide: Fn, *args: Tensor) -> dict[str, str]:
        """Return by latent site of the guide how its KL term is computed: analytic or sampled.

        Takes the programs and their arguments, like :meth:`terms`.
        """
        traces = self._pilot(model, guide, args)
        return {name: "sampled" for name, _ in latent_sites(traces.guide)}

    def prepare(self, model: Fn, guide: Fn, *args: Tensor) -> None:
        """Count the dimensions of the programs' plates, to put the particles to the left of them.

        :meth:`terms` does so by itself the first time. Call this before an objective used with one
        pair of programs goes on with a pair whose plates are nested deeper.
        """
        if self.num_particles == 1:
            return
        count_plates(self, model, guide, args)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss as a differentiable scalar, as Pyro's classes do."""
        return self.terms(_bind(model, kwargs), _bind(guide, kwargs), *args)[0]

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss and backpropagate it, as Pyro's classes do."""
        loss: Tensor = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:  # not of programs without parameters
            loss.backward()
        return loss.item()

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss."""
        return self.terms(_bind(model, kwargs), _bind(guide, kwargs), *args)[0].item()

    def _trace(self, model: Fn, guide: Fn, args: tuple[Tensor, ...]) -> Traces:
        """Run both programs on all particles at once."""
        if self.vectorize_particles and math.isinf(self.max_plate_nesting):
            self.prepare(model, guide, *args)
        if self.gradient == "reparameterized" or not torch.is_grad_enabled():
            ((model_trace, guide_trace),) = self._get_traces(model, guide, args, {})
            _check_reparameterized(guide_trace)
            return Traces(model_trace, guide_trace, None, rows_of(args))
        path = PathGradient()
        model, guide = map(self._vectorized_num_particles, (model, path(guide)))
        drawn = poutine.trace(guide).get_trace(*args)
        guide_trace = prune_subsample_sites(drawn)  # shares the sites that are left
        _check_reparameterized(guide_trace)
        path.compute_log_prob(guide_trace)
        model_trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        model_trace = prune_subsample_sites(model_trace)
        model_trace.compute_log_prob()
        return Traces(model_trace, guide_trace, path, rows_of(args))

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        model_trace, guide_trace = get_importance_trace(
            "flat", self.max_plate_nesting, model, guide, args, kwargs
        )
        if is_validation_enabled():
            check_if_enumerated(guide_trace)
        return model_trace, guide_trace

    def _pilot(self, model: Fn, guide: Fn, args: tuple[Tensor, ...]) -> Traces:
        """Run both programs without gradients and without the caller's random numbers."""
        with seeded("pilot", 0), torch.no_grad():
            return self._trace(model, guide, args)

    def _data_plate(self, traces: Traces) -> ParticlePlate:
        """Find the plate over the data, which must contain all sites, with one scale.

        If latents belong to all the data, these are one.
        """
        if shares_no_plate(traces.model, traces.rows or 0, inside=_PARTICLES):
            particles = self.num_particles
            return WholePlate(-1, 1, 1.0, particles, self.max_plate_nesting)
        plate = data_plate(traces.model, traces.guide, inside=_PARTICLES, rows=traces.rows)
        sites = [*sample_sites(traces.model), *sample_sites(traces.guide)]
        scale = sites[0][1]["scale"]
        for name, site in sites:
            other = site["scale"]
            if isinstance(other, Tensor) or isinstance(scale, Tensor):
                raise ValueError(
                    f"site {name!r} has a tensor as scale; {type(self).__name__} takes the "
                    "logarithm of a mean of weights, whose scale must be a number."
                )
            if not math.isclose(other, scale):
                raise ValueError(
                    f"site {name!r} has scale {other}, site {sites[0][0]!r} {scale}; "
                    f"{type(self).__name__} needs one scale for all sites. Weigh the KL term with "
                    "kl_weight instead."
                )
        return ParticlePlate(
            plate.dim, plate.rows, scale, self.num_particles, self.max_plate_nesting
        )


def count_plates(objective: Any, model: Fn, guide: Fn, args: tuple[Tensor, ...]) -> None:
    """Let an objective of Pyro count the dimensions of the programs' plates, without a word."""
    logger, level = logging.getLogger("pyro"), logging.getLogger("pyro").level
    logger.setLevel(logging.WARNING)
    try:
        with seeded("plates", 0), torch.no_grad():
            objective._guess_max_plate_nesting(model, guide, args, {})
    finally:
        logger.setLevel(level)


def rows_of(args: tuple[Any, ...]) -> int | None:
    """Return the number of rows of the first argument, if it has any."""
    return len(args[0]) if args and isinstance(args[0], Tensor) and args[0].dim() else None


def _check_reparameterized(guide: Trace) -> None:
    for name, site in latent_sites(guide):
        if not site["fn"].has_rsample:
            raise NotImplementedError(
                f"latent site {name!r} of the guide is not reparameterized "
                f"({type(site['fn']).__name__}); use pyro.infer.SVI with Trace_ELBO."
            )


def _bind(fn: Fn, kwargs: Mapping[str, Any]) -> Fn:
    return partial(fn, **kwargs) if kwargs else fn


def _choice(words: tuple[str, ...]) -> str:
    *most, last = map(repr, words)
    return f"{', '.join(most)} or {last}" if most else last
