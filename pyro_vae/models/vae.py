"""The variational autoencoder: three modules, two Pyro programs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.seeding import seeded
from ..config import Config
from ..priors import Fixed, build_prior
from ..programs.module import ProgramModule
from .parts import decoder_part, encoder_part, one_layer

__all__ = ["VAE"]


class VAE(ProgramModule):
    r"""p(z) p(x|z) with an amortized q(z|x): three modules, two Pyro programs.

    Any ``nn.Module`` serves as a part if calling it returns a Pyro distribution. ``model`` and
    ``guide`` are ordinary Pyro programs, so ``pyro.infer.SVI(vae.model, vae.guide, ...)`` trains
    the object as it is.

    Args:
        prior: ``prior()`` is a distribution over z, event shape ``(latent_dim,)``; or such a
            distribution itself.
        likelihood: ``likelihood(z)`` is a distribution over x; owns the decoder.
        posterior: ``posterior(x)`` is a distribution over z; owns the encoder.

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
    def from_config(
        cls, config: Config, *, event_shape: Sequence[int], data: Tensor | None = None
    ) -> VAE:
        """Build the usual VAE: networks and parts chosen by name.

        The initial parameters depend on ``config.seed`` alone (and on ``data``).

        Args:
            config: names and sizes of the parts.
            event_shape: shape of one datum.
            data: training data of shape ``(N, *event_shape)``; if given, parts that know how start
                from them (a likelihood's output at the data's mean).

        Raises:
            ValueError: an unknown part, an option that the part has not, or a config of a
                two-layer program (``build_program`` takes any).
        """
        one_layer(config, "VAE")
        event_shape, latent_dim = tuple(event_shape), config.latent_dim
        with seeded("initialize", config.seed):
            likelihood = decoder_part(config, [(latent_dim,)], event_shape)
            posterior = encoder_part(config, [event_shape], latent_dim)
            prior = build_prior(
                config.prior,
                latent_dim,
                posterior=posterior,
                event_shape=event_shape,
                **config.options("prior"),
            )
            vae = cls(prior, likelihood, posterior)
            vae._initialize_parts(data, "prior", "likelihood", "posterior")
        return vae

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the mean of q(z|x), shape ``(N, latent_dim)``, for x ``(N, *event_shape)``."""
        mean: Tensor = self.posterior(x).mean
        return mean

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z), shape ``(*, *event_shape)``, for z ``(*, latent_dim)``."""
        mean: Tensor = self.likelihood(z).mean
        return mean

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return ``decode(encode(x))``, the decoder's mean at the posterior mean."""
        return self.decode(self.encode(x))

    def interpolate(self, a: Tensor, b: Tensor, *, steps: int = 8) -> Tensor:
        """Decode the straight line in latent space from data ``a`` to data ``b``.

        Args:
            a: data of shape ``(N, *event_shape)``.
            b: data of the same shape.
            steps: points on each line, both ends included.

        Returns:
            Means of p(x|z), shape ``(steps, N, *event_shape)``.

        Raises:
            ValueError: fewer than two steps.
        """
        if steps < 2:
            raise ValueError(f"interpolation needs at least 2 steps, its two ends; got {steps}.")
        start, end = self.encode(a), self.encode(b)
        weight = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
        return self.decode(torch.lerp(start, end, weight.reshape(-1, 1, 1)))

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None, mean: bool = False) -> Tensor:
        """Draw ``n`` data from p(x) by drawing z from the prior, then x given z.

        Args:
            n: number of draws.
            seed: seed of the draws; ``None`` draws from the caller's random state.
            mean: replace the draw of x given z by its mean (for pictures).

        Returns:
            Tensor of shape ``(n, *event_shape)``.

        Raises:
            ValueError: n is less than one.
        """
        if n < 1:
            raise ValueError(f"number of samples must be at least 1; got {n}.")
        with nullcontext() if seed is None else seeded("sample", seed):
            likelihood = self.likelihood(self.prior().sample((n,)))
            x: Tensor = likelihood.mean if mean else likelihood.sample()
        return x
