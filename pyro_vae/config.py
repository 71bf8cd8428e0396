"""One frozen description of a run: data, model, training."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from .errors import suggestion

__all__ = [
    "KL",
    "Activation",
    "Binarize",
    "Config",
    "LikelihoodName",
    "Method",
    "PosteriorName",
    "PriorName",
    "Schedule",
]

# Names only: this module imports no torch, so that the command line answers at once.
# Tests hold them equal to the registries of the modules that own the parts.
PriorName = Literal["normal", "mixture"]
LikelihoodName = Literal["bernoulli", "normal"]
PosteriorName = Literal["normal"]
Activation = Literal["tanh", "relu", "softplus", "gelu", "silu"]
Binarize = Literal["dynamic", "static", "threshold", "none"]
Schedule = Literal["constant", "one-cycle", "cosine"]
KL = Literal["sampled", "analytic"]
Method = Literal["guide", "refined", "laplace", "annealed", "auto"]
"""Proposal of importance sampling: a rung of the ladder, or ``"auto"`` to climb it per datum."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What a run is: its data, its model and its training. Equal configs give equal runs."""

    data: str = "digits"
    """Data set: digits, mnist, fashion-mnist, or the path of a .npy or .npz file."""
    binarize: Binarize | None = None
    """How gray pixels become 0/1: dynamic (drawn anew every epoch; validation and test drawn once),
    static, threshold or none. By default dynamic for the named image sets, none for files."""
    data_seed: int = 0
    """Seed of the binarization; kept apart from --seed so that all runs share their test data."""
    validation: int | None = None
    """Training data set aside for validation. By default the data set's usual number."""

    prior: PriorName = "normal"
    """p(z): normal (N(0, I)) or mixture (a learned mixture of diagonal normals)."""
    prior_components: Annotated[int | None, tyro.conf.arg(name="prior.components")] = None
    """Number of components, for the priors that have components."""
    likelihood: LikelihoodName = "bernoulli"
    """p(x|z): bernoulli (for 0/1 data) or normal (for real-valued data)."""
    posterior: PosteriorName = "normal"
    """q(z|x): normal (diagonal normal)."""
    latent_dim: int = 16
    """Number of latent dimensions."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the hidden layers of the encoder; the decoder has them in reverse."""
    activation: Activation = "tanh"
    """Nonlinearity of the networks."""

    epochs: int = 100
    """Passes over the training data."""
    batch_size: int = 100
    """Data per gradient step."""
    learning_rate: float = 1e-3
    """Step size of Adam; the peak of the schedule."""
    schedule: Schedule = "constant"
    """Learning rate over the run: constant, one-cycle or cosine."""
    kl: KL = "sampled"
    """KL term of the ELBO: sampled, or analytic where Pyro has it in closed form."""
    kl_warmup: int = 0
    """Epochs over which the weight of the KL term rises from exactly 0 to exactly 1."""
    particles: int = 1
    """Draws of z per datum and step."""
    patience: int | None = None
    """Stop after so many epochs without a better validation ELBO, and restore the best."""
    seed: int = 0
    """Seed of initialization, data order and training noise."""

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive; got {self.learning_rate}.")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden widths must be at least 1; got {self.hidden}.")

    @property
    def prior_options(self) -> dict[str, Any]:
        """Options of the prior that were set, by the names of its constructor."""
        return {
            field.name.removeprefix("prior_"): getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name.startswith("prior_") and getattr(self, field.name) is not None
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values, fit for JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Build a config from plain values.

        Raises:
            ValueError: an unknown field, or a value of the wrong kind.
        """
        hints = get_type_hints(cls)
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if name not in hints:
                raise ValueError(f"config has no field {name!r}.{suggestion(name, hints)}")
            value = tuple(value) if isinstance(value, list) else value
            if not _fits(value, hints[name]):
                raise ValueError(f"config field {name!r} cannot be {value!r}.")
            checked[name] = value
        return cls(**checked)


_AT_LEAST = {
    "validation": 0,
    "prior_components": 1,
    "latent_dim": 1,
    "epochs": 1,
    "batch_size": 1,
    "kl_warmup": 0,
    "particles": 1,
    "patience": 1,
}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value fits the type of a config field."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in choices
    if origin in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in choices)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, choices[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
