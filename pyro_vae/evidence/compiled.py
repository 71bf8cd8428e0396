"""A Pyro model and guide whose draws and densities are compiled functions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..common.checks import modules_of
from ..common.errors import PyroVAEWarning
from ..common.options import Precision
from ..common.seeding import seeded
from ..compiled import HoistedFunction, quietly, reason
from ..programs.pair import Batch, Program, Values

__all__ = ["CompiledProgram"]


@dataclass(frozen=True)
class CompiledProgram(Program):
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
    def of(cls, program: Program, *, precision: Precision = "float32") -> CompiledProgram:
        """Compile a pair that was inspected, with matrix products of this precision."""
        own = {item.name: getattr(program, item.name) for item in fields(program)}
        return cls(**own, precision=precision)

    def propose(self, batch: Batch, samples: int, *, check: bool = True) -> tuple[Values, Tensor]:
        """Draw latents from the guide, as :meth:`Program.propose` does."""
        run = self._function("propose", samples, lambda: _Draw(self, samples), [], batch)
        if run is not None:
            log_q, *drawn = run()
            if not check or (log_q < torch.inf).all():
                return dict(zip(self.latents, drawn, strict=True)), log_q
        return super().propose(batch, samples, check=check)  # names the site and the data

    def log_joint(self, batch: Batch, values: Values, *, check: bool = True) -> Tensor:
        """Return log p(x, z) for given latents, as :meth:`Program.log_joint` does."""
        given = [values[name] for name in self.latents]
        samples = number = len(given[0])
        if "log_joint" in self.functions and samples < self.functions["log_joint"].samples:
            number = self.functions["log_joint"].samples
            given = [torch.cat([v, v[-1:].expand(number - samples, *v.shape[1:])]) for v in given]
        run = self._function("log_joint", number, lambda: _Joint(self), given, batch)
        if run is not None:
            log_p: Tensor = run(*given)[:samples]
            if not check or (log_p < torch.inf).all():
                return log_p
        return super().log_joint(batch, values, check=check)

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
        self.compiled: HoistedFunction | None = None
        try:
            with seeded("compile", 0), quietly():
                function = HoistedFunction(
                    module, moving=(*given,), fixed=batch, precision=precision
                )
                function(function.prepare(*batch), *given)
        except Exception as error:  # whatever a user's program brings up under tracing
            warnings.warn(
                f"evaluation goes on without compilation: {reason(error)}",
                PyroVAEWarning,
                stacklevel=2,
            )
        else:
            self.compiled = function

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

    def __init__(self, program: Program, samples: int) -> None:
        super().__init__()
        self.program, self.samples = program, samples
        self.parts = nn.ModuleList(modules_of(program.guide))

    def forward(self, *batch: Tensor) -> tuple[Tensor, ...]:
        values, log_q = Program.propose(self.program, batch, self.samples, check=False)
        return log_q, *(values[name] for name in self.program.latents)


class _Joint(nn.Module):
    """The log density as the call of a module that holds every module of the model."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.parts = nn.ModuleList(modules_of(program.model))

    def forward(self, *tensors: Tensor) -> Tensor:
        names = tuple(self.program.latents)
        values = dict(zip(names, tensors, strict=False))
        return Program.log_joint(self.program, tensors[len(names) :], values, check=False)
