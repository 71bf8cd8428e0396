"""Parts of a model, chosen by the names in a config."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..common.registry import build, lookup
from ..config import Config
from ..likelihoods import LIKELIHOODS, Likelihood
from ..networks import CellFeatures, Featured
from ..networks.named import Role, build_network, is_dense
from ..posteriors import POSTERIORS, Posterior
from ..priors import PRIORS

__all__ = ["Parts"]

Shape = Sequence[int]
Widths = Sequence[int] | None


class Parts:
    """Builder of the parts that a config names, for data of one shape.

    Nothing else reads a config's settings of the model. Parts are built, and draw random numbers,
    in the order in which they are asked for.

    Args:
        config: names and sizes of the parts.
        event_shape: shape of one datum.
    """

    def __init__(self, config: Config, event_shape: Shape) -> None:
        self._config = config
        self.event_shape = tuple(event_shape)
        self.latent_dim = config.latent_dim

    def setting(self, name: str, given: Any = None) -> Any:
        """Return ``given`` or, if that is ``None``, the config's setting of this name."""
        return getattr(self._config, name) if given is None else given

    @property
    def inner_hidden(self) -> Widths:
        """Widths between two layers of latents: half the config's, if its network is dense."""
        hidden, dense = self._config.hidden, is_dense(self._config.network)
        return [max(1, width // 2) for width in hidden] if hidden is not None and dense else None

    def likelihood(self, in_shapes: Sequence[Shape]) -> Likelihood:
        """Build p(x | inputs), the config's likelihood on its network."""
        return build(
            "likelihood",
            self._config.likelihood,
            LIKELIHOODS,
            lambda shape: self.network("decoder", in_shapes, shape),
            self.event_shape,
            **self._config.options("likelihood"),
        )

    def posterior(self, in_shapes: Sequence[Shape], latent_dim: int) -> Posterior:
        """Build q(z | inputs), the config's posterior on its network."""
        return build(
            "posterior",
            self._config.posterior,
            POSTERIORS,
            lambda shape: self.network("encoder", in_shapes, shape),
            latent_dim,
            **self._config.options("posterior"),
        )

    def conditional(
        self, in_shape: Shape, latent_dim: int, *, hidden: Widths, name: str = "normal"
    ) -> Posterior:
        """Build a distribution over latents given a vector, on a fully connected network.

        Args:
            in_shape: event shape of the input.
            latent_dim: number of latent dimensions.
            hidden: widths of the network, from the input on; ``None`` for its defaults.
            name: a key of ``POSTERIORS``; the config's own posterior gets the config's options.
        """
        kind = self._config.network if is_dense(self._config.network) else "mlp"
        return build(
            "posterior",
            name,
            POSTERIORS,
            lambda shape: self._network(kind, "encoder", [in_shape], shape, hidden),
            latent_dim,
            **(self._config.options("posterior") if name == self._config.posterior else {}),
        )

    def prior(self, latent_dim: int, *, posterior: nn.Module | None = None) -> nn.Module:
        """Build p(z), the config's prior, in ``latent_dim`` dimensions.

        Some priors are made of ``posterior``, a q(z|x) of the data alone, if the model has one.

        Raises:
            ValueError: such a prior, without a posterior.
        """
        name = self._config.prior
        of_posterior = "posterior" in inspect.signature(lookup("prior", name, PRIORS)).parameters
        if of_posterior and posterior is None:
            raise ValueError(
                f"prior {name!r} is made of the model's posterior of the data alone, and this "
                "program does not have one (a VAE and the top-down form do); use another prior, "
                "or another program."
            )
        context = (posterior, self.event_shape) if of_posterior else ()
        options = self._config.options("prior")
        return build("prior", name, PRIORS, latent_dim, *context, **options)

    def network(self, role: Role, in_shapes: Sequence[Shape], out_shape: Shape) -> nn.Module:
        """Build the config's network, of one input or of several side by side.

        Args:
            role: ``"encoder"`` (from data, of a table from its features) or ``"decoder"`` (to data,
                with the widths reversed).
            in_shapes: event shape of each input; of an encoder, the data come first.
            out_shape: event shape of the output.
        """
        hidden = self._config.hidden
        hidden = hidden and hidden[:: 1 if role == "encoder" else -1]
        kind, schema = self._config.network, self._config.likelihood_schema
        if schema is None or role == "decoder":
            return self._network(kind, role, in_shapes, out_shape, hidden)
        features = CellFeatures(schema)
        in_shapes = [(features.size,), *in_shapes[1:]]
        return Featured(features, self._network(kind, role, in_shapes, out_shape, hidden))

    def _network(
        self, kind: str, role: Role, in_shapes: Sequence[Shape], out_shape: Shape, hidden: Widths
    ) -> nn.Module:
        options = {"hidden": hidden, "activation": self._config.activation}
        return build_network(kind, role, in_shapes, out_shape, **options)
