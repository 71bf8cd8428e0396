"""Proposal distributions over the latents of a batch of data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..programs.pair import Pair, Values
from ..programs.traces import Batch
from .space import Space

__all__ = ["GuideProposal", "Mixture", "NormalProposal", "PriorProposal", "Proposal"]


class Proposal(Protocol):
    """A distribution over the latents of each of N data."""

    def draw(self, samples: int) -> tuple[Values, Tensor]:
        """Draw values, with their log densities ``(S, N)``, float64."""

    def log_density(self, values: Values) -> Tensor:
        """Log density of given values, ``(S, N)``, float64."""


@dataclass(frozen=True)
class GuideProposal:
    """The guide itself, q(z|x)."""

    pair: Pair
    batch: Batch

    def draw(self, samples: int) -> tuple[Values, Tensor]:
        """Draw from the guide."""
        return self.pair.propose(self.batch, samples)

    def log_density(self, values: Values) -> Tensor:
        """Log q(z|x)."""
        return self.pair.log_guide(self.batch, values)


@dataclass(frozen=True)
class PriorProposal:
    """The model's prior over its latents."""

    pair: Pair
    batch: Batch

    def draw(self, samples: int) -> tuple[Values, Tensor]:
        """Draw from the prior."""
        return self.pair.propose_prior(self.batch, samples)

    def log_density(self, values: Values) -> Tensor:
        """Log p(z)."""
        return self.pair.log_prior(self.batch, values)


@dataclass(frozen=True)
class NormalProposal:
    r"""A normal distribution of the unconstrained latents of each datum.

    :math:`u = m + L \epsilon`, with :math:`\epsilon` standard normal.

    Args:
        space: the unconstrained latents.
        mean: m, shape ``(N, D)``.
        tril: L, shape ``(N, D, D)``, lower triangular.
    """

    space: Space
    mean: Tensor
    tril: Tensor

    def draw(self, samples: int) -> tuple[Values, Tensor]:
        """Draw values, with their densities in the space of the values."""
        noise = self.noise(samples)
        values, jacobian = self.space.values(self.place(noise))
        return values, self.log_noise(noise) - jacobian

    def log_density(self, values: Values) -> Tensor:
        """Log density of values, by their unconstrained vectors."""
        u = self.space.vector(values)
        _, jacobian = self.space.values(u)
        return self.log_density_of_vector(u) - jacobian

    def log_density_of_vector(self, u: Tensor) -> Tensor:
        """Log density of unconstrained vectors ``(S, N, D)``, shape ``(S, N)``, float64."""
        centred = (u - self.mean).movedim(0, -1)  # (N, D, S)
        noise = torch.linalg.solve_triangular(self.tril, centred, upper=False)
        return self.log_noise(noise.movedim(-1, 0))

    def noise(self, samples: int) -> Tensor:
        """Draw standard noise, ``(S, N, D)``."""
        shape = (samples, *self.mean.shape)
        return torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device)

    def place(self, noise: Tensor) -> Tensor:
        """Vectors ``m + L noise`` of standard noise ``(S, N, D)``."""
        return self.mean + torch.einsum("nij,snj->sni", self.tril, noise)

    def log_noise(self, noise: Tensor) -> Tensor:
        """Log density of u at standard noise ``(S, N, D)``, shape ``(S, N)``, float64."""
        squares = noise.double().square().sum(-1)
        volume = self.tril.diagonal(dim1=-2, dim2=-1).double().log().sum(-1)
        return -0.5 * squares - 0.5 * noise.shape[-1] * math.log(2 * math.pi) - volume


@dataclass(frozen=True)
class Mixture:
    r"""Stratified mixture :math:`\sum_j c_j q_j(z)` of proposals.

    Each component gives its share of the draws and every draw is weighted by the whole mixture
    (deterministic-mixture multiple importance sampling), so that a component which covers what the
    others miss bounds the weights. The shares are those of the draws really made.

    Args:
        proposals: the components.
        weights: their shares c.

    References:
        Veach and Guibas (1995). https://doi.org/10.1145/218380.218498
        Owen and Zhou (2000). https://doi.org/10.1080/01621459.2000.10473909
    """

    proposals: Sequence[Proposal]
    weights: Sequence[float]

    def draw(self, samples: int) -> tuple[Values, Tensor]:
        """Draw from every component, in a random order of samples."""
        counts = _shares(samples, self.weights)
        drawn = [p.draw(n)[0] for p, n in zip(self.proposals, counts, strict=True) if n]
        values = {name: torch.cat([part[name] for part in drawn]) for name in drawn[0]}
        return values, self._log_mixture(values, counts)

    def log_density(self, values: Values) -> Tensor:
        """Log density of the mixture."""
        samples = len(next(iter(values.values())))
        return self._log_mixture(values, _shares(samples, self.weights))

    def _log_mixture(self, values: Values, counts: Sequence[int]) -> Tensor:
        total = sum(counts)
        terms = [
            proposal.log_density(values) + math.log(count / total)
            for proposal, count in zip(self.proposals, counts, strict=True)
            if count
        ]
        return torch.stack(terms).logsumexp(0)


def _shares(samples: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers of draws in given proportions, adding up; the last takes what is left."""
    counts = [round(samples * weight) for weight in weights[:-1]]
    return [*counts, samples - sum(counts)]
