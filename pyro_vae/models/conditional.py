"""Data given a condition: a label, a part of an image, any tensor."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..common.seeding import seeded
from ..config import Config
from ..priors import build_prior
from ..programs.module import ProgramModule
from .labels import one_hot
from .parts import decoder_part, encoder_part, inner_part, one_layer

__all__ = ["ConditionalVAE"]


class ConditionalVAE(ProgramModule):
    r"""Conditional model of x given c, with an amortized :math:`q(z \mid x, c)`.

    .. math:: p(x \mid c) = \int p(z \mid c) \, p(x \mid z, c) \, dz

    ``pv.log_evidence(cvae.model, cvae.guide, (x, c))`` estimates :math:`\log p(x \mid c)` of each
    datum. The prior sees the condition if its ``forward`` takes an argument; without one,
    :math:`p(z)` is the same for every c. Sites are ``z`` and ``x``.

    Args:
        prior: ``prior(c)`` or ``prior()`` is a distribution over z.
        likelihood: ``likelihood(z, c)`` is a distribution over x.
        posterior: ``posterior(x, c)`` is a distribution over z.
        classes: number of classes if the condition is a label: labels ``(N,)`` then reach the parts
            as one-hot vectors ``(N, classes)``. ``None`` passes the condition on as it is.

    References:
        Sohn et al. (2015).
        https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models
    """

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
        """Declare q(z|x, c) for each of the data; arguments as of :meth:`model`."""
        self._show_parameters("posterior")
        condition = self._condition(c, len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x, condition))

    @classmethod
    def from_config(
        cls,
        config: Config,
        *,
        event_shape: Sequence[int],
        condition_shape: Sequence[int] | None = None,
        classes: int | None = None,
        data: Tensor | None = None,
        learned_prior: bool = False,
    ) -> ConditionalVAE:
        r"""Build the usual conditional VAE: fully connected networks, parts chosen by name.

        Args:
            config: names and sizes of the parts.
            event_shape: shape of one datum.
            condition_shape: shape of one condition; give this or ``classes``.
            classes: number of classes, if the condition is a label.
            data: training data of shape ``(N, *event_shape)``; if given, parts that know how start
                from them.
            learned_prior: take a diagonal normal :math:`p(z \mid c)` with a network of its own, as
                Sohn et al. do, in place of the config's prior.

        Raises:
            ValueError: an unknown part; both or neither of condition_shape and classes.
        """
        one_layer(config, "ConditionalVAE")
        if (condition_shape is None) == (classes is None):
            raise ValueError(
                "give one of condition_shape=(...) (a tensor) and classes=... (a label); got "
                f"condition_shape={condition_shape} and classes={classes}."
            )
        condition = (classes,) if classes is not None else tuple(condition_shape or ())
        event, latent = tuple(event_shape), (config.latent_dim,)
        prior: nn.Module
        with seeded("initialize", config.seed):
            likelihood = decoder_part(config, [latent, condition], event)
            posterior = encoder_part(config, [event, condition], *latent)
            if learned_prior:
                prior = inner_part(config, condition, *latent, hidden=config.hidden)
            else:
                prior = build_prior(config.prior, config.latent_dim, **config.options("prior"))
            vae = cls(prior, likelihood, posterior, classes=classes)
            vae._initialize_parts(data, *(() if learned_prior else ("prior",)), "likelihood")
        return vae

    @torch.no_grad()
    def encode(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the mean of q(z|x, c), shape ``(N, latent_dim)``."""
        mean: Tensor = self.posterior(x, self._condition(c, len(x))).mean
        return mean

    @torch.no_grad()
    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Return the mean of p(x|z, c), shape ``(*, *event_shape)``, for z ``(*, latent_dim)``."""
        mean: Tensor = self.likelihood(z, self._condition(c)).mean
        return mean

    def reconstruct(self, x: Tensor, c: Tensor) -> Tensor:
        """Return ``decode(encode(x, c), c)``, the decoder's mean at the posterior mean."""
        return self.decode(self.encode(x, c), c)

    @torch.no_grad()
    def sample(self, c: Tensor, *, seed: int | None = None, mean: bool = False) -> Tensor:
        """Draw one datum from p(x|c) for each condition.

        Args:
            c: conditions of shape ``(N, *condition_shape)``, or labels of shape ``(N,)``; repeat
                them for several draws of each.
            seed: seed of the draws; ``None`` draws from the caller's random state.
            mean: replace the draw of x given z by its mean (for pictures).

        Returns:
            Tensor of shape ``(N, *event_shape)``.
        """
        condition = self._condition(c)
        with nullcontext() if seed is None else seeded("sample", seed):
            prior = self._prior(condition)
            z = prior.sample(() if prior.batch_shape else (len(c),))
            likelihood = self.likelihood(z, condition)
            x: Tensor = likelihood.mean if mean else likelihood.sample()
        return x

    def _prior(self, condition: Tensor) -> Any:
        return self.prior(condition) if self.prior_sees_condition else self.prior()

    def _condition(self, c: Tensor, rows: int | None = None) -> Tensor:
        """The condition as the parts take it."""
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
