"""One frozen description of a run: data, model, training."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from .common.options import (
    KL,
    Activation,
    Binarize,
    Gradient,
    LikelihoodName,
    NetworkName,
    ObjectiveName,
    PosteriorName,
    Precision,
    PriorName,
    ProgramName,
    ScaleOf,
    Schedule,
    Start,
)
from .common.registry import suggestion

__all__ = ["Config", "parse_setting"]


def _named(name: str) -> Any:
    return tyro.conf.arg(name=name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What a run is: its data, its model and its training. Equal configs give equal runs."""

    data: str = "digits"
    """Data set: digits, mnist, fashion-mnist, or the path of a .npy or .npz file."""
    binarize: Binarize | None = None
    """How gray pixels become 0/1: dynamic (drawn anew every epoch; validation and test drawn once),
    static or threshold; or stay gray, in [0, 1] (gray), with noise that makes them a density
    (dequantized), or as they are (none). By default dynamic for the named image sets, none for
    files."""
    data_seed: int = 0
    """Seed of the binarization; kept apart from --seed so that all runs share their test data."""
    validation: int | None = None
    """Training data set aside for validation. By default the data set's usual number."""

    prior: PriorName = "normal"
    """p(z): normal is N(0, I); diagonal (learned scales), student-t, laplace, mixture (of learned
    normals), vamp (of posteriors of learned pseudo-inputs), exemplar (around codes of training
    data), flow, hierarchical (two layers)."""
    prior_components: Annotated[int | None, _named("prior.components")] = None
    """Components of a mixture, pseudo-inputs of vamp, exemplars."""
    prior_start: Annotated[Start | None, _named("prior.start")] = None
    """Where vamp's pseudo-inputs start: data or random."""
    prior_transforms: Annotated[int | None, _named("prior.transforms")] = None
    """Transforms of a flow."""
    prior_degrees_of_freedom: Annotated[float | None, _named("prior.degrees-of-freedom")] = None
    """Degrees of freedom of student-t."""
    prior_top: Annotated[int | None, _named("prior.top")] = None
    """Latent dimensions of the top layer of hierarchical."""
    likelihood: LikelihoodName = "bernoulli"
    """p(x|z): bernoulli (0/1 data), continuous-bernoulli ([0, 1]), normal, laplace and student-t
    (real values), discretized-logistic and logistic-mixture (256 gray levels), categorical
    (classes), binomial, poisson and negative-binomial (counts)."""
    likelihood_scale: Annotated[float | ScaleOf | None, _named("likelihood.scale")] = None
    """Scale of normal, laplace and student-t: a number, shared (one, learned), value (one for each
    value of x, learned) or network (depends on z)."""
    likelihood_dispersion: Annotated[float | ScaleOf | None, _named("likelihood.dispersion")] = None
    """Dispersion of negative-binomial, likewise."""
    likelihood_degrees_of_freedom: Annotated[
        float | Literal["learned"] | None, _named("likelihood.degrees-of-freedom")
    ] = None
    """Degrees of freedom of student-t: a number, or learned."""
    likelihood_floor: Annotated[float | None, _named("likelihood.floor")] = None
    """Least value of a learned scale, in units of x."""
    likelihood_components: Annotated[int | None, _named("likelihood.components")] = None
    """Components of logistic-mixture."""
    likelihood_levels: Annotated[int | None, _named("likelihood.levels")] = None
    """Gray levels of the logistics, classes of categorical."""
    likelihood_count: Annotated[int | None, _named("likelihood.count")] = None
    """Trials of binomial."""
    posterior: PosteriorName = "normal"
    """q(z|x): normal (diagonal), full (full covariance), low-rank, flow (inverse autoregressive),
    hierarchical (two layers)."""
    posterior_rank: Annotated[int | None, _named("posterior.rank")] = None
    """Rank of low-rank."""
    posterior_transforms: Annotated[int | None, _named("posterior.transforms")] = None
    """Transforms of a flow."""
    posterior_top: Annotated[int | None, _named("posterior.top")] = None
    """Latent dimensions of the top layer of hierarchical."""
    latent_dim: int = 16
    """Number of latent dimensions."""
    program: ProgramName = "vae"
    """One layer of latents (vae), or two: bottom-up (as Burda et al.) or top-down (as Tomczak and
    Welling); of data given their label (conditional), or with labels known for some of them
    (semi-supervised)."""
    top_dim: int | None = None
    """Dimensions of the top layer of two; by default half of --latent-dim."""
    classes: int | None = None
    """Number of classes of the labels; by default as many as the training data have."""
    labels: int | None = None
    """Training data that keep their label, as many of each class (semi-supervised). By default
    all."""
    learned_prior: tyro.conf.FlagCreatePairsOff[bool] = False
    """Learn a normal p(z|c) with a network of its own, in place of --prior (conditional)."""
    classification_weight: float = 10.0
    """Weight of the classification term of labelled data (semi-supervised)."""
    network: NetworkName = "mlp"
    """Encoder and decoder: mlp, gated (multiplicative gates), conv or residual (for images)."""
    hidden: tuple[int, ...] | None = None
    """Widths of the encoder's hidden layers (channels of conv and residual); the decoder has them
    in reverse. By default the network's own."""
    activation: Activation | None = None
    """Nonlinearity of the networks. By default the network's own."""

    objective: ObjectiveName = "elbo"
    """What is maximized: elbo, or with --particles iwae (importance-weighted) or renyi."""
    gradient: Gradient = "reparameterized"
    """Gradient estimator of the guide: reparameterized, stl (sticking the landing) or dreg (doubly
    reparameterized, for iwae and renyi)."""
    alpha: float | None = None
    """Order of renyi: 0 is iwae, 1 the ELBO."""
    free_bits: float = 0.0
    """Nats of KL that each latent dimension has for free."""
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
    """Epochs over which the weight of the KL term rises from exactly 0 to exactly --beta."""
    kl_cycles: int = 1
    """How often it rises in that time: once, linearly; or in so many cycles, each of which rises
    over its first half and stays over its second."""
    beta: float = 1.0
    """Weight of the KL term after the warm-up; the logged ELBO has weight 1."""
    particles: int = 1
    """Draws of z per datum and step."""
    patience: int | None = None
    """Stop after so many epochs without a better validation ELBO, and restore the best."""
    compiled: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compile the step first: worth its seconds in long runs."""
    precision: Precision = "float32"
    """Precision of matrix products in training, if compiled: float32 or bfloat16."""
    seed: int = 0
    """Seed of initialization, data order and training noise."""

    def __post_init__(self) -> None:
        if isinstance(self.hidden, list):
            object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.precision != "float32" and not self.compiled:
            raise ValueError("precision is of a compiled step; add --compiled (compiled=True).")
        if self.kl_cycles > 1 and self.kl_warmup == 0:
            raise ValueError("kl_cycles are within the warm-up; set kl_warmup to its epochs.")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive; got {self.learning_rate}.")
        for name in ("free_bits", "beta", "classification_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        if any(width < 1 for width in self.hidden or ()):
            raise ValueError(f"hidden widths must be at least 1; got {self.hidden}.")

    def options(self, part: str) -> dict[str, Any]:
        """Return the options of a part that were set, by the names of its constructor.

        Args:
            part: ``"prior"``, ``"likelihood"`` or ``"posterior"``.
        """
        prefix = f"{part}_"
        return {
            field.name.removeprefix(prefix): getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name.startswith(prefix) and getattr(self, field.name) is not None
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


def parse_setting(name: str, text: str) -> Any:
    """Read the value of one field of the config from text.

    Raises:
        ValueError: an unknown field, or text that is none of its values.
    """
    hints = get_type_hints(Config)
    if name not in hints:
        raise ValueError(f"no setting {name!r}.{suggestion(name, hints)}")
    candidates: list[Any] = [text]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            candidates.append(kind(text))
    candidates += {"true": [True], "false": [False]}.get(text.lower(), [])
    with contextlib.suppress(ValueError):
        candidates.append(tuple(int(width) for width in text.split(",")))
    for value in candidates:
        if _fits(value, hints[name]):
            return value
    raise ValueError(f"{name} cannot be {text!r}.")


_AT_LEAST = {
    "validation": 0,
    "prior_components": 1,
    "prior_transforms": 1,
    "prior_top": 1,
    "likelihood_components": 1,
    "likelihood_levels": 2,
    "likelihood_count": 1,
    "posterior_rank": 1,
    "posterior_transforms": 1,
    "posterior_top": 1,
    "latent_dim": 1,
    "top_dim": 1,
    "classes": 1,
    "labels": 1,
    "epochs": 1,
    "batch_size": 1,
    "kl_warmup": 0,
    "kl_cycles": 1,
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
