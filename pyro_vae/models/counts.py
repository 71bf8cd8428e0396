"""Counts given their exposure: a library size, a time, an area."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.checks import may_read
from ..data.exposure import check_exposure
from ..distributions import exposed
from ..priors import Fixed
from ..programs.module import evaluated
from .base import Model
from .parts import Parts

__all__ = ["CountVAE"]


class CountVAE(Model):
    r"""Model of counts x given their exposure e, which scales the rates.

    .. math:: p(x \mid e) = \int p(z) \prod_d c\!\left(x_d \,\Big|\,
        \frac{e}{u} \, m_d(z)\right) dz

    c is the likelihood, a distribution of counts with mean :math:`m(z)` at the exposure u, the
    ``unit``: the mean of the training data's exposures, so that m is the counts of a datum like
    them. In the words of a Poisson regression, :math:`\log e` is an offset.
    ``pv.log_evidence(vae.model, vae.guide, (x, exposure))`` estimates :math:`\log p(x \mid e)` of
    each datum. Sites are ``z`` and ``x``.

    Args:
        prior: ``prior()`` is a distribution over z, event shape ``(latent_dim,)``; or such a
            distribution itself.
        likelihood: ``likelihood(z)`` is a distribution over x that
            :func:`~pyro_vae.distributions.exposed` can scale.
        posterior: ``posterior(y, s)`` is a distribution over z; it gets
            :math:`y = \log(1 + x u / e)`, shape ``(N, *event_shape)``, and
            :math:`s = \log(e / u)`, shape ``(N,)``.

    Attributes:
        unit: the exposure u, at first 1; part of the state that checkpoints hold.

    References:
        Lopez et al. (2018), for counts of RNA. https://doi.org/10.1038/s41592-018-0229-2
    """

    programs: ClassVar[tuple[str, ...]] = ("counts",)
    unit: Tensor

    def __init__(
        self,
        prior: nn.Module | dist.TorchDistribution,
        likelihood: nn.Module,
        posterior: nn.Module,
    ) -> None:
        super().__init__()
        self.prior: nn.Module = prior if isinstance(prior, nn.Module) else Fixed(prior)
        self.likelihood = likelihood
        self.posterior = posterior
        self.register_buffer("unit", torch.ones(()))

    def model(self, x: Tensor, exposure: Tensor) -> None:
        """Declare p(z) p(x|z, e) for each of the data.

        Args:
            x: counts of shape ``(N, *event_shape)``.
            exposure: positive numbers of shape ``(N,)``.

        Raises:
            ValueError: exposures of another shape, or that are not positive and finite.
        """
        self._show_parameters("prior", "likelihood")
        size = self._size(exposure, len(x))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", exposed(self.likelihood(z), size), obs=x)

    def guide(self, x: Tensor, exposure: Tensor) -> None:
        """Declare q(z|x, e) for each of the data; arguments are those of :meth:`model`."""
        self._show_parameters("posterior")
        size = self._size(exposure, len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("z", self._posterior(x, size))

    @classmethod
    def assemble(cls, parts: Parts) -> Self:
        """Build the usual model of counts."""
        likelihood = parts.likelihood([(parts.latent_dim,)])
        posterior = parts.posterior([parts.event_shape, ()], parts.latent_dim)
        return cls(parts.prior(parts.latent_dim), likelihood, posterior)

    @torch.no_grad()
    def initialize(self, x: Tensor, *given: Tensor) -> None:
        """Start at training data: the unit at their mean exposure, the likelihood at their rates.

        ``given`` are their exposures; without, each is 1.

        Raises:
            ValueError: exposures of another shape, or that are not positive and finite.
        """
        counts = x.to(torch.promote_types(x.dtype, torch.float32))
        exposure = given[0] if given else counts.new_ones(len(x))
        check_exposure(exposure, len(x))
        self.unit.copy_(exposure.double().mean())
        size = self._size(exposure.to(counts.dtype), len(x))
        super().initialize(counts / _beside(size, counts))

    @evaluated
    def encode(self, x: Tensor, exposure: Tensor) -> Tensor:
        """Return the mean of q(z|x, e), shape ``(N, latent_dim)``."""
        return self._posterior(x, self._size(exposure, len(x))).mean

    @evaluated
    def decode(self, z: Tensor, exposure: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z, e), shape ``(*, *event_shape)``, for z ``(*, latent_dim)``.

        Without exposures, at that of the ``unit``.
        """
        counts = self.likelihood(z)
        return (counts if exposure is None else exposed(counts, exposure / self.unit)).mean

    def generate(self, given: int | Tensor) -> Any:
        """Draw z from the prior and return p(x|z, e).

        ``given`` is the exposures of the draws, shape ``(n,)``, or how many to draw at the unit's.
        """
        if isinstance(given, int):
            return self.likelihood(self.prior().sample((given,)))
        counts = self.likelihood(self.prior().sample((len(given),)))
        return exposed(counts, self._size(given, len(given)))

    def _posterior(self, x: Tensor, size: Tensor) -> Any:
        return self.posterior(torch.log1p(x / _beside(size, x)), size.log())

    def _size(self, exposure: Tensor, rows: int) -> Tensor:
        """Exposures in units of the unit, after a check."""
        if exposure.shape != (rows,) or may_read(exposure):
            check_exposure(exposure, rows)
        return exposure / self.unit


def _beside(size: Tensor, x: Tensor) -> Tensor:
    return size.reshape(-1, *[1] * (x.dim() - 1))
