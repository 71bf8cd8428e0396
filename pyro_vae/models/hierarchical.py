"""Two stochastic layers, inferred from the bottom up or from the top down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self, get_args

import pyro
from torch import Tensor, nn

from ..common.registry import check_choice
from ..programs.module import evaluated
from .base import Model
from .parts import Parts

__all__ = ["Form", "HierarchicalVAE"]

Form = Literal["bottom-up", "top-down"]


class HierarchicalVAE(Model):
    r"""Two layers of latents, :math:`z_2` above :math:`z_1`, in one of two forms.

    ``bottom-up`` (Burda et al. 2016), a chain in both directions:

    .. math:: p(z_2) \, p(z_1 \mid z_2) \, p(x \mid z_1), \qquad
        q(z_1 \mid x) \, q(z_2 \mid z_1)

    ``top-down`` (the two-layer model of Tomczak and Welling 2018), where both layers see the data:

    .. math:: p(z_2) \, p(z_1 \mid z_2) \, p(x \mid z_1, z_2), \qquad
        q(z_2 \mid x) \, q(z_1 \mid x, z_2)

    (The prior and the posterior ``hierarchical`` hold two layers in one vector z instead, and fit
    any program.) Sites are ``z2``, ``z1`` and ``x``. Any ``nn.Module`` serves as a part if calling
    it returns a Pyro distribution, and ``DiagonalNormal(network)`` for every conditional of
    latents.

    Args:
        prior: ``prior()`` is a distribution over z2.
        conditional: ``conditional(z2)`` is a distribution over z1, in the model.
        likelihood: ``likelihood(z1)``, or ``likelihood(z1, z2)`` top-down, is one over x.
        posterior1: ``posterior1(x)``, or ``posterior1(x, z2)`` top-down, is one over z1.
        posterior2: ``posterior2(z1)``, or ``posterior2(x)`` top-down, is one over z2.
        form: ``"bottom-up"`` or ``"top-down"``.

    Raises:
        ValueError: an unknown form.

    References:
        Burda et al. (2016). https://arxiv.org/abs/1509.00519
        Tomczak and Welling (2018). https://arxiv.org/abs/1705.07120
    """

    programs: ClassVar[tuple[str, ...]] = get_args(Form)

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
        check_choice("form", form, get_args(Form))
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
    def assemble(
        cls,
        parts: Parts,
        *,
        form: Form | None = None,
        top_dim: int | None = None,
        top_hidden: Sequence[int] | None = None,
    ) -> Self:
        r"""Build the usual two-layer model.

        The network of Burda et al. is ``Config(latent_dim=100, hidden=(200, 200))`` with
        ``top_dim=50`` and ``top_hidden=(100, 100)``, bottom-up:
        :math:`x \to 200 \to 200 \to z_1 (100) \to 100 \to 100 \to z_2 (50)`, and back the same way.

        Args:
            parts: builder of the parts that a config names. Its ``latent_dim`` is that of z1,
                ``hidden`` the widths between x and the latents, ``prior`` that of z2. The layers
                are linked by diagonal normals in the model, and by the config's posterior in the
                guide.
            form: ``"bottom-up"`` or ``"top-down"``; by default the config's ``program``, else
                bottom-up.
            top_dim: dimensions of z2; by default the config's, else half of z1's.
            top_hidden: widths from z1 to z2 and, in reverse, back; by default half of ``hidden``.

        Raises:
            ValueError: an unknown form, or a size below one.
        """
        form = form or ("top-down" if parts.setting("program") == "top-down" else "bottom-up")
        top_dim = parts.setting("top_dim", top_dim)
        top_dim = max(1, parts.latent_dim // 2) if top_dim is None else top_dim
        if top_dim < 1:
            raise ValueError(f"top_dim must be at least 1; got {top_dim}.")
        event, latent_dim = parts.event_shape, parts.latent_dim
        bottom, top = (latent_dim,), (top_dim,)
        widths = parts.inner_hidden if top_hidden is None else top_hidden
        upward = form == "bottom-up"
        likelihood = parts.likelihood([bottom] if upward else [bottom, top])
        conditional = parts.conditional(top, latent_dim, hidden=widths and widths[::-1])
        posterior1 = parts.posterior([event] if upward else [event, top], latent_dim)
        if upward:
            name = parts.setting("posterior")
            posterior2 = parts.conditional(bottom, top_dim, hidden=widths, name=name)
        else:
            posterior2 = parts.posterior([event], top_dim)
        # Some priors are made of q(z2|x), and only top-down does posterior2 take x.
        prior = parts.prior(top_dim, posterior=None if upward else posterior2)
        return cls(prior, conditional, likelihood, posterior1, posterior2, form=form)

    @evaluated
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z1 and z2 at the means of the guide, each given the mean of the one before.

        For x ``(N, *event_shape)`` their shapes are ``(N, latent_dim)`` and ``(N, top_dim)``.
        """
        if self.form == "bottom-up":
            z1 = self.posterior1(x).mean
            return z1, self.posterior2(z1).mean
        z2 = self.posterior2(x).mean
        return self.posterior1(x, z2).mean, z2

    @evaluated
    def decode(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Return the mean of p(x|z1[, z2]), shape ``(*, *event_shape)``.

        ``z1`` is ``(*, latent_dim)``; ``z2``, ``(*, top_dim)``, has no effect in the bottom-up
        form.
        """
        return self._observation(z1, z2).mean

    def generate(self, given: int) -> Any:
        """Draw this many z2, then z1 given these, and return p(x|z1[, z2])."""
        z2 = self.prior().sample((given,))
        return self._observation(self.conditional(z2).sample(), z2)

    def _observation(self, z1: Tensor, z2: Tensor) -> Any:
        return self.likelihood(z1) if self.form == "bottom-up" else self.likelihood(z1, z2)
