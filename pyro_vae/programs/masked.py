"""Training and evidence with missing data: a program whose observations are masked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import number_of_arguments
from .masking import Observed, check_mask
from .module import ProgramModule

__all__ = ["Masked"]


class Masked(ProgramModule):
    r"""A program of x made one of x and a mask, for data of which values are missing.

    .. math:: p(x_{obs}, z) = p(z) \prod_{d \in obs} p(x_d \mid z), \qquad q(z \mid x_{obs})

    Likelihood terms of missing values are left out (which is right if values are missing at
    random), and the guide sees zeros there. What the tensors hold at missing values, NaN included,
    has no effect. ::

        masked = Masked(vae)
        pv.fit(masked, (x, mask))
        pv.log_evidence(masked.model, masked.guide, (x, mask))     # x without NaN here

    The last line gives what ``pv.log_evidence(vae.model, vae.guide, x, mask=mask)`` gives. Data
    are filled with zeros before they reach the program, so a mask has to be a part of every batch.

    Args:
        program: module with Pyro programs ``model(x)`` and ``guide(x)``, such as ``VAE``; its
            likelihood is of independent values.

    Raises:
        TypeError: no such module, or programs of more than one argument.

    References:
        Mattei and Frellsen (2019). https://arxiv.org/abs/1812.02633
        Nazábal et al. (2020). https://arxiv.org/abs/1807.03653
    """

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        for name in ("model", "guide"):
            fn = getattr(program, name, None)
            if not isinstance(program, nn.Module) or not callable(fn):
                raise TypeError(
                    "program must be an nn.Module with methods model and guide, such as VAE; got "
                    f"{type(program).__name__}."
                )
            if (number := number_of_arguments(fn)) != 1:
                raise TypeError(
                    f"{type(program).__name__}.{name} takes {number} arguments; a masked program "
                    "is one of the data alone."
                )
        self.program: Any = program

    def model(self, x: Tensor, mask: Tensor) -> Any:
        """Declare p(z) and the likelihood of the observed values.

        Args:
            x: data of shape ``(N, *event_shape)``.
            mask: True where a value is observed, shape of x or one that broadcasts to it.

        Raises:
            ValueError: a mask that is not boolean or has another shape; a likelihood of dependent
                values.
        """
        mask = check_mask(mask, x)
        filled = _fill(x, mask)
        with Observed(filled, mask):
            return self.program.model(filled)

    def guide(self, x: Tensor, mask: Tensor) -> Any:
        """Declare the program's guide, given the data with zeros for missing values."""
        return self.program.guide(_fill(x, check_mask(mask, x)))

    @torch.no_grad()
    def impute(self, x: Tensor, mask: Tensor) -> Tensor:
        """Fill missing values with the program's reconstruction from the observed ones.

        Args:
            x: data of shape ``(N, *event_shape)``.
            mask: True where a value is observed.

        Returns:
            Tensor of the data's shape, equal to x where observed.
        """
        mask = check_mask(mask, x)
        filled = _fill(x, mask)
        return torch.where(mask, filled, self.program.reconstruct(filled))


def _fill(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x, torch.zeros_like(x))
