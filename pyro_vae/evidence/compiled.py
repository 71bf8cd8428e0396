"""A pair of Pyro programs whose draws and densities are compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..common.options import Precision
from ..compiled import HoistedFunction, attempt
from ..programs.modules import modules_of
from ..programs.pair import Pair, Values
from ..programs.traces import Batch

__all__ = ["CompiledPair"]


@dataclass(frozen=True)
class CompiledPair(Pair):
    """The same pair, with the guide's draws and log p(x, z) compiled.

    Each is compiled for the first numbers of samples and of data it is asked for. What a batch
    alone decides (the guide's moments) is computed once for many calls with the same tensors. Other
    numbers of draws, and of data, take the plain path; so does what is differentiated, and
    everything if the programs cannot be compiled, after one warning that says why. Random numbers
    are those of the plain path, and results the same up to rounding.

    Warns:
        PyroVAEWarning: the programs could not be compiled.
    """

    precision: Precision = "float32"
    functions: dict[str, _Function] = field(default_factory=dict)

    @classmethod
    def of(cls, pair: Pair, *, precision: Precision = "float32") -> CompiledPair:
        """Compile a pair that was inspected, with matrix products of this precision."""
        own = {item.name: getattr(pair, item.name) for item in fields(pair)}
        return cls(**own, precision=precision)

    def propose(self, batch: Batch, samples: int) -> tuple[Values, Tensor]:
        """Draw latents from the guide, as :meth:`Pair.propose` does."""
        run = self._function("propose", samples, lambda: _Draw(self, samples), [], batch)
        if run is None:
            return super().propose(batch, samples)
        log_q, *drawn = run()
        return dict(zip(self.latents, drawn, strict=True)), log_q

    def log_joint(self, batch: Batch, values: Values) -> Tensor:
        """Return log p(x, z) for given latents, as :meth:`Pair.log_joint` does."""
        return self.log_terms(batch, values)[1]

    def log_terms(self, batch: Batch, values: Values) -> tuple[Tensor, Tensor]:
        """Return log p(z) and log p(x, z) for given latents, as :meth:`Pair.log_terms` does."""
        given = [values[name] for name in self.latents]
        samples = number = len(given[0])
        if "log_terms" in self.functions and samples < self.functions["log_terms"].samples:
            number = self.functions["log_terms"].samples
            given = [torch.cat([v, v[-1:].expand(number - samples, *v.shape[1:])]) for v in given]
        run = self._function("log_terms", number, lambda: _Terms(self), given, batch)
        if run is None:
            return super().log_terms(batch, values)
        log_prior, log_joint = run(*given)
        return log_prior[:samples], log_joint[:samples]

    def _function(
        self,
        name: str,
        samples: int,
        module: Callable[[], nn.Module],
        given: list[Tensor],
        batch: Batch,
    ) -> Callable[..., Any] | None:
        """Compiled function of the given tensors for this batch, if there is one."""
        if torch.is_grad_enabled():
            return None
        if name not in self.functions:
            self.functions[name] = _Function(samples, module(), given, batch, self.precision)
        function = self.functions[name]
        shapes = [tensor.shape for tensor in (*given, *batch)]
        if (function.samples, function.shapes) != (samples, shapes):
            return None
        return function.of(batch)


class _Function:
    """A compiled function, tried once.

    Args:
        samples: the number that it is compiled for.
        module: its call is to be compiled.
        given: arguments to try it with that change from call to call;
        batch: those that stay for many calls.
        precision: of matrix products.
    """

    def __init__(
        self,
        samples: int,
        module: nn.Module,
        given: list[Tensor],
        batch: Batch,
        precision: Precision,
    ) -> None:
        self.samples = samples
        self.shapes = [tensor.shape for tensor in (*given, *batch)]
        self.batch: Batch | None = None
        self.prepared: list[Tensor] = []

        def build() -> HoistedFunction:
            function = HoistedFunction(module, moving=(*given,), fixed=batch, precision=precision)
            function(function.prepare(*batch), *given)
            return function

        self.compiled = attempt(build, what="evaluation")

    def of(self, batch: Batch) -> Callable[..., Any] | None:
        """Return the function for a batch, which is prepared once."""
        if self.compiled is None:
            return None
        if self.batch is None or any(a is not b for a, b in zip(batch, self.batch, strict=True)):
            self.batch, self.prepared = batch, self.compiled.prepare(*batch)
        compiled, prepared = self.compiled, self.prepared
        return lambda *given: compiled(prepared, *given)


class _Draw(nn.Module):
    """Draws of the guide, and their log density, as the call of a module that holds all parts."""

    def __init__(self, pair: Pair, samples: int) -> None:
        super().__init__()
        self.pair, self.samples = pair, samples
        self.parts = nn.ModuleList(modules_of(pair.guide))

    def forward(self, *batch: Tensor) -> tuple[Tensor, ...]:
        values, log_q = Pair.propose(self.pair, batch, self.samples)
        return log_q, *(values[name] for name in self.pair.latents)


class _Terms(nn.Module):
    """The log densities as the call of a module that holds every module of the model."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair
        self.parts = nn.ModuleList(modules_of(pair.model))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        names = tuple(self.pair.latents)
        values = dict(zip(names, tensors, strict=False))
        return Pair.log_terms(self.pair, tensors[len(names) :], values)
