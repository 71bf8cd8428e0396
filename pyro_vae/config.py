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
from .common.plain import fits
from .common.registry import suggestion
from .common.schema import Schema, parse_columns
from .common.settings import TrainingSettings

__all__ = ["Config", "ModelSettings", "parse_grid", "parse_setting"]

_COUNT = at_least(1)


def _named(name: str) -> Any:
    return tyro.conf.arg(name=name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What is trained: data, model and objective."""

    data: str = "digits"
    """Data set: digits, mnist, fashion-mnist, or the path of a .npy or .npz file, of a table,
    .csv or .parquet, or of a folder of pictures (folders in it are classes)."""
    layout: Layout | None = None
    """Where the channels of pictures in a file are: channels-first, (N, C, H, W), or channels-last,
    (N, H, W, C). By default found from the shape."""
    columns: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME=LIKELIHOOD [...]")] = (
        None
    )
    """Columns of a table whose likelihood is not to be chosen from their values: normal, student-t,
    laplace, poisson, negative-binomial, categorical, bernoulli, beta and truncated-normal (with
    bounds: share=beta:0:100), or ignore."""
    binarize: Binarize | None = None
    """How gray pixels become 0/1: dynamic (drawn anew every epoch; validation and test drawn once),
    static or threshold; or stay gray: in [0, 1] (gray), with noise that makes them continuous
    (dequantized), or unchanged (none). By default dynamic for the named data sets, none for
    files, gray for pictures."""
    data_seed: int = 0
    """Seed of the binarization and of the choice of --labels; kept apart from --seed so that all
    runs share their data."""
    validation: Annotated[int | None, at_least(0)] = None
    """Training data set aside for validation. By default the data set's usual number."""

    prior: PriorName = "normal"
    """p(z): normal is N(0, I); diagonal (learned scales), student-t, laplace, mixture (of learned
    normals), vamp (of posteriors of learned pseudo-inputs), exemplar (around codes of training
    data), flow, hierarchical (two layers)."""
    prior_components: Annotated[int | None, _named("prior.components"), _COUNT] = None
    """Components of a mixture, pseudo-inputs of vamp, exemplars."""
    prior_start: Annotated[Start | None, _named("prior.start")] = None
    """Where vamp's pseudo-inputs start: data or random."""
    prior_transforms: Annotated[int | None, _named("prior.transforms"), _COUNT] = None
    """Transforms of a flow."""
    prior_degrees_of_freedom: Annotated[float | None, _named("prior.degrees-of-freedom")] = None
    """Degrees of freedom of student-t."""
    prior_top: Annotated[int | None, _named("prior.top"), _COUNT] = None
    """Latent dimensions of the top layer of hierarchical."""
    likelihood: LikelihoodName = "bernoulli"
    """p(x|z): bernoulli (0/1 data), continuous-bernoulli ([0, 1]), normal, laplace and student-t
    (real values), discretized-logistic and logistic-mixture (256 gray levels), pixel-mixture
    (colour pictures), categorical (classes), binomial, poisson and negative-binomial (counts),
    columns (tables: one for each column)."""
    likelihood_scale: Annotated[float | ScaleOf | None, _named("likelihood.scale")] = None
    """Scale of normal, laplace and student-t: a number, shared (one, learned), value (one for each
    value of x, learned) or network (depends on z)."""
    likelihood_dispersion: Annotated[float | ScaleOf | None, _named("likelihood.dispersion")] = None
    """Dispersion of negative-binomial, likewise."""
    likelihood_degrees_of_freedom: Annotated[
        float | Literal["learned", "value"] | None, _named("likelihood.degrees-of-freedom")
    ] = None
    """Degrees of freedom of student-t: a number, learned, or value (learned, one for each)."""
    likelihood_floor: Annotated[float | None, _named("likelihood.floor")] = None
    """Least value of a learned scale, in units of x."""
    likelihood_components: Annotated[int | None, _named("likelihood.components"), _COUNT] = None
    """Components of logistic-mixture and pixel-mixture."""
    likelihood_levels: Annotated[int | None, _named("likelihood.levels"), at_least(2)] = None
    """Gray levels of the logistics, classes of categorical."""
    likelihood_count: Annotated[int | None, _named("likelihood.count"), _COUNT] = None
    """Trials of binomial."""
    likelihood_schema: Annotated[Schema | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    """Columns of the table, their likelihoods, categories and units: filled in from the data."""
    posterior: PosteriorName = "normal"
    """q(z|x): normal (diagonal), full (full covariance), low-rank, flow (inverse autoregressive),
    hierarchical (two layers)."""
    posterior_rank: Annotated[int | None, _named("posterior.rank"), _COUNT] = None
    """Rank of low-rank."""
    posterior_transforms: Annotated[int | None, _named("posterior.transforms"), _COUNT] = None
    """Transforms of a flow."""
    posterior_top: Annotated[int | None, _named("posterior.top"), _COUNT] = None
    """Latent dimensions of the top layer of hierarchical."""
    latent_dim: Annotated[int, _COUNT] = 16
    """Number of latent dimensions."""
    program: ProgramName = "vae"
    """One layer of latents (vae), or two: bottom-up (Burda et al.) or top-down (Tomczak and
    Welling); or a model of data given their labels (conditional), or with labels known for some
    (semi-supervised)."""
    top_dim: Annotated[int | None, _COUNT, Of("program", "bottom-up", "top-down")] = None
    """Dimensions of the upper of two layers; by default half of --latent-dim."""
    classes: Annotated[int | None, _COUNT, Of("program", "conditional", "semi-supervised")] = None
    """Number of classes of the labels; by default as many as the training data have."""
    labels: Annotated[int | None, _COUNT, Of("program", "semi-supervised")] = None
    """Training data that keep their labels, equally many per class (semi-supervised). By default
    all."""
    learned_prior: Annotated[bool, Of("program", "conditional")] = False
    """Learn a normal p(z|c) with a network of its own, in place of --prior (conditional)."""
    classification_weight: Annotated[float, NOT_NEGATIVE, Of("program", "semi-supervised")] = 10.0
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
    alpha: Annotated[float | None, Of("objective", "renyi")] = None
    """Order of renyi: 0 is iwae, 1 the ELBO."""
    free_bits: Annotated[float, NOT_NEGATIVE, Of("objective", "elbo")] = 0.0
    """Nats of KL that each latent dimension has for free."""
    kl: Annotated[KL, Of("objective", "elbo")] = "sampled"
    """KL term of the ELBO: sampled, or analytic where Pyro has it in closed form."""
    particles: Annotated[int, _COUNT] = 1
    """Draws of z per datum and step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TrainingSettings, ModelSettings):
    """A run: its data, model and training. Equal configs give equal runs."""

    def __post_init__(self) -> None:
        for name in ("hidden", "columns"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        parse_columns(self.columns or ())
        super().__post_init__()
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
