"""log p(x, z) of a program as a compiled function."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..checks import modules_of
from ..compiled import compile_function, quietly, reason, state_of
from ..errors import PyroVAEWarning
from ..seeding import seeded
from .program import Batch, Program, Values

__all__ = ["CompiledJoint"]


class CompiledJoint:
    """``program.log_joint``, compiled for the first numbers of samples and of data it is given.

    Other numbers (the last pieces of the samples or the data) take the plain path, and so does
    everything if the program cannot be compiled, after one warning that says why.

    Args:
        program: the programs.

    Warns:
        PyroVAEWarning: the program could not be compiled.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.names = tuple(program.latents)
        self.shapes: list[torch.Size] | None = None
        self.module = _Joint(program, self.names)
        self._run: Callable[..., Tensor] | None = None

    def __call__(self, batch: Batch, values: Values) -> Tensor:
        """Return log p(x, z), shape ``(S, N)``, float64."""
        tensors = [*(values[name] for name in self.names), *batch]
        shapes = [tensor.shape for tensor in tensors]
        if self.shapes is None:
            self.shapes = shapes
            self._compile(tensors)
        if self._run is not None and shapes == self.shapes:
            log_p = self._run(*tensors, *state_of(self.module))
            if (log_p < torch.inf).all():
                return log_p  # else the plain path names the site and the data
        return self.program.log_joint(batch, values)

    def _compile(self, tensors: list[Tensor]) -> None:
        try:
            with seeded("compile", 0):
                run = compile_function(self.module)
                with quietly():
                    run(*tensors, *state_of(self.module))
        except Exception as error:  # whatever a user's program brings up under tracing
            warnings.warn(
                f"evaluation goes on without compilation: {reason(error)}",
                PyroVAEWarning,
                stacklevel=2,
            )
        else:
            self._run = run


class _Joint(nn.Module):
    """The log density as the call of a module that holds every module of the program."""

    def __init__(self, program: Program, names: tuple[str, ...]) -> None:
        super().__init__()
        self.program, self.names = program, names
        self.parts = nn.ModuleList(modules_of(program.model))

    def forward(self, *tensors: Tensor) -> Tensor:
        values = dict(zip(self.names, tensors, strict=False))
        return self.program.log_joint(tensors[len(self.names) :], values, check=False)
