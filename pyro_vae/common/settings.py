"""Settings of training and evaluation: their values, rules and help texts in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from .options import (
    NOT_NEGATIVE,
    POSITIVE,
    Latents,
    Method,
    Precision,
    Schedule,
    WarmupUnit,
    at_least,
    check_values,
)

__all__ = [
    "CertificateSettings",
    "CheckSettings",
    "EncodingSettings",
    "EvaluationSettings",
    "ReconstructionSettings",
    "Sampling",
    "TrainingSettings",
    "otherwise",
]


def otherwise(words: str) -> Any:
    """What an option without a value of its own is, in words."""
    return tyro.conf.arg(help_behavior_hint=words)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a model is trained; equal settings give equal runs."""

    epochs: Annotated[int, at_least(1)] = 100
    """Passes over the training data."""
    batch_size: Annotated[int, at_least(1)] = 100
    """Data per gradient step."""
    learning_rate: Annotated[float, POSITIVE] = 1e-3
    """Step size of Adam; the peak of the schedule."""
    schedule: Schedule = "constant"
    """Learning rate over the run."""
    kl_warmup: Annotated[int, at_least(0)] = 0
    """Length of the warm-up, over which the weight of the KL term rises from exactly 0 to exactly
    --beta."""
    kl_warmup_unit: WarmupUnit = "epochs"
    """Unit of --kl-warmup: epochs, or gradient steps."""
    kl_cycles: Annotated[int, at_least(1)] = 1
    """Cycles in the warm-up: one rises linearly; of several, each rises over its first half."""
    beta: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the KL term after the warm-up; the logged ELBO has weight 1."""
    patience: Annotated[int | None, otherwise("none"), at_least(1)] = None
    """Epochs without a better validation ELBO after which to stop, with the best parameters."""
    compiled: bool = False
    """Compile the training step first: pays off in long runs."""
    precision: Precision = "float32"
    """Precision of matrix products in training, if compiled."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed of initialization, data order and training noise."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.precision != "float32" and not self.compiled:
            raise ValueError("precision needs a compiled step: add compiled=True (--compiled).")
        if self.kl_cycles > 1 and self.kl_warmup == 0:
            raise ValueError("kl_cycles are within the warm-up; set kl_warmup to its length.")
        if self.kl_warmup_unit == "epochs":
            self.warmup_epochs(1)

    def warmup_epochs(self, steps_per_epoch: int) -> int:
        """Return the number of epochs that have a step within the warm-up.

        Raises:
            ValueError: patience, and no epoch after the warm-up.
        """
        steps = 1 if self.kl_warmup_unit == "epochs" else steps_per_epoch
        epochs = -(-self.kl_warmup // steps)
        if self.patience is not None and epochs >= self.epochs:
            raise ValueError(
                f"patience counts from the end of the KL warm-up, after {epochs} of "
                f"{self.epochs} epochs; shorten the warm-up, or leave patience out."
            )
        return epochs


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How log p(x) is sampled."""

    samples: Annotated[int, at_least(1)] = 1000
    """Importance samples K for each datum."""
    method: Method = "guide"
    """Proposal, a rung of the ladder guide (the literature's protocol), refined, laplace, modes
    (of several), annealed; or auto: as far up as each datum needs."""
    number: Annotated[int | None, otherwise("all"), at_least(1)] = None
    """Evaluate the first N data only."""
    search: bool = True
    """Look for posterior mass that the proposal misses, which takes a second or two."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Sampling):
    """How log p(x) of a run's test data is estimated."""

    seed: int = 0
    """Seed of the samples."""
    chunk: Annotated[int | None, otherwise("16 of 64 data; more on a GPU"), at_least(1)] = None
    """Samples evaluated at once; bounds the memory, changes no result."""
    compiled: bool = False
    """Compile log p(x, z) first: pays off from millions of samples on."""
    precision: Precision = "float32"
    """Precision of matrix products, if compiled: float32, or bfloat16 with its measured bias."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """How new data are reconstructed."""

    samples: Annotated[int, at_least(2)] = 100
    """Draws of the latents for each datum, of which averages are taken where there is no closed
    form."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, kw_only=True)
class EncodingSettings(ReconstructionSettings):
    """How new data are encoded."""

    draws: Annotated[int, at_least(0)] = 0
    """Draws to write for each datum, at most as many as samples."""


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """How a run is checked."""

    number: Annotated[int, tyro.conf.arg(metavar="N"), at_least(2)] = 500
    """Check with the first N test data only."""
    replicates: Annotated[int, at_least(20)] = 500
    """Data sets that the model makes, among which the test data should be an ordinary one."""
    latents: Latents = "posterior"
    """Latents of these: draws given each test datum, or of the prior."""
    simulations: Annotated[int, at_least(50)] = 500
    """Data simulated from the model, to see whether the encoder finds their latents."""
    method: Method = "auto"
    """Proposal for draws of the posterior: guide, refined, laplace, modes, annealed or auto."""
    samples: Annotated[int, at_least(100)] = 1000
    """Its draws for each datum, of which those of the posterior are resampled by their weights."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, kw_only=True)
class CertificateSettings:
    """How log p(x) is bounded from both sides on simulated data."""

    number: Annotated[int, tyro.conf.arg(metavar="N"), at_least(2)] = 100
    """Simulate N data from the model."""
    method: Method = "auto"
    """Proposal of the estimates that are held against the bounds: guide, refined, laplace, modes,
    annealed or auto."""
    samples: Annotated[int, at_least(1)] = 1000
    """Their importance samples K for each datum."""
    temperatures: Annotated[int, at_least(1)] = 50
    """Steps from the proposal to the posterior and back: more bring the bounds together."""
    chains: Annotated[int, at_least(2)] = 64
    """Annealed chains of each bound."""
    seed: int = 0
    """Seed of the simulated data and of all draws."""

    def __post_init__(self) -> None:
        check_values(self)
