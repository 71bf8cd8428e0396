"""Results: log p(x) per datum with its diagnostics, and the mean over a data set."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
from torch import Tensor

from ..common.files import write_json
from ..common.options import Method, Precision
from .diagnostics import pareto_k_threshold

__all__ = ["COLUMNS", "METHODS", "Estimate", "Evidence"]

METHODS: tuple[Method, ...] = ("guide", "refined", "laplace", "annealed")
"""Proposals from cheap to dear; their numbers are those in ``Evidence.rung``."""


@dataclass(frozen=True)
class Estimate:
    """Mean of log p(x) over a data set, with its two errors apart.

    Attributes:
        value: the mean, in ``unit`` per datum.
        mc_error: Monte-Carlo error, from the finite number of samples for each datum; more samples
            shrink it.
        sampling_error: error as an estimate of the population's mean, from the finite number of
            data; more data shrink it.
        bias: estimated bias of ``value`` (second order); negative, as log p is bounded from below.
        unit: ``"nats"`` or ``"bits/dim"``.
    """

    value: float
    mc_error: float
    sampling_error: float
    bias: float
    unit: str = "nats"

    def __str__(self) -> str:
        return (
            f"{self.value:.2f} {self.unit} (Monte-Carlo error {self.mc_error:.3f}, "
            f"sampling error {self.sampling_error:.2f})"
            if self.unit == "nats"
            else f"{self.value:.4f} {self.unit} (Monte-Carlo error {self.mc_error:.5f}, "
            f"sampling error {self.sampling_error:.4f})"
        )


@dataclass(frozen=True, eq=False)
class Evidence:
    """log p(x) of each datum by importance sampling, in nats, on the CPU in float64.

    Attributes:
        log_px: estimate of log p(x), shape ``(N,)``; its exponential is unbiased, it is itself
            biased low.
        standard_error: delta-method standard error of ``log_px``; to trust while k̂ < 0.7.
        ess: effective sample size, between 1 and ``samples``.
        pareto_k: Pareto k̂ of the weights' tail; NaN where undefined (no spread, few samples).
        jackknife: first-order bias-corrected log p(x); not a bound.
        elbo: ELBO of the guide for each datum; where another proposal was asked for by name, its
            own (the mean of its log weights).
        draws: importance samples of each datum.
        rung: number of the proposal used, in ``METHODS``: guide, refined, laplace, annealed.
        samples: importance samples K for each datum.
        seed: seed of the draws.
        event_size: number of values in one datum, D.
        data_sha256: hash of the evaluated data.
        data: description of the data, their binarization and its seed, where known.
        seconds: time taken.
        method: the method asked for: a rung of the ladder, or ``"auto"``.
        precision: of matrix products.
        precision_bias: what reduced precision adds to mean log p(x), measured on the first data
            against float32 with the same draws; 0 for float32.
        precision_bias_error: standard error of that.
    """

    log_px: Annotated[Tensor, "log p(x), importance-sampled", "nats"]
    standard_error: Annotated[Tensor, "Monte-Carlo standard error of log_px", "nats"]
    ess: Annotated[Tensor, "effective sample size of the importance weights", "samples"]
    pareto_k: Annotated[Tensor, "Pareto k-hat of the weights' tail", "1"]
    jackknife: Annotated[Tensor, "jackknife bias-corrected log p(x)", "nats"]
    elbo: Annotated[Tensor, "ELBO of the proposal", "nats"]
    draws: Annotated[Tensor, "importance samples taken", "samples"]
    rung: Annotated[Tensor, "proposal used", "1"]
    samples: int
    seed: int
    event_size: int
    data_sha256: str
    data: str = ""
    seconds: float = math.nan
    method: str = "guide"
    precision: Precision = "float32"
    precision_bias: float = 0.0
    precision_bias_error: float = 0.0

    def __len__(self) -> int:
        return len(self.log_px)

    def mean(self) -> Estimate:
        r"""Mean log p(x) in nats, with Monte-Carlo error :math:`\sqrt{\sum_n SE_n^2} / N` and
        sampling error :math:`sd_n / \sqrt N`; bias :math:`-\overline{SE^2} / 2`.
        """  # noqa: D205
        return self._mean_of(self.log_px)

    def bits_per_dim(self) -> Estimate:
        r"""Mean of :math:`-\log p(x) / (D \ln 2)`, in bits per dimension; lower is better."""
        nats, unit = self.mean(), self.event_size * math.log(2)
        return Estimate(
            value=-nats.value / unit,
            mc_error=nats.mc_error / unit,
            sampling_error=nats.sampling_error / unit,
            bias=-nats.bias / unit,
            unit="bits/dim",
        )

    def mean_jackknife(self) -> Estimate:
        """Mean of the bias-corrected values, in nats; errors as in :meth:`mean`, bias unknown."""
        corrected = self._mean_of(self.jackknife)
        return Estimate(
            corrected.value, corrected.mc_error, corrected.sampling_error, bias=math.nan
        )

    def share_unreliable(self) -> float:
        """Share of the data whose k̂ is above the threshold, so that errors are not to trust."""
        return self.unreliable().double().mean().item()

    def unreliable(self) -> Tensor:
        """Which data have k̂ above the threshold, or one weight for all; shape ``(N,)``, bool."""
        limits = {int(k): pareto_k_threshold(int(k)) for k in self.draws.unique()}
        heavy = self.pareto_k > torch.tensor([limits[int(k)] for k in self.draws]).double()
        # With few draws k̂ is undefined; one that outweighs all others shows all the same.
        return heavy | ((self.draws >= _FEW) & (self.ess < _ALONE))

    def rungs(self) -> dict[str, int]:
        """Number of data that each proposal served, by name."""
        counts = {name: int((self.rung == i).sum()) for i, name in enumerate(METHODS)}
        return {name: count for name, count in counts.items() if count}

    def summary(self) -> dict[str, Any]:
        """Settings and means as plain values, for a metrics file."""
        mean, bits = self.mean(), self.bits_per_dim()
        return {
            "log_px": mean.value,
            "mc_error": mean.mc_error,
            "sampling_error": mean.sampling_error,
            "bias_estimate": mean.bias,
            "log_px_jackknife": self.mean_jackknife().value,
            "bits_per_dim": bits.value,
            "elbo": self.elbo.mean().item(),
            "median_ess": self.ess.median().item(),
            "share_unreliable": self.share_unreliable(),
            "proposals": self.rungs(),
            "number_of_data": len(self),
            **self._settings(),
        }

    def __str__(self) -> str:
        mean, bits = self.mean(), self.bits_per_dim()
        rows = {
            "log p(x)": f"{mean.value:.3f} nats per datum ({bits.value:.4f} bits/dim)",
            "  Monte-Carlo error": f"{mean.mc_error:.3f}",
            "  sampling error": f"{mean.sampling_error:.3f}",
            "  estimated bias": f"{mean.bias:+.3f}",
            "  jackknife-corrected": f"{self.mean_jackknife().value:.3f}",
            "ELBO": f"{self.elbo.mean():.3f}",
            "effective sample size": f"median {self.ess.median():.1f} of {self.samples}",
            "Pareto k̂ too high": f"{self.share_unreliable():.1%} of the data"
            + ", undefined for fewer than 25 draws" * bool((self.draws < 25).any()),
            "data": f"{len(self)} ({self.data or 'sha256 ' + self.data_sha256[:12]})",
            "method": f"{self.method}, K = {self.samples}, seed {self.seed}",
            "proposals": ", ".join(f"{name} {count}" for name, count in self.rungs().items()),
        }
        if self.precision != "float32":
            rows["precision"] = (
                f"{self.precision} products, which add {self.precision_bias:+.4f} ± "
                f"{self.precision_bias_error:.4f} nats to log p(x)"
            )
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())

    def save(self, path: str | Path) -> Path:
        """Write the result as JSON, atomically; :meth:`load` reads it back to the same bits."""
        tensors = {name: getattr(self, name).tolist() for name in COLUMNS}
        for name in tensors:  # JSON has no words for these
            tensors[name] = [v if math.isfinite(v) else str(v) for v in tensors[name]]
        return write_json(path, {**self._settings(), **tensors})

    @classmethod
    def load(cls, path: str | Path) -> Evidence:
        """Read a result written by :meth:`save`.

        Raises:
            ValueError: the file is not one of ours.
        """
        try:
            content = json.loads(Path(path).read_text())
            names = {f.name for f in fields(cls)}
            for name in COLUMNS:
                values = [float(value) for value in content[name]]
                content[name] = torch.tensor(values, dtype=torch.float64)
            seconds = content.pop("seconds")
            return cls(
                seconds=math.nan if seconds is None else seconds,
                **{name: value for name, value in content.items() if name in names},
            )
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a result of log_evidence: {error}. Run the evaluation again."
            ) from error

    def _mean_of(self, values: Tensor) -> Estimate:
        n = len(values)
        squares = self.standard_error.square().sum().item()
        return Estimate(
            value=values.mean().item(),
            mc_error=math.sqrt(squares) / n,
            sampling_error=values.std().item() / math.sqrt(n) if n > 1 else math.nan,
            bias=-squares / n / 2,
        )

    def _settings(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in COLUMNS}


_FEW, _ALONE = 5, 1.2

COLUMNS = {
    name: dict(zip(("long_name", "units"), hint.__metadata__, strict=True))
    for name, hint in get_type_hints(Evidence, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}
"""Fields of ``Evidence`` with one value for each datum, with their names in words and units."""
