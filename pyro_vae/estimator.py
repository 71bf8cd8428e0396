"""A VAE as a scikit-learn estimator: a density, and a transformer, of rows of numbers."""

from __future__ import annotations

import dataclasses
from math import prod
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    TransformerMixin,
)
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from .common.options import check_taken, takes
from .common.seeding import derive
from .config import Config
from .evidence import Evidence, log_evidence
from .models import build_program
from .objectives import objective_of
from .training import fit

__all__ = ["VAEDensity"]

_LEFT_OUT = (  # what is of files and tables, of labels and of exposures
    *("data", "binarize", "data_seed", "validation", "columns", "likelihood_schema"),
    *("classes", "class_names", "labels", "learned_prior", "classification_weight"),
    "exposure",
)
_OWN: dict[str, Any] = {
    "likelihood": "normal",
    "event_shape": None,
    "validation_fraction": 0.1,
    "method": "guide",
    "samples": 1000,
    "search": True,
    "device": "auto",
}
_AT_ONCE = 4096  # rows through a network
_TYPES = (np.float64, np.float32)

Rows = np.ndarray[Any, Any]
_settings = {f.name: f.default for f in dataclasses.fields(Config) if f.name not in _LEFT_OUT}
# Of the config's settings, so that scikit-learn finds each as a parameter of the constructor.
_Settings: Any = dataclasses.make_dataclass(
    "_Settings",
    [(name, Any, dataclasses.field(default=value)) for name, value in (_settings | _OWN).items()],
    kw_only=True,
    eq=False,
    repr=False,
)


class VAEDensity(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, _Settings, BaseEstimator
):
    r"""Density and latent code of rows of numbers, by a VAE, for scikit-learn's tools.

    ``VAEDensity(latent_dim=4, epochs=200).fit(X).score_samples(X)`` is :math:`\log \hat p(x)` of
    each row, in nats, by importance sampling, without its bias of order 1/K; :meth:`evidence` has
    its errors and verdicts. It works in ``Pipeline`` (after ``StandardScaler``, whose scales are
    part of the density then), ``cross_val_score``, ``GridSearchCV`` and ``clone``. Everything is
    computed in the type of X, float64 or float32. Equal settings and data give equal numbers, but
    the Monte-Carlo noise of a row's log p(x) depends on its place among the rows.

    Parameters are the fields of :class:`pyro_vae.Config` by name, but for those of files and of
    labels, and

    Args:
        likelihood: p(x|z), by default ``"normal"``.
        event_shape: shape of a row's datum, such as ``(8, 8)`` for networks of images; by default
            ``(n_features,)``.
        validation_fraction: share of the rows to set aside for early stopping, with ``patience``.
        method: proposal of log p(x), as in :func:`pyro_vae.log_evidence`; ``"auto"`` is slower and
            better.
        samples: importance samples K for each row.
        search: look for posterior mass that the proposal misses, a second or two for each call.
        device: where to compute.

    Attributes:
        vae_: the trained model.
        history_: its history.
        n_features_in_: number of columns.
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on rows X, ``(N, n_features)``; y is ignored.

        Raises:
            ValueError: a setting out of range; rows outside the likelihood's support; no rows, NaN.
        """
        X = validate_data(self, X, dtype=_TYPES)
        config = Config(**{name: getattr(self, name) for name in _settings})
        check_taken(config, "program")
        if takes(config, "classes") or takes(config, "exposure"):
            raise ValueError(
                f"program {config.program!r} needs labels or exposures, which an estimator of "
                "densities does not get; use pyro_vae.fit."
            )
        shape = tuple(self.event_shape or (X.shape[1],))
        if prod(shape) != X.shape[1]:
            raise ValueError(f"event_shape {shape} has {prod(shape)} values; X has {X.shape[1]}.")
        x, valid = torch.tensor(X).reshape(-1, *shape), None
        if config.patience is not None:
            x, valid = self._set_aside(x)
        vae = build_program(config, event_shape=shape, data=x.float()).to(x.dtype)
        given: Any = {**dataclasses.asdict(config.training), "device": self.device}
        self.history_ = fit(vae, x, valid, objective=objective_of(config), **given, progress=False)
        self.vae_, self._shape = vae.eval(), shape
        self._sizes = [part.shape[1] for part in self._codes(x[:1])]
        return self

    def evidence(self, X: Any) -> Evidence:
        """Return log p(x) of each row with its errors, diagnostics and verdicts.

        Warns:
            UnreliableEvidence: some are to doubt.
        """
        x = self._checked(X)
        return log_evidence(
            self.vae_.model,
            self.vae_.guide,
            x,
            samples=self.samples,
            method=self.method,
            search=self.search,
            seed=self.seed,
            progress=False,
        )

    def score_samples(self, X: Any) -> Rows:
        """Return log p(x) of each row in nats, shape ``(N,)``."""
        found: Rows = self.evidence(X).corrected().numpy()
        return found

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of :meth:`score_samples`; y is ignored."""
        return float(self.score_samples(X).mean())

    def transform(self, X: Any) -> Rows:
        """Return the latent codes, means of q(z|x), shape ``(N, latents)``, of all layers."""
        x = self._checked(X)
        codes = [torch.cat(self._codes(part), -1) for part in x.split(_AT_ONCE)]
        return _rows(torch.cat(codes))

    def inverse_transform(self, X: Any) -> Rows:
        """Return the means of p(x|z) at latent codes, shape ``(N, n_features)``."""
        check_is_fitted(self)
        codes = torch.tensor(check_array(X, dtype=_TYPES)).to(next(self.vae_.parameters()).dtype)
        if codes.shape[1] != sum(self._sizes):
            raise ValueError(
                f"codes have {codes.shape[1]} columns; those of transform have {sum(self._sizes)}."
            )
        parts = codes.split(_AT_ONCE)
        return _rows(torch.cat([self.vae_.decode(*z.split(self._sizes, -1)) for z in parts]))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Rows:
        """Draw new rows from p(x), shape ``(n_samples, n_features)``."""
        check_is_fitted(self)
        seed = int(check_random_state(random_state).randint(2**31))
        return _rows(self.vae_.sample(n_samples, seed=seed))

    @property
    def _n_features_out(self) -> int:
        return sum(self._sizes)

    def _checked(self, X: Any) -> Tensor:
        """Rows as data of the model."""
        check_is_fitted(self)
        x = torch.tensor(validate_data(self, X, dtype=_TYPES, reset=False))
        return x.reshape(-1, *self._shape).to(next(self.vae_.parameters()).dtype)

    def _codes(self, x: Tensor) -> tuple[Tensor, ...]:
        codes = self.vae_.encode(x)
        return codes if isinstance(codes, tuple) else (codes,)

    def _set_aside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows to train on, and rows to stop early by."""
        number = round(len(x) * self.validation_fraction)
        if not 0 < number < len(x):
            raise ValueError(
                f"validation_fraction={self.validation_fraction} sets {number} of n_samples = "
                f"{len(x)} aside for patience; there must be some of both."
            )
        generator = torch.Generator().manual_seed(derive("set aside", self.seed))
        order = torch.randperm(len(x), generator=generator)
        return x[order[number:]], x[order[:number]]


def _rows(values: Tensor) -> Rows:
    found: Rows = values.reshape(len(values), -1).cpu().numpy()
    return found
