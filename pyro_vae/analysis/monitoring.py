"""Whether the latents collapse, epoch by epoch: columns for the history of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..common.verbs import verb
from ..data import AnyData
from .latents import active_units, rate

__all__ = ["collapse"]


@verb
def collapse(program: Any, x: AnyData, *, seed: int = 0) -> Callable[[Any], dict[str, float]]:
    """Watch a program's latents in training: ``pv.fit(vae, ..., on_epoch=collapse(vae, some))``.

    A hundred or a few data are enough: each epoch costs a hundred draws of the guide for each, and
    the mutual information a density for each pair of them.

    Args:
        program: module with the programs ``model`` and ``guide`` that is trained.
        x: data to look at, as for :func:`rate`.
        seed: seed of the draws, the same in every epoch.

    Returns:
        Function for ``on_epoch`` whose columns are ``rate``, the KL term of the ELBO in nats per
        datum, ``mutual_information``, its part that tells data apart, and ``active_units``, the
        number of latent dimensions in use (:func:`active_units`).
    """

    def watch(row: Any) -> dict[str, float]:
        spent = rate(program.model, program.guide, x, seed=seed)
        active = active_units(program.model, program.guide, x, seed=seed)
        return {
            "rate": spent.rate,
            "mutual_information": spent.mutual_information,
            "active_units": active.number,
        }

    return watch
