"""Proposal distributions over the latents of a batch of data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..programs.pair import Pair, Values
from ..programs.traces import Batch
from .space import Space

__all__ = ["GuideProposal", "MixtureProposal", "NormalProposal", "Proposal"]


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

    @property
    def centre(self) -> NormalProposal:
        """The normal itself."""
        return self

    def select(self, chosen: Tensor) -> NormalProposal:
        """Return the proposal of the data at some positions."""
        return NormalProposal(self.space.select(chosen), self.mean[chosen], self.tril[chosen])

    def widened(self) -> NormalProposal:
        r"""Return a wider one, for weights with lighter tails: scale times 1 + min(0.1, 0.5/√D).

        On a normal posterior a factor s leaves :math:`(\sqrt{2 s^2 - 1} / s^2)^D` of the effective
        samples, so it shrinks with the dimensions.
        """
        factor = 1 + min(0.1, 0.5 / math.sqrt(max(self.mean.shape[-1], 1)))
        return replace(self, tril=self.tril * factor)

    def of(self, pair: Pair) -> NormalProposal:
        """Return the proposal for the same programs, seen by another pair."""
        return replace(self, space=replace(self.space, pair=pair))

    def draw(self, samples: int) -> tuple[Values, Tensor]:
        """Draw values, with their densities in the space of the values."""
        noise = self.noise(samples)
        values, jacobian = self.space.values(self.place(noise))
        return values, self._log_active(noise) - jacobian

    def log_density(self, values: Values) -> Tensor:
        """Log density of values, by their unconstrained vectors."""
        return _of_vector(self, values)

    def log_density_of_vector(self, u: Tensor) -> Tensor:
        """Log density of the latents in vectors ``(S, N, D)``, shape ``(S, N)``, float64.

        Dimensions that stand for no latent are left out.
        """
        centred = (u - self.mean).movedim(0, -1)  # (N, D, S)
        noise = torch.linalg.solve_triangular(self.tril, centred, upper=False)
        return self._log_active(noise.movedim(-1, 0))

    def noise(self, samples: int) -> Tensor:
        """Draw standard noise, ``(S, N, D)``."""
        shape = (samples, *self.mean.shape)
        return torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device)

    def place(self, noise: Tensor) -> Tensor:
        """Vectors ``m + L noise`` of standard noise ``(S, N, D)``."""
        return self.mean + torch.einsum("nij,snj->sni", self.tril, noise)

    def whiten(self, u: Tensor) -> Tensor:
        """Standard noise of vectors ``(..., N, D)``."""
        centred = (u - self.mean)[..., None]
        return torch.linalg.solve_triangular(self.tril, centred, upper=False)[..., 0]

    def log_noise(self, noise: Tensor) -> Tensor:
        """Log density of u, all of it, at standard noise ``(S, N, D)``; ``(S, N)``, float64."""
        squares = noise.double().square().sum(-1)
        volume = self.tril.diagonal(dim1=-2, dim2=-1).double().log().sum(-1)
        return -0.5 * squares - 0.5 * noise.shape[-1] * math.log(2 * math.pi) - volume

    def _log_active(self, noise: Tensor) -> Tensor:
        """Log density without the dimensions that stand for no latent, which are independent."""
        density, idle = self.log_noise(noise), self.space.idle
        if idle is None:
            return density
        scale = self.tril.diagonal(dim1=-2, dim2=-1).double()
        log_idle = -0.5 * noise.double().square() - 0.5 * math.log(2 * math.pi) - scale.log()
        return density - log_idle.where(idle, 0.0).sum(-1)


@dataclass(frozen=True)
class MixtureProposal:
    r"""A mixture of normals for each datum, :math:`\sum_j c_{nj} N(u; m_{nj}, L_{nj} L_{nj}^T)`.

    Args:
        parts: the components, all of one space.
        log_shares: log c, shape ``(J, N)``; exponentials add up to one.
    """

    parts: tuple[NormalProposal, ...]
    log_shares: Tensor

    @property
    def space(self) -> Space:
        """Space of the components."""
        return self.parts[0].space

    @property
    def centre(self) -> NormalProposal:
        """The first component."""
        return self.parts[0]

    def select(self, chosen: Tensor) -> MixtureProposal:
        """Return the proposal of the data at some positions."""
        parts = tuple(part.select(chosen) for part in self.parts)
        return MixtureProposal(parts, self.log_shares[:, chosen])

    def of(self, pair: Pair) -> MixtureProposal:
        """Return the proposal for the same programs, seen by another pair."""
        return MixtureProposal(tuple(part.of(pair) for part in self.parts), self.log_shares)

    def draw(self, samples: int) -> tuple[Values, Tensor]:
        """Draw values: of each component about its share, evenly spread over the draws."""
        shares = self.log_shares.exp().T  # (N, J)
        steps = torch.arange(samples, dtype=shares.dtype, device=shares.device)
        place = (steps[:, None] + torch.rand(shares.shape[:1], device=shares.device)) / samples
        which = torch.searchsorted(shares.cumsum(1), place.T.contiguous()).clamp_max(
            len(self.parts) - 1
        )  # (N, S)
        mean = torch.stack([part.mean for part in self.parts], 1)  # (N, J, D)
        tril = torch.stack([part.tril for part in self.parts], 1)
        noise = self.parts[0].noise(samples)
        u = torch.empty_like(noise)
        for n in range(len(mean)):
            u[:, n] = mean[n, which[n]] + torch.einsum("sij,sj->si", tril[n, which[n]], noise[:, n])
        values, jacobian = self.space.values(u)
        return values, self.log_density_of_vector(u) - jacobian

    def log_density(self, values: Values) -> Tensor:
        """Log density of values, by their unconstrained vectors."""
        return _of_vector(self, values)

    def log_density_of_vector(self, u: Tensor) -> Tensor:
        """Log density of unconstrained vectors ``(S, N, D)``, shape ``(S, N)``, float64."""
        terms = [part.log_density_of_vector(u) for part in self.parts]
        return (torch.stack(terms) + self.log_shares[:, None]).logsumexp(0)


def _of_vector(proposal: NormalProposal | MixtureProposal, values: Values) -> Tensor:
    """Log density of values; zero density where rounding has put one on the edge of its support."""
    u = proposal.space.vector(values)
    inside = u.isfinite().all(-1)
    _, jacobian = proposal.space.values(u)
    density = proposal.log_density_of_vector(u.nan_to_num(0.0, 0.0, 0.0)) - jacobian
    return density.where(inside, -math.inf)
