"""Models as pairs of Pyro programs: plain, hierarchical, conditional, semi-supervised, of counts.

Each is a module with two programs, ``model`` and ``guide``, inside one outermost plate over the
data, so it trains with ``pv.fit`` or ``pyro.infer.SVI`` and gives log p(x) with
``pv.log_evidence``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..common.registry import lookup
from ..common.verbs import verb
from ..config import Config
from .amortized import amortize
from .base import Model
from .conditional import ConditionalVAE
from .counts import CountVAE
from .hierarchical import HierarchicalVAE
from .labels import Classifier, LabelPrior, one_hot, partially_labelled
from .parts import Parts
from .semi_supervised import SemiSupervisedVAE
from .vae import VAE

__all__ = [
    "MODELS",
    "VAE",
    "Classifier",
    "ConditionalVAE",
    "CountVAE",
    "HierarchicalVAE",
    "LabelPrior",
    "Model",
    "Parts",
    "SemiSupervisedVAE",
    "amortize",
    "build_program",
    "one_hot",
    "partially_labelled",
]

MODELS: dict[str, type[Model]] = {
    "vae": VAE,
    "bottom-up": HierarchicalVAE,
    "top-down": HierarchicalVAE,
    "conditional": ConditionalVAE,
    "semi-supervised": SemiSupervisedVAE,
    "counts": CountVAE,
}
"""Models by the name of the program in a config."""


@verb
def build_program(
    config: Config,
    *,
    event_shape: Sequence[int],
    data: Tensor | tuple[Tensor, ...] | None = None,
) -> Model:
    """Build the program that a config names.

    Arguments and errors are those of :meth:`Model.from_config`; a program that needs the number of
    ``classes`` and does not have it raises ``ValueError``, too.
    """
    kind = lookup("program", config.program, MODELS)
    return kind.from_config(config, event_shape=event_shape, data=data)
