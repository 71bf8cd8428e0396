"""Data given a condition: a label, a part of an image, any tensor."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import pyro
import torch
from torch import Tensor, nn

from ..programs.module import evaluated
from .base import Model
from .labels import one_hot
from .parts import Parts

__all__ = ["ConditionalVAE"]


class ConditionalVAE(Model):
    r"""Conditional model of x given c, with an amortized :math:`q(z \mid x, c)`.

    .. math:: p(x \mid c) = \int p(z \mid c) \, p(x \mid z, c) \, dz

    ``pv.log_evidence(cvae.model, cvae.guide, (x, c))`` estimates :math:`\log p(x \mid c)` of each
    datum. The prior depends on the condition if its ``forward`` takes an argument, else it is
    :math:`p(z)` for every c. Sites are ``z`` and ``x``.

    Args:
        prior: ``prior(c)`` or ``prior()`` is a distribution over z.
        likelihood: ``likelihood(z, c)`` is a distribution over x.
        posterior: ``posterior(x, c)`` is a distribution over z.
        classes: number of classes if the condition is a label: labels ``(N,)`` then reach the parts
            as one-hot vectors ``(N, classes)``. ``None`` passes the condition on unchanged.

    References:
        Sohn et al. (2015).
        https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models
    """

    programs: ClassVar[tuple[str, ...]] = ("conditional",)

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        *,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        if classes is not None and classes < 1:
            raise ValueError(f"classes must be at least 1; got {classes}.")
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        self.classes = classes
        self.prior_sees_condition = _takes_an_argument(prior)

    def model(self, x: Tensor, c: Tensor) -> None:
        """Declare p(z|c) p(x|z, c) for each of the data.

        Args:
            x: data of shape ``(N, *event_shape)``.
            c: conditions of shape ``(N, *condition_shape)``, or labels of shape ``(N,)``.

        Raises:
            TypeError: labels that are not integers.
            ValueError: labels out of range, or another number of conditions than data.
        """
        self._show_parameters("prior", "likelihood")
        condition = self._condition(c, len(x))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self._prior(condition))
            pyro.sample("x", self.likelihood(z, condition), obs=x)

    def guide(self, x: Tensor, c: Tensor) -> None:
        """Declare q(z|x, c) for each of the data; arguments are those of :meth:`model`."""
        self._show_parameters("posterior")
        condition = self._condition(c, len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x, condition))

    @classmethod
    def assemble(
        cls,
        parts: Parts,
        *,
        condition_shape: Sequence[int] | None = None,
        classes: int | None = None,
        learned_prior: bool | None = None,
    ) -> Self:
        r"""Build the usual conditional VAE.

        Args:
            parts: builder of the parts that a config names.
            condition_shape: shape of one condition that is not a label.
            classes: number of classes of a condition that is a label; by default the config's.
            learned_prior: use a diagonal normal :math:`p(z \mid c)` with a network of its own, as
                Sohn et al. do, in place of the config's prior; by default the config's choice.

        Raises:
            ValueError: both or neither of condition_shape and classes.
        """
        if condition_shape is None:
            classes = parts.setting("classes", classes)
        if (condition_shape is None) == (classes is None):
            raise ValueError(
                "give one of condition_shape=(...) (a tensor) and classes=... (a label, also a "
                f"field of the config); got condition_shape={condition_shape} and "
                f"classes={classes}."
            )
        latent_dim, event = parts.latent_dim, parts.event_shape
        condition = (classes,) if classes is not None else tuple(condition_shape or ())
        likelihood = parts.likelihood([(latent_dim,), condition])
        posterior = parts.posterior([event, condition], latent_dim)
        if parts.setting("learned_prior", learned_prior):
            hidden = parts.setting("hidden")
            prior: nn.Module = parts.conditional(condition, latent_dim, hidden=hidden)
        else:
            prior = parts.prior(latent_dim)
        return cls(prior, likelihood, posterior, classes=classes)

    @evaluated
    def encode(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the mean of q(z|x, c), shape ``(N, latent_dim)``."""
        return self.posterior(x, self._condition(c, len(x))).mean

    @evaluated
    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Return the mean of p(x|z, c), shape ``(*, *event_shape)``, for z ``(*, latent_dim)``."""
        return self.likelihood(z, self._condition(c)).mean

    def generate(self, given: Tensor) -> Any:
        """Draw one z from p(z|c) for each condition c ``(N, ...)`` and return p(x|z, c)."""
        condition = self._condition(given)
        prior = self._prior(condition)
        return self.likelihood(prior.sample(() if prior.batch_shape else (len(given),)), condition)

    def _prior(self, condition: Tensor) -> Any:
        return self.prior(condition) if self.prior_sees_condition else self.prior()

    def _condition(self, c: Tensor, rows: int | None = None) -> Tensor:
        """The condition in the form that the parts take."""
        if rows is not None and len(c) != rows:
            raise ValueError(f"there are {rows} data, but {len(c)} conditions; give one for each.")
        if self.classes is None:
            return c
        floats = (p.dtype for p in self.parameters() if p.is_floating_point())
        return one_hot(c, self.classes, dtype=next(floats, torch.get_default_dtype()))


def _takes_an_argument(prior: nn.Module) -> bool:
    """Whether calling a prior takes a positional argument."""
    parameters = inspect.signature(prior.forward).parameters.values()
    positional = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD", "VAR_POSITIONAL")
    return any(parameter.kind.name in positional for parameter in parameters)
