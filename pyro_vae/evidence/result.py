"""Results: log p(x) per datum with its diagnostics, and the mean over a data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import torch
from torch import Tensor

from ..common.files import read_json, write_json
from ..common.options import Method, Precision
from ..common.plain import fits
from .arviz import elpd_data
from .diagnostics import error_of_mean
from .doubts import doubts_of

__all__ = ["COLUMNS", "METHODS", "Estimate", "Evidence", "Search"]

METHODS = ("guide", "refined", "laplace", "annealed", "modes", "bridge")
"""Proposals; their numbers are those in ``Evidence.rung``."""


@dataclass(frozen=True)
class Estimate:
    """Mean of log p(x) over a data set, with its two errors apart.

    Attributes:
        value: mean of the bias-corrected log p(x), in ``unit`` per datum.
        mc_error: Monte-Carlo error, from the finite number of samples for each datum; more samples
            shrink it. What the correction of the bias leaves open is part of it.
        sampling_error: error as an estimate of the population's mean, from the finite number of
            data; more data shrink it.
        bias: the bias that was taken out: mean of the plain log p̂ (the literature's "IWAE bound")
            minus ``value``; in nats mostly negative.
        unit: ``"nats"`` or ``"bits/dim"``.
    """

    value: float
    mc_error: float
    sampling_error: float
    bias: float
    unit: str = "nats"

    def __str__(self) -> str:
        digits = 2 if self.unit == "nats" else 4
        errors = [f"Monte-Carlo error {self.mc_error:.{digits + 1}f}"]
        if not math.isnan(self.sampling_error):
            errors.append(f"sampling error {self.sampling_error:.{digits}f}")
        return f"{self.value:.{digits}f} {self.unit} ({', '.join(errors)})"


@dataclass(frozen=True)
class Search:
    """What a search for posterior mass that the proposal misses has found.

    Diagnostics of the weights cannot see a mode that no draw has met. So some of the work goes into
    posterior draws that know nothing of the proposal: on data simulated from the model the latents
    that they were simulated from, on the given data the ends of annealed chains started at the
    prior. A draw counts as missed where its weight is more than 400 times the largest of all
    draws of the proposal, which a sound proposal makes all but impossible; or, of annealed chains,
    where three or more each have more than the largest weight and a tenth of the sum of all.

    Attributes:
        simulated: data simulated from the model that were looked at.
        simulated_missed: those whose latents the proposal misses.
        annealed: given data that were annealed from the prior.
        annealed_missed: those with posterior mass that the proposal misses.
        shortfall: how much log p(x) lacks by what was found, in nats on average; an estimate from
            few data, and there may be more.
        skipped: why nothing could be looked for, if so.
    """

    simulated: int = 0
    simulated_missed: int = 0
    annealed: int = 0
    annealed_missed: int = 0
    shortfall: float = 0.0
    skipped: str = ""

    @property
    def done(self) -> bool:
        """Whether anything was looked for, or at least tried to."""
        return bool(self.simulated or self.annealed or self.skipped)

    @property
    def found(self) -> bool:
        """Whether posterior mass was found that the proposal misses."""
        return self.simulated_missed + self.annealed_missed > 0

    def __str__(self) -> str:
        parts = []
        if self.simulated:
            parts.append(f"{self.simulated_missed} of {self.simulated} simulated data")
        if self.annealed:
            parts.append(f"{self.annealed_missed} of {self.annealed} data annealed from the prior")
        if not parts:
            return f"not looked for ({self.skipped})" if self.skipped else "not looked for"
        return " and ".join(parts)


@dataclass(frozen=True, eq=False)
class Evidence:
    """log p(x) of each datum by importance sampling, in nats, on the CPU in float64.

    Attributes:
        log_px: plain estimate of log p(x), shape ``(N,)``, with a bias of order 1/K, low where all
            draws are the guide's. No bound of a single log p(x).
        standard_error: delta-method standard error of ``log_px``; to trust where ``verdicts()``
            says so.
        ess: effective sample size, between 1 and ``samples``.
        pareto_k: Pareto k̂ of the weights' tail; NaN where undefined (no spread, few samples).
        jackknife: log p(x) without its bias of order 1/K: the jackknife's, or the delta method's
            where draws of the prior are mixed in; not a bound.
        elbo: ELBO of the guide for each datum; where another proposal was asked for by name, its
            own (the mean of its log weights).
        draws: importance samples of each datum.
        rung: number of the proposal used, in ``METHODS``: guide, refined, laplace, annealed, modes;
            or bridge sampling.
        edge: share of the weight that lies on draws at the edge of a latent's support, where
            floating-point numbers end before the support does.
        samples: importance samples K for each datum.
        seed: seed of the draws.
        event_size: number of values in one datum, D.
        data_sha256: hash of the evaluated data.
        model_sha256: hash of the parameters of the run that was evaluated; empty if it was none.
        data: description of the data, their binarization and its seed, where known.
        seconds: time taken.
        method: the method asked for: a rung of the ladder, or ``"auto"``.
        precision: of matrix products.
        precision_bias: what reduced precision adds to mean log p(x), measured on the first data
            against float32 with the same draws; 0 for float32.
        precision_bias_error: standard error of that.
        precision_noise: standard deviation of what it adds to the log p(x) of a datum, which is
            part of ``standard_error``.
        search: what a search for posterior mass that the proposal misses has found.
        data_set: number of data whose log density is estimated at once, since latents of the model
            belong to all of them: then there is one value, log p(x_1, ..., x_N). 0 where each datum
            has its own.
    """

    log_px: Annotated[Tensor, "log p(x), importance-sampled", "nats"]
    standard_error: Annotated[Tensor, "Monte-Carlo standard error of log_px", "nats"]
    ess: Annotated[Tensor, "effective sample size of the importance weights", "samples"]
    pareto_k: Annotated[Tensor, "Pareto k-hat of the weights' tail", "1"]
    jackknife: Annotated[Tensor, "bias-corrected log p(x)", "nats"]
    elbo: Annotated[Tensor, "ELBO of the proposal", "nats"]
    draws: Annotated[Tensor, "importance samples taken", "samples"]
    rung: Annotated[Tensor, "proposal used", "1"]
    samples: int
    seed: int
    event_size: int
    data_sha256: str
    data: str = ""
    seconds: float = math.nan
    method: Method | Literal["bridge"] = "guide"
    precision: Precision = "float32"
    precision_bias: float = 0.0
    precision_bias_error: float = 0.0
    precision_noise: float = 0.0
    search: Search = field(default_factory=Search)
    data_set: int = 0
    model_sha256: str = ""
    edge: Annotated[Tensor | None, "weight of draws on the edge of the support", "1"] = None

    def __post_init__(self) -> None:
        if self.edge is None:
            object.__setattr__(self, "edge", torch.zeros_like(self.log_px))

    def __len__(self) -> int:
        return len(self.log_px)

    def corrected(self) -> Tensor:
        """Return log p(x) of each datum without its bias of order 1/K, shape ``(N,)``; no bound.

        ``log_px`` itself where the correction has no number (a single draw or weight).
        """
        return torch.where(self.jackknife.isfinite(), self.jackknife, self.log_px)

    def mean(self) -> Estimate:
        r"""Mean log p(x) in nats, of the bias-corrected values.

        Its Monte-Carlo error is :math:`\sqrt{\sum_n SE_n^2 / N^2 + r^2}`, with r the difference
        between two corrections of the bias, ``jackknife`` and the delta method's
        :math:`SE^2 / 2`: what is left of it is of that order. Its sampling error is
        :math:`sd_n / \sqrt N`.
        """
        n, corrected = len(self), self.corrected()
        value = corrected.mean().item()
        spread = math.sqrt(self.standard_error.square().sum().item()) / n
        return Estimate(
            value=value,
            mc_error=math.hypot(spread, self.bias_left()),
            sampling_error=error_of_mean(corrected),
            bias=self.log_px.mean().item() - value if math.isfinite(value) else math.nan,
        )

    def bias_left(self) -> float:
        """Return how far two corrections of the mean's bias are apart, in nats."""
        corrected = self.corrected()
        left = (corrected - self.log_px - self.standard_error.square() / 2)[
            corrected != self.log_px
        ].sum()
        return left.abs().item() / len(self) if left.isfinite() else 0.0

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
        """Return :meth:`mean`, by the name under which users of earlier versions know it."""
        return self.mean()

    def doubts(self) -> dict[str, Tensor]:
        """Which data are to doubt, by reason (those of ``DOUBTS``); bool, each ``(N,)``."""
        found = doubts_of({name: getattr(self, name) for name in COLUMNS})
        return found | {"missed": torch.full((len(self),), self.search.found)}

    def unreliable(self) -> Tensor:
        """Which data are to doubt for any reason; shape ``(N,)``, bool."""
        return torch.stack([*self.doubts().values()]).any(0)

    def share_unreliable(self) -> float:
        """Share of the data that are to doubt for any reason."""
        return self.unreliable().double().mean().item()

    def verdicts(self) -> list[str]:
        """Return for each datum ``"trusted"``, or ``"doubtful: "`` and why."""
        why: list[list[str]] = [[] for _ in range(len(self))]
        for reason, which in self.doubts().items():
            for n in which.nonzero().flatten().tolist():
                why[n].append(reason)
        return [f"doubtful: {', '.join(reasons)}" if reasons else "trusted" for reasons in why]

    @property
    def verdict(self) -> str:
        """``"trusted"``, or ``"doubtful: "`` with the reasons and how many data they concern."""
        reasons = [
            f"{name} ({int(which.sum())} of {len(self)} data)"
            for name, which in self.doubts().items()
            if which.any()
        ]
        return f"doubtful: {', '.join(reasons)}" if reasons else "trusted"

    def to_elpd(self, *, relative_to: Evidence | None = None) -> Any:
        """Return the result as ArviZ's ``ELPDData``, see :func:`~.arviz.elpd_data`.

        Those of ``relative_to`` are subtracted, so that nothing vanishes below -700 nats.
        """
        if not isinstance(relative_to, Evidence | None):
            raise TypeError(
                "relative_to must be a result on the same data, as of log_evidence; got "
                f"{type(relative_to).__name__}."
            )
        own, *base = ((e.corrected(), e.data_sha256) for e in (self, relative_to) if e is not None)
        return elpd_data(own, self.pareto_k, self.samples, self.unreliable(), *base)

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
            "log_px_uncorrected": self.log_px.mean().item(),
            "bits_per_dim": bits.value,
            "elbo": self.elbo.mean().item(),
            "median_ess": self.ess.median().item(),
            "share_unreliable": self.share_unreliable(),
            "verdict": self.verdict,
            "proposals": self.rungs(),
            "number_of_data": len(self),
            **self._settings(),
        }

    def __str__(self) -> str:
        mean, bits = self.mean(), self.bits_per_dim()
        each = "nats per datum"
        if self.data_set:
            each = f"nats, of the whole data set ({self.data_set} data at once)"
        rows = {
            "log p(x)": f"{mean.value:.3f} {each} ({bits.value:.4f} bits/dim)",
            "  Monte-Carlo error": f"{mean.mc_error:.3f}",
            "  sampling error": f"{mean.sampling_error:.3f}",
            "  uncorrected": f"{self.log_px.mean():.3f} (bias {mean.bias:+.3f})",
            "ELBO": f"{self.elbo.mean():.3f}",
            "effective sample size": f"median {self.ess.median():.1f} of {self.samples}",
            "verdict": self.verdict,
            "mass missed": str(self.search),
            "data": f"{self.data_set or len(self)} ({self._named_data()})",
            "method": f"{self.method}, K = {self.samples}, seed {self.seed}",
            "proposals": ", ".join(f"{name} {count}" for name, count in self.rungs().items()),
        }
        if self.precision != "float32":
            rows["precision"] = (
                f"{self.precision} products, which add {self.precision_bias:+.4f} ± "
                f"{self.precision_bias_error:.4f} nats to log p(x)"
            )
        if math.isnan(mean.sampling_error):
            del rows["  sampling error"]
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())

    def _named_data(self) -> str:
        return self.data or f"sha256 {self.data_sha256[:12]}"

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
            content = read_json(path)
            names = {f.name for f in fields(cls)}
            content.setdefault("edge", [0.0] * len(content["log_px"]))  # of before it was measured
            for name in COLUMNS:
                values = [float(value) for value in content[name]]
                content[name] = torch.tensor(values, dtype=torch.float64)
            content["search"] = Search(**content.get("search", {}))
            if content["seconds"] is None:
                content["seconds"] = math.nan
            content = {name: value for name, value in content.items() if name in names}
            _check_fields(content)
            return cls(**content)
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise ValueError(
                f"{path} is not a result of log_evidence: {error}. Run the evaluation again."
            ) from error

    def _settings(self) -> dict[str, Any]:
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in COLUMNS}
        return settings | {"search": asdict(self.search)}


def _check_fields(content: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` for fields of another type, or columns of different lengths."""
    hints = get_type_hints(Evidence)
    wrong = [name for name, value in content.items() if not fits(value, hints[name])]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} cannot be {content[wrong[0]]!r}")
    if len({len(content[name]) for name in COLUMNS}) > 1:
        raise ValueError("its columns have different lengths")


COLUMNS = {
    name: dict(zip(("long_name", "units"), hint.__metadata__, strict=True))
    for name, hint in get_type_hints(Evidence, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}
"""Fields of ``Evidence`` with one value for each datum, with their names in words and units."""
