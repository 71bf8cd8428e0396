"""Two stochastic layers, inferred from the bottom up or from the top down."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, get_args

import pyro
import torch
from torch import Tensor, nn

from ..common.seeding import seeded
from ..config import Config
from ..priors import build_prior
from ..programs.module import ProgramModule
from .parts import decoder_part, encoder_part, inner_part

__all__ = ["Form", "HierarchicalVAE"]

Form = Literal["bottom-up", "top-down"]


class HierarchicalVAE(ProgramModule):
    r"""Two layers of latents, :math:`z_2` above :math:`z_1`, in one of two forms.

    ``bottom-up`` (Burda et al. 2016), a chain in both directions:

    .. math:: p(z_2) \, p(z_1 \mid z_2) \, p(x \mid z_1), \qquad
        q(z_1 \mid x) \, q(z_2 \mid z_1)

    ``top-down`` (the two-layer model of Tomczak and Welling 2018), where both layers see the data:

    .. math:: p(z_2) \, p(z_1 \mid z_2) \, p(x \mid z_1, z_2), \qquad
        q(z_2 \mid x) \, q(z_1 \mid x, z_2)

    Sites are ``z2``, ``z1`` and ``x``. Any ``nn.Module`` serves as a part if calling it returns a
    Pyro distribution; ``DiagonalNormal(network)`` serves for every conditional of latents.

    Args:
        prior: ``prior()`` is a distribution over z2.
        conditional: ``conditional(z2)`` is a distribution over z1, the model's.
        likelihood: a distribution over x; ``likelihood(z1)`` bottom-up, ``likelihood(z1, z2)``
            top-down.
        posterior1: a distribution over z1; ``posterior1(x)`` bottom-up, ``posterior1(x, z2)``
            top-down.
        posterior2: a distribution over z2; ``posterior2(z1)`` bottom-up, ``posterior2(x)``
            top-down.
        form: ``"bottom-up"`` or ``"top-down"``.

    Raises:
        ValueError: an unknown form.

    References:
        Burda et al. (2016). https://arxiv.org/abs/1509.00519
        Tomczak and Welling (2018). https://arxiv.org/abs/1705.07120
    """

    def __init__(
        self,
        prior: nn.Module,
        conditional: nn.Module,
        likelihood: nn.Module,
        posterior1: nn.Module,
        posterior2: nn.Module,
        *,
        form: Form = "bottom-up",
    ) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise ValueError(
                f"unknown form {form!r}; there are {', '.join(map(repr, get_args(Form)))}."
            )
        self.prior = prior
        self.conditional = conditional
        self.likelihood = likelihood
        self.posterior1 = posterior1
        self.posterior2 = posterior2
        self.form = form

    def model(self, x: Tensor) -> None:
        """Declare p(z2) p(z1|z2) p(x|z1[, z2]) for each of ``x``, shape ``(N, *event_shape)``."""
        self._show_parameters("prior", "conditional", "likelihood")
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", self.conditional(z2))
            pyro.sample("x", self._observation(z1, z2), obs=x)

    def guide(self, x: Tensor) -> None:
        """Declare q(z1, z2|x) for each of the data ``x``, shape ``(N, *event_shape)``."""
        self._show_parameters("posterior1", "posterior2")
        with pyro.plate("data", len(x)):
            if self.form == "bottom-up":
                z1 = pyro.sample("z1", self.posterior1(x))
                pyro.sample("z2", self.posterior2(z1))
            else:
                z2 = pyro.sample("z2", self.posterior2(x))
                pyro.sample("z1", self.posterior1(x, z2))

    @classmethod
    def from_config(
        cls,
        config: Config,
        *,
        event_shape: Sequence[int],
        data: Tensor | None = None,
        form: Form | None = None,
        top_dim: int | None = None,
        top_hidden: Sequence[int] | None = None,
    ) -> HierarchicalVAE:
        r"""Build the usual two-layer model: networks and parts chosen by name.

        The network of Burda et al. is ``Config(latent_dim=100, hidden=(200, 200))`` with
        ``top_dim=50`` and ``top_hidden=(100, 100)``, bottom-up:
        :math:`x \to 200 \to 200 \to z_1 (100) \to 100 \to 100 \to z_2 (50)`, and back the same way.

        Args:
            config: names and sizes of the parts; ``latent_dim`` is that of z1, ``hidden`` the
                widths between x and the latents, ``prior`` that of z2. Between the layers are
                diagonal normals in the model, the config's posterior in the guide.
            event_shape: shape of one datum.
            data: training data of shape ``(N, *event_shape)``; if given, parts that know how start
                from them.
            form: ``"bottom-up"`` or ``"top-down"``; by default the config's ``program``, else
                bottom-up.
            top_dim: dimensions of z2; by default the config's, else half of z1's.
            top_hidden: widths from z1 to z2 and, in reverse, back; by default half of ``hidden``.

        Raises:
            ValueError: an unknown part or form, or a size below one.
        """
        event, bottom = tuple(event_shape), (config.latent_dim,)
        if form is None:
            form = "bottom-up" if config.program == "vae" else config.program
        top_dim = config.top_dim if top_dim is None else top_dim
        top_dim = max(1, config.latent_dim // 2) if top_dim is None else top_dim
        if top_dim < 1:
            raise ValueError(f"top_dim must be at least 1; got {top_dim}.")
        top = (top_dim,)
        if top_hidden is None and config.hidden is not None and config.network in ("mlp", "gated"):
            top_hidden = [max(1, width // 2) for width in config.hidden]
        bottom_up = form == "bottom-up"
        with seeded("initialize", config.seed):
            likelihood = decoder_part(config, [bottom] if bottom_up else [bottom, top], event)
            conditional = inner_part(config, top, *bottom, hidden=top_hidden and top_hidden[::-1])
            posterior1 = encoder_part(config, [event] if bottom_up else [event, top], *bottom)
            posterior2 = (
                inner_part(config, bottom, top_dim, hidden=top_hidden, name=config.posterior)
                if bottom_up
                else encoder_part(config, [event], top_dim)
            )
            # Only from the top down does q(z2|x), of which some priors are made, see data.
            context: dict[str, Any] = (
                {} if bottom_up else {"posterior": posterior2, "event_shape": event}
            )
            prior = build_prior(config.prior, top_dim, **context, **config.options("prior"))
            vae = cls(prior, conditional, likelihood, posterior1, posterior2, form=form)
            vae._initialize_parts(data, "prior", "likelihood")
        return vae

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z1 and z2 at the means of the guide, each given the mean of the one before.

        Args:
            x: data of shape ``(N, *event_shape)``.

        Returns:
            Tensors of shapes ``(N, latent_dim)`` and ``(N, top_dim)``.
        """
        z1: Tensor
        z2: Tensor
        if self.form == "bottom-up":
            z1 = self.posterior1(x).mean
            z2 = self.posterior2(z1).mean
        else:
            z2 = self.posterior2(x).mean
            z1 = self.posterior1(x, z2).mean
        return z1, z2

    @torch.no_grad()
    def decode(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Return the mean of p(x|z1[, z2]), shape ``(*, *event_shape)``.

        Args:
            z1: lower latents, shape ``(*, latent_dim)``.
            z2: upper latents, shape ``(*, top_dim)``; of no effect in the bottom-up form.
        """
        mean: Tensor = self._observation(z1, z2).mean
        return mean

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return ``decode(*encode(x))``, the decoder's mean at the guide's means."""
        return self.decode(*self.encode(x))

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None, mean: bool = False) -> Tensor:
        """Draw ``n`` data from p(x), from the top down.

        Args:
            n: number of draws.
            seed: seed of the draws; ``None`` draws from the caller's random state.
            mean: replace the draw of x given the latents by its mean (for pictures).

        Returns:
            Tensor of shape ``(n, *event_shape)``.

        Raises:
            ValueError: n is less than one.
        """
        if n < 1:
            raise ValueError(f"number of samples must be at least 1; got {n}.")
        with nullcontext() if seed is None else seeded("sample", seed):
            z2 = self.prior().sample((n,))
            likelihood = self._observation(self.conditional(z2).sample(), z2)
            x: Tensor = likelihood.mean if mean else likelihood.sample()
        return x

    def _observation(self, z1: Tensor, z2: Tensor) -> Any:
        return self.likelihood(z1) if self.form == "bottom-up" else self.likelihood(z1, z2)
