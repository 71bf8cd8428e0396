"""One frozen description of a run: data, model, training."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from .common.options import (
    KL,
    NOT_NEGATIVE,
    Activation,
    Binarize,
    Exposure,
    Gradient,
    Layout,
    LikelihoodName,
    NetworkName,
    ObjectiveName,
    Of,
    PosteriorName,
    PriorName,
    ProgramName,
    ScaleOf,
    Start,
    at_least,
)
from .common.plain import as_number, fits
from .common.registry import suggestion
from .common.schema import Schema, parse_columns
from .common.settings import TrainingSettings, otherwise

__all__ = [
    "Config",
    "DataSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "parse_grid",
    "parse_setting",
]

_COUNT = at_least(1)
_COMPONENTS = "mixture 20, vamp and exemplar 500"
_SCALE = "shared; columns value"
_FLOOR = "0.01; logistics 0.0005, negative-binomial 0.0001"
_HIDDEN = "mlp 200 200, gated 300 300, conv and residual 32 64"


def _named(name: str, otherwise: str) -> Any:
    """Name of an option of a part, and what it is if it is not given: by the part, in words."""
    return tyro.conf.arg(name=name, help_behavior_hint=otherwise)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What a model is trained on."""

    data: str = "digits"
    """Data set: digits, mnist, fashion-mnist, or the path of a .npy, .npz or .h5ad file, of a
    table, .csv or .parquet, or of a folder of pictures (folders in it are classes)."""
    layout: Annotated[Layout | None, otherwise("found from the shape")] = None
    """Where pictures in a file have channels: channels-first, (N, C, H, W), or channels-last."""
    columns: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME=LIKELIHOOD [...]")] = (
        None
    )
    """Columns of a table whose likelihood is not chosen from their values (or ignore);
    share=beta:0:100 has bounds."""
    binarize: Annotated[
        Binarize | None, otherwise("dynamic if named, none if a file, gray if pictures")
    ] = None
    """How gray pixels become 0/1: dynamic (anew every epoch), static or threshold; or stay gray: in
    [0, 1] (gray), with noise (dequantized), or unchanged (none)."""
    data_seed: int = 0
    """Seed of the binarization and of --labels, which runs of other --seed share."""
    validation: Annotated[int | None, otherwise("the data set's own"), at_least(0)] = None
    """Training data set aside for validation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The parts of a model and their options."""

    prior: PriorName = "normal"
    """p(z): normal is N(0, I); diagonal (learned scales), student-t, laplace, mixture (of learned
    normals), vamp (of posteriors of learned pseudo-inputs), exemplar (around codes of training
    data), flow, hierarchical (two layers)."""
    prior_components: Annotated[int | None, _named("prior.components", _COMPONENTS), _COUNT] = None
    """Components of a mixture, pseudo-inputs of vamp, exemplars."""
    prior_start: Annotated[Start | None, _named("prior.start", "data")] = None
    """Where vamp's pseudo-inputs start."""
    prior_transforms: Annotated[int | None, _named("prior.transforms", "3"), _COUNT] = None
    """Transforms of a flow."""
    prior_degrees_of_freedom: Annotated[float | None, _named("prior.degrees-of-freedom", "5")] = (
        None
    )
    """Degrees of freedom of student-t."""
    prior_top: Annotated[int | None, _named("prior.top", "half of --latent-dim"), _COUNT] = None
    """Latent dimensions of hierarchical's top layer."""
    likelihood: LikelihoodName = "bernoulli"
    """p(x|z): bernoulli (0/1 data), continuous-bernoulli ([0, 1]), normal, laplace and student-t
    (real values), discretized-logistic and logistic-mixture (256 gray levels), pixel-mixture
    (colour pictures), categorical (classes), binomial, poisson and negative-binomial (counts),
    zero-inflated-poisson and zero-inflated-negative-binomial (counts with more zeros), columns
    (tables: one for each column)."""
    likelihood_scale: Annotated[float | ScaleOf | None, _named("likelihood.scale", _SCALE)] = None
    """Scale of normal, laplace and student-t: a number, shared (one, learned), value (one for each
    value of x, learned) or network (depends on z)."""
    likelihood_dispersion: Annotated[
        float | ScaleOf | None, _named("likelihood.dispersion", "shared")
    ] = None
    """Dispersion of negative-binomial and its zero-inflated form, likewise."""
    likelihood_gate: Annotated[float | ScaleOf | None, _named("likelihood.gate", "shared")] = None
    """Probability of another zero, of the zero-inflated ones, likewise."""
    likelihood_degrees_of_freedom: Annotated[
        float | Literal["learned", "value"] | None,
        _named("likelihood.degrees-of-freedom", "learned"),
    ] = None
    """Degrees of freedom of student-t: a number, learned, or value (learned, one for each)."""
    likelihood_floor: Annotated[float | None, _named("likelihood.floor", _FLOOR)] = None
    """Least value of a learned scale."""
    likelihood_components: Annotated[int | None, _named("likelihood.components", "5"), _COUNT] = (
        None
    )
    """Components of logistic-mixture and pixel-mixture."""
    likelihood_levels: Annotated[int | None, _named("likelihood.levels", "256"), at_least(2)] = None
    """Gray levels of the logistics, classes of categorical."""
    likelihood_count: Annotated[int | None, _named("likelihood.count", "255"), _COUNT] = None
    """Trials of binomial."""
    likelihood_schema: Annotated[Schema | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    """Columns of the table, their likelihoods, categories and units: filled in from the data."""
    posterior: PosteriorName = "normal"
    """q(z|x): normal (diagonal), full (full covariance), low-rank, flow (inverse autoregressive),
    hierarchical (two layers)."""
    posterior_rank: Annotated[int | None, _named("posterior.rank", "2"), _COUNT] = None
    """Rank of low-rank."""
    posterior_transforms: Annotated[int | None, _named("posterior.transforms", "2"), _COUNT] = None
    """Transforms of a flow."""
    posterior_top: Annotated[
        int | None, _named("posterior.top", "half of --latent-dim"), _COUNT
    ] = None
    """Latent dimensions of hierarchical's top layer."""
    latent_dim: Annotated[int, _COUNT] = 16
    """Number of latent dimensions."""
    program: ProgramName = "vae"
    """One layer of latents (vae), or two: bottom-up (Burda et al.) or top-down (Tomczak and
    Welling); or a model of data given their labels (conditional), or with labels known for some
    (semi-supervised), or of counts given their exposure (counts)."""
    top_dim: Annotated[
        int | None,
        otherwise("half of --latent-dim"),
        _COUNT,
        Of("program", "bottom-up", "top-down"),
    ] = None
    """Dimensions of the upper of two layers."""
    classes: Annotated[
        int | None,
        otherwise("those of the data"),
        _COUNT,
        Of("program", "conditional", "semi-supervised"),
    ] = None
    """Number of classes of the labels."""
    class_names: Annotated[tuple[str, ...] | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    """Names of the classes by number, by which those of other data are found: from the data."""
    labels: Annotated[int | None, otherwise("all"), _COUNT, Of("program", "semi-supervised")] = None
    """Training data that keep their labels, equally many per class (semi-supervised)."""
    exposure: Annotated[Exposure, Of("program", "counts")] = "file"
    """What scales the rates of a datum (counts): the file's, library (its sum), or none (1)."""
    learned_prior: Annotated[bool, Of("program", "conditional")] = False
    """Learn a normal p(z|c) with a network of its own, in place of --prior (conditional)."""
    classification_weight: Annotated[float, NOT_NEGATIVE, Of("program", "semi-supervised")] = 10.0
    """Weight of the classification of labelled data (semi-supervised)."""
    network: NetworkName = "mlp"
    """Encoder and decoder: gated has multiplicative gates, conv and residual are for images."""
    hidden: Annotated[tuple[int, ...] | None, otherwise(_HIDDEN)] = None
    """Widths of the encoder's hidden layers (channels of conv and residual), reversed in the
    decoder."""
    activation: Annotated[Activation | None, otherwise("mlp tanh, conv gelu")] = None
    """Nonlinearity of the networks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What is maximized, and how its gradient is estimated."""

    objective: ObjectiveName = "elbo"
    """What is maximized; with --particles iwae (importance-weighted) or renyi."""
    gradient: Gradient = "reparameterized"
    """Estimator of the gradient: stl is sticking the landing, dreg doubly reparameterized (for iwae
    and renyi)."""
    alpha: Annotated[float | None, otherwise("0.5"), Of("objective", "renyi")] = None
    """Order of renyi: 0 is iwae, 1 the ELBO."""
    free_bits: Annotated[float, NOT_NEGATIVE, Of("objective", "elbo")] = 0.0
    """Nats of KL that each latent dimension has for free."""
    kl: Annotated[KL, Of("objective", "elbo")] = "sampled"
    """KL term of the ELBO; analytic where Pyro has it in closed form."""
    particles: Annotated[int, _COUNT] = 1
    """Draws of z per datum and step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TrainingSettings, ObjectiveSettings, ModelSettings, DataSettings):
    """A run: its data, model and training. Equal configs give equal runs."""

    def __post_init__(self) -> None:
        for name in ("hidden", "columns", "class_names"):
            if isinstance(getattr(self, name), list | tuple):
                object.__setattr__(self, name, tuple(map(as_number, getattr(self, name))))
        parse_columns(self.columns or ())
        super().__post_init__()
        if self.hidden is not None and not isinstance(self.hidden, tuple):
            raise TypeError(f"hidden must be widths, such as (200, 200); got {self.hidden!r}.")
        if any(width < 1 for width in self.hidden or ()):
            raise ValueError(f"hidden widths must be at least 1; got {self.hidden}.")

    @property
    def training(self) -> TrainingSettings:
        """The settings of training alone."""
        names = (field.name for field in dataclasses.fields(TrainingSettings))
        return TrainingSettings(**{name: getattr(self, name) for name in names})

    def options(self, part: str) -> dict[str, Any]:
        """Return the options of a part that were set, by the names of its constructor.

        ``part`` is ``"prior"``, ``"likelihood"`` or ``"posterior"``.
        """
        prefix = f"{part}_"
        return {
            field.name.removeprefix(prefix): getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name.startswith(prefix) and getattr(self, field.name) is not None
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values, ready for JSON."""
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
            if name == "likelihood_schema" and isinstance(value, Mapping):
                value = Schema.from_dict(value)
            if not fits(value, hints[name]):
                raise ValueError(f"config field {name!r} cannot be {value!r}.")
            checked[name] = value
        return cls(**checked)


def parse_setting(name: str, text: str) -> Any:
    """Parse the value of one field of the config.

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
        if fits(value, hints[name]):
            return value
    raise ValueError(f"{name} cannot be {text!r}.")


def parse_grid(words: Sequence[str]) -> dict[str, list[Any]]:
    """Parse settings, each followed by its values, as ``prior normal vamp latent-dim 2 4``.

    A word that can be a value of the setting at hand is one; else it is the next setting.

    Raises:
        ValueError: an unknown setting, or a word that is neither.
    """
    names = get_type_hints(Config)
    grid: dict[str, list[Any]] = {}
    setting = ""
    for word in words:
        name = word.strip("-").replace("-", "_").replace(".", "_")
        try:
            grid[setting].append(parse_setting(setting, word))
        except (KeyError, ValueError):
            if grid and name not in names:
                raise
            if name not in names:
                parse_setting(name, "")  # says that there is none, and what is near
            if name in grid:
                raise ValueError(f"{word} is varied twice; give all its values at once.") from None
            setting = name
            grid[setting] = []
    return grid
