"""Pyro programs beside the VAE: hierarchical, conditional, semi-supervised, and with missing data.

Each is a module with two programs, ``model`` and ``guide``, over one outermost plate of data, so it
trains with ``pv.fit`` or ``pyro.infer.SVI`` and gives log p(x) with ``pv.log_evidence``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..config import Config
from .conditional import ConditionalVAE
from .hierarchical import HierarchicalVAE
from .labels import Classifier, LabelPrior, one_hot, partially_labelled
from .semi_supervised import SemiSupervisedVAE
from .vae import VAE

__all__ = [
    "VAE",
    "Classifier",
    "ConditionalVAE",
    "HierarchicalVAE",
    "LabelPrior",
    "SemiSupervisedVAE",
    "build_program",
    "one_hot",
    "partially_labelled",
]


def build_program(
    config: Config, *, event_shape: Sequence[int], data: Tensor | None = None
) -> VAE | HierarchicalVAE:
    """Build the program that a config names.

    Args:
        config: names and sizes of the parts.
        event_shape: shape of one datum.
        data: training data of shape ``(N, *event_shape)``; if given, parts that know how start
            from them.

    Raises:
        ValueError: an unknown part, or an option that the part has not.
    """
    if config.program == "vae":
        return VAE.from_config(config, event_shape=event_shape, data=data)
    return HierarchicalVAE.from_config(config, event_shape=event_shape, data=data)
