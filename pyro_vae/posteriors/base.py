"""What every posterior shares: a network that gives rows of the size of the latent vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = ["AmortizedPosterior", "positive_scale"]

_LEAST_SCALE = 1e-5


class AmortizedPosterior(nn.Module):
    """Base of posteriors q(z|x) whose parameters are the output of a network.

    Args:
        network: maps the inputs, of leading dimensions ``(*,)``, to ``(*, rows, latent_dim)``.
        latent_dim: number of latent dimensions; ``None`` for what the network gives.
        rows: number of rows.
    """

    def __init__(self, network: nn.Module, latent_dim: int | None, *, rows: int) -> None:
        super().__init__()
        if latent_dim is not None and latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1; got {latent_dim}.")
        self.network = network
        self.latent_dim, self.rows = latent_dim, rows

    def network_output(self, *inputs: Tensor) -> Tensor:
        """Return the network's output, shape ``(*, rows, latent_dim)``.

        Raises:
            ValueError: an output of another shape.
        """
        output: Tensor = self.network(*inputs)
        latent_dim = self.latent_dim or (output.shape[-1] if output.dim() else 0)
        if output.shape[-2:] != (self.rows, latent_dim):
            raise ValueError(
                f"{type(self).__name__} needs a network whose output has shape (..., {self.rows}, "
                f"{self.latent_dim or 'latent_dim'}), as network_shape says; got "
                f"{tuple(output.shape)}."
            )
        # Under autocast networks give half precision, too coarse for a density.
        return output.to(torch.promote_types(output.dtype, torch.float32))


def positive_scale(raw: Tensor) -> Tensor:
    """Positive scale with a floor, so that a collapsing scale stays that of a density."""
    return _LEAST_SCALE + softplus(raw)
