"""Normalizing flows: zuko's transforms as Pyro distributions."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ..common.registry import lookup
from .base import LastDraw, bound, expanded

__all__ = ["FLOWS", "FlowDistribution", "FlowKind", "FlowTransform"]

FlowKind = Literal["maf", "nsf", "realnvp"]

FLOWS: dict[str, tuple[str, dict[str, Any]]] = {
    "maf": ("MAF", {}),
    "nsf": ("NSF", {}),
    # zuko's own couplings look up their mask's indices, which reads from the device.
    "realnvp": ("MAF", {"passes": 2}),
}
"""Kinds of flow: zuko's class, and its options."""

Map = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From z to f(z) and log |det df/dz|."""

_FIRST_SCALE = 1e-2


class FlowDistribution(dist.TorchDistribution):
    r"""Density of :math:`z = g(\epsilon)` with :math:`\epsilon` from a base distribution.

    .. math:: \log p(z) = \log p(\epsilon) - \log |\det \partial g / \partial \epsilon|

    The log density of a draw is computed with it and remembered, so scoring a draw costs nothing;
    any other z is mapped back. ``mean`` is the image of the base's mean: exact where g is linear,
    otherwise a central point, since the mean has no closed form.

    Args:
        base: distribution of :math:`\epsilon`, over vectors.
        generate: maps :math:`\epsilon` to z and :math:`\log |\det \partial g / \partial \epsilon|`.
        normalize: maps z to :math:`\epsilon` and the log determinant of that direction.
        validate_args: check values; ``None`` for torch's default.

    References:
        Papamakarios et al. (2021). https://arxiv.org/abs/1912.02762
    """

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, base: Any, generate: Map, normalize: Map, *, validate_args: bool | None = None
    ) -> None:
        self.base, self.generate, self.normalize = base, generate, normalize
        self._drawn = LastDraw()
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        """Return the same distribution with another batch shape."""
        new = expanded(self, batch_shape, "base")
        new._drawn = LastDraw()
        return new

    @property
    def mean(self) -> Tensor:
        """Image of the base's mean."""
        return self.generate(self.base.mean)[0]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw with gradients."""
        noise = self.base.rsample(torch.Size(sample_shape))
        z, log_determinant = self.generate(noise)
        self._drawn.keep(z, self.base.log_prob(noise) - log_determinant)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of ``value`` (*, D), shape ``(*,)``."""
        if self._validate_args:
            self._validate_sample(value)
        density = self._drawn.recall(value)
        if density is None:
            noise, log_determinant = self.normalize(value)
            density = self.base.log_prob(noise) + log_determinant
        return density


class FlowTransform(nn.Module):
    """Stack of masked autoregressive transforms :math:`f`, starting near the identity.

    :math:`f` takes one parallel pass and its inverse one pass for each dimension (two in all for
    ``"realnvp"``). The order of the dimensions is reversed between transforms. Every layer is
    smooth, so second derivatives exist (``"nsf"`` has one continuous derivative).

    Args:
        latent_dim: number of dimensions D.
        context: number of features that f is conditioned on.
        kind: ``"maf"``, affine in each dimension; ``"nsf"``, monotonic splines on [-5, 5] and the
            identity outside; ``"realnvp"``, affine, one half of the dimensions conditioned on the
            other.
        transforms: number of transforms.
        width: width of each one's two hidden layers; every dimension depends on all before it only
            if this is at least ``latent_dim``.

    Raises:
        ValueError: an unknown kind, or a size less than one.
        ImportError: zuko is not installed.

    References:
        Papamakarios et al. (2017), MAF. https://arxiv.org/abs/1705.07057
        Durkan et al. (2019), NSF. https://arxiv.org/abs/1906.04032
        Dinh et al. (2017), RealNVP. https://arxiv.org/abs/1605.08803
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        context: int = 0,
        kind: str = "maf",
        transforms: int = 2,
        width: int = 128,
    ) -> None:
        super().__init__()
        name, options = lookup("flow", kind, FLOWS)
        for size, value in {"transforms": transforms, "width": width}.items():
            if value < 1:
                raise ValueError(f"{size} of a flow must be at least 1; got {value}.")
        flow = getattr(_zuko_flows(), name)(
            latent_dim,
            context,
            transforms=transforms,
            hidden_features=(width, width),
            activation=nn.SiLU,
            **options,
        )
        self.transform = flow.transform
        for layer in self.transform.transforms:
            _start_near_identity(layer)

    def forward(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        """Map x ``(*, D)`` by f or its inverse, given features ``(*, context)`` or ``None``.

        Returns:
            The image ``(*, D)``, and the log absolute determinant of its Jacobian ``(*,)``.
        """
        transform = self.transform(context)
        return (transform.inv if inverse else transform).call_and_ladj(x)

    def maps(self, context: Tensor | None = None) -> tuple[Map, Map]:
        """Return f and its inverse with the present parameters."""
        call = bound(self)
        return (lambda x: call(x, context, False)), (lambda x: call(x, context, True))


def _zuko_flows() -> Any:
    """Import zuko without its side effect: it switches off torch's validation of arguments."""
    validate = Distribution._validate_args
    try:
        return importlib.import_module("zuko.flows")
    except ImportError as error:
        raise ImportError(
            'flows need zuko; install it with pip install "pyro-vae[flows]".'
        ) from error
    finally:
        Distribution.set_default_validate_args(validate)


@torch.no_grad()
def _start_near_identity(layer: Any) -> None:
    """Shrink the parameters of a layer's univariate maps, which at zero are the identity."""
    output = layer.hyper[-1] if hasattr(layer, "hyper") else layer.phi
    for parameter in output.parameters():
        parameter.mul_(_FIRST_SCALE)
