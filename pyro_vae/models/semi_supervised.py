"""Generative semi-supervised learning: labels that are known for only some data."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ..programs.module import evaluated
from .base import Model
from .labels import UNKNOWN, Classifier, LabelPrior, check_labels, one_hot
from .parts import Parts

__all__ = ["SemiSupervisedVAE"]


class SemiSupervisedVAE(Model):
    r"""The model M2 of Kingma et al.: style z and label y, which is known for some data.

    .. math:: p(y) \, p(z) \, p(x \mid z, y), \qquad q(y \mid x) \, q(z \mid x, y)

    Labels are integers, -1 where unknown. An unknown label is a latent variable of both programs,
    summed out exactly under ``pv.EnumeratedELBO()``. Where a label is known, a point mass replaces
    :math:`q(y \mid x)`, so one program serves batches with data of both kinds::

        x, y = pv.partially_labelled(train.x, train.y, labels=100)
        pv.fit(model, (x, y), objective=pv.EnumeratedELBO())

    In ``train()`` mode the model also has the classification term
    :math:`\alpha \log q(y \mid x)` of the labelled data, a part of the loss but not of the bound.
    In ``eval()`` mode, in which ``pv.log_evidence`` runs, it does not: ``log_evidence(model,
    guide, (x, y))`` estimates :math:`\log p(x, y)` of a datum whose label is given, and
    :math:`\log p(x)` where it is -1. Sites are ``y``, ``z`` and ``x`` (and ``classification``).

    Args:
        label_prior: ``label_prior()`` is a categorical distribution over labels.
        prior: ``prior()`` is a distribution over z.
        likelihood: ``likelihood(z, y)`` is a distribution over x, y a one-hot vector.
        posterior: ``posterior(x, y)`` is a distribution over z, y a one-hot vector.
        classifier: ``classifier(x)`` is a categorical distribution over labels.
        classes: number of classes.
        classification_weight: :math:`\alpha`, the weight of each labelled datum's term.

    Raises:
        ValueError: fewer than two classes, or a negative weight.

    References:
        Kingma et al. (2014). https://arxiv.org/abs/1406.5298
    """

    programs: ClassVar[tuple[str, ...]] = ("semi-supervised",)

    def __init__(
        self,
        label_prior: nn.Module,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        classifier: nn.Module,
        *,
        classes: int,
        classification_weight: float = 10.0,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes must be at least 2; got {classes}.")
        if not classification_weight >= 0:
            raise ValueError(
                f"classification_weight must not be negative; got {classification_weight}."
            )
        self.label_prior = label_prior
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        self.classifier = classifier
        self.classes = classes
        self.classification_weight = classification_weight

    def model(self, x: Tensor, y: Tensor) -> None:
        """Declare p(y) p(z) p(x|z, y) for each of the data, and the classification term.

        Args:
            x: data of shape ``(N, *event_shape)``.
            y: labels of shape ``(N,)``, -1 where unknown.

        Raises:
            TypeError: labels that are not integers.
            ValueError: labels out of range or of another shape.
        """
        self._show_parameters("label_prior", "prior", "likelihood", "classifier")
        self._check(x, y)
        with pyro.plate("data", len(x)):
            label = pyro.sample("y", self.label_prior())
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z, self._one_hot(label, x)), obs=x)
            if self.training and self.classification_weight > 0:
                known: Any = y > UNKNOWN
                kind: Any = {"regularizer": True}
                with poutine.mask(mask=known), poutine.scale(scale=self.classification_weight):
                    pyro.sample(
                        "classification",
                        self.classifier(x),
                        obs=y.clamp(0, self.classes - 1),  # beyond, a GPU would stop for good
                        infer=kind,
                    )

    def guide(self, x: Tensor, y: Tensor) -> None:
        """Declare q(y|x) q(z|x, y), with a point mass where the label is known."""
        self._show_parameters("posterior", "classifier")
        self._check(x, y)
        known = (y > UNKNOWN).unsqueeze(-1)
        inferred = self.classifier(x).logits
        point = self._one_hot(y.clamp_min(0), x).to(inferred.dtype).log()
        with pyro.plate("data", len(x)):
            label = pyro.sample(
                "y",
                pyro.distributions.Categorical(logits=torch.where(known, point, inferred)),
                infer={"enumerate": "parallel"},
            )
            pyro.sample("z", self.posterior(x, self._one_hot(label, x)))

    @classmethod
    def assemble(
        cls,
        parts: Parts,
        *,
        classes: int | None = None,
        classification_weight: float | None = None,
    ) -> Self:
        """Build the usual model, with equal class probabilities.

        ``classes`` and ``classification_weight`` are by default the config's.

        Raises:
            ValueError: an unknown number of classes, or fewer than two.
        """
        classes = parts.setting("classes", classes)
        if classes is None:
            raise ValueError(
                "the number of classes is not known; give classes=..., or set it in the config."
            )
        event, latent_dim = parts.event_shape, parts.latent_dim
        return cls(
            LabelPrior(classes),
            parts.prior(latent_dim),
            parts.likelihood([(latent_dim,), (classes,)]),
            parts.posterior([event, (classes,)], latent_dim),
            Classifier(parts.network("encoder", [event], (classes,))),
            classes=classes,
            classification_weight=parts.setting("classification_weight", classification_weight),
        )

    @evaluated
    def classify(self, x: Tensor) -> Tensor:
        """Return the probabilities q(y|x), shape ``(N, classes)``, for x ``(N, *event_shape)``."""
        return self.classifier(x).probs

    @evaluated
    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """Return the proportion of data whose most probable class is their label.

        Data are ``(N, *event_shape)`` and labels ``(N,)``, all known.
        """
        check_labels(y.cpu(), self.classes)
        return float((self.classify(x).argmax(-1) == y).double().mean())

    @evaluated
    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the style of data, the mean of q(z|x, y), shape ``(N, latent_dim)``."""
        return self.posterior(x, self._one_hot(y, x)).mean

    @evaluated
    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the mean of p(x|z, y), shape ``(*, *event_shape)``.

        Styles z are ``(*, latent_dim)``; labels y are ``(*)`` or broadcast to it.
        """
        return self.likelihood(z, self._one_hot(y, z)).mean

    def baseline(self, x: Tensor) -> Tensor | None:
        """Return ``None``: the ELBO is of data with their labels."""
        return None

    def generate(self, given: Tensor) -> Any:
        """Draw one z from the prior for each label y ``(N,)``, all known, and return p(x|z, y)."""
        z = self.prior().sample((len(given),))
        return self.likelihood(z, self._one_hot(given, z))

    def _check(self, x: Tensor, y: Tensor) -> None:
        if y.shape != x.shape[:1]:
            raise ValueError(
                f"y must have shape ({len(x)},), one label for each datum and -1 where unknown; "
                f"got {tuple(y.shape)}."
            )
        check_labels(y, self.classes, least=UNKNOWN)

    def _one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        return one_hot(labels, self.classes, dtype=like.dtype)
