"""The variational autoencoder: three modules, two Pyro programs."""

from __future__ import annotations

from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..priors import Fixed
from ..programs.module import evaluated
from .base import Model
from .parts import Parts

__all__ = ["VAE"]


class VAE(Model):
    """p(z) p(x|z) with an amortized q(z|x): three modules, two Pyro programs.

    Any ``nn.Module`` serves as a part if calling it returns a Pyro distribution. ``model`` and
    ``guide`` are ordinary Pyro programs, so ``pyro.infer.SVI(vae.model, vae.guide, ...)`` trains
    the object as it is.

    Args:
        prior: ``prior()`` is a distribution over z, event shape ``(latent_dim,)``; or such a
            distribution itself.
        likelihood: ``likelihood(z)`` is a distribution over x; it contains the decoder.
        posterior: ``posterior(x)`` is a distribution over z; it contains the encoder.

    References:
        Kingma and Welling (2014). https://arxiv.org/abs/1312.6114
    """

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

    def model(self, x: Tensor) -> None:
        """Declare p(z) p(x|z) for each of the data ``x``, shape ``(N, *event_shape)``."""
        self._show_parameters("prior", "likelihood")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> None:
        """Declare q(z|x) for each of the data ``x``, shape ``(N, *event_shape)``."""
        self._show_parameters("posterior")
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))

    @classmethod
    def assemble(cls, parts: Parts) -> Self:
        """Build the usual VAE."""
        likelihood = parts.likelihood([(parts.latent_dim,)])
        posterior = parts.posterior([parts.event_shape], parts.latent_dim)
        return cls(parts.prior(parts.latent_dim, posterior=posterior), likelihood, posterior)

    @evaluated
    def encode(self, x: Tensor) -> Tensor:
        """Return the mean of q(z|x), shape ``(N, latent_dim)``, for x ``(N, *event_shape)``."""
        return self.posterior(x).mean

    @evaluated
    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z), shape ``(*, *event_shape)``, for z ``(*, latent_dim)``."""
        return self.likelihood(z).mean

    def interpolate(self, a: Tensor, b: Tensor, *, steps: int = 8) -> Tensor:
        """Decode the lines in latent space from data ``a`` to ``b``, ``(N, *event_shape)``.

        Returns:
            Means of p(x|z) at ``steps`` points, including both ends: ``(steps, N, *event_shape)``.

        Raises:
            ValueError: fewer than two steps.
        """
        if steps < 2:
            raise ValueError(f"interpolation needs at least 2 steps, its two ends; got {steps}.")
        start, end = self.encode(a), self.encode(b)
        weight = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
        return self.decode(torch.lerp(start, end, weight.reshape(-1, 1, 1)))

    def generate(self, given: int) -> Any:
        """Draw this many z from the prior and return p(x|z)."""
        return self.likelihood(self.prior().sample((given,)))
