"""A Pyro model and guide whose draws and densities are compiled functions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import modules_of
from ..compiled import compile_function, quietly, reason, state_of
from ..config import Precision
from ..errors import PyroVAEWarning
from ..seeding import seeded
from .program import Batch, Program, Values

__all__ = ["CompiledProgram"]


@dataclass(frozen=True)
class CompiledProgram(Program):
    """The same pair, with the guide's draws and log p(x, z) compiled.

    Each is compiled for the first numbers of samples and of data it is asked for. Others (the last
    pieces of the samples or the data) take the plain path; so does what is differentiated, and
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
        key = [samples, *(argument.shape for argument in batch)]
        run = self._function("propose", key, lambda: _Draw(self, samples), batch)
        if run is not None:
            log_q, *drawn = run(*batch)
            if not check or (log_q < torch.inf).all():
                return dict(zip(self.latents, drawn, strict=True)), log_q
        return super().propose(batch, samples, check=check)  # names the site and the data

    def log_joint(self, batch: Batch, values: Values, *, check: bool = True) -> Tensor:
        """Return log p(x, z) for given latents, as :meth:`Program.log_joint` does."""
        tensors = (*(values[name] for name in self.latents), *batch)
        key = [tensor.shape for tensor in tensors]
        run = self._function("log_joint", key, lambda: _Joint(self), tensors)
        if run is not None:
            log_p: Tensor = run(*tensors)
            if not check or (log_p < torch.inf).all():
                return log_p
        return super().log_joint(batch, values, check=check)

    def _function(
        self, name: str, key: list[Any], module: Callable[[], nn.Module], args: tuple[Tensor, ...]
    ) -> Callable[..., Any] | None:
        """Compiled function for arguments of these shapes, if there is one."""
        if torch.is_grad_enabled():
            return None
        if name not in self.functions:
            self.functions[name] = _Function(key, module(), args, self.precision)
        function = self.functions[name]
        return function.run if function.key == key else None


class _Function:
    """A compiled function, tried once.

    Args:
        key: what it is compiled for.
        module: its call is to be compiled.
        args: arguments to try it with.
        precision: of matrix products.
    """

    def __init__(
        self, key: list[Any], module: nn.Module, args: tuple[Tensor, ...], precision: Precision
    ) -> None:
        self.key = key
        self.run: Callable[..., Any] | None = None
        try:
            with seeded("compile", 0):
                compiled = compile_function(module, precision=precision)
                state = state_of(module)
                with quietly():
                    compiled(*args, *state)
        except Exception as error:  # whatever a user's program brings up under tracing
            warnings.warn(
                f"evaluation goes on without compilation: {reason(error)}",
                PyroVAEWarning,
                stacklevel=2,
            )
        else:
            self.run = lambda *tensors: compiled(*tensors, *state)


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
