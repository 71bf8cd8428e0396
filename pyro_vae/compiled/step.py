"""One step of stochastic variational inference: gradients, compiled where possible."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..common.errors import warn
from ..common.options import Precision
from ..common.seeding import seeded
from ..common.verbs import say_turns, verb
from .constants import Constants
from .functions import attempt, compile_function, state_of

__all__ = ["NOTHING_TO_LEARN", "CompiledGradients", "CompiledStep", "Gradients", "buffers_kept"]

NOTHING_TO_LEARN = (
    "the loss depends on no parameter of the program, so that nothing would be learned: the "
    "programs compute with none, or with others, such as those of modules that they hold in a "
    "list. Make them parts of the program."
)

_MOST_COMPILATIONS = 8

_STEPPED: list[threading.Thread] = []  # threads that took steps, by turns


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Restore a module's buffers: its running statistics are not to know of a trial."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


class Gradients:
    r"""Gradients of an objective per datum, :math:`-\frac{1}{B} \nabla \sum_n L(x_n)`.

    Called with a batch of B data, it replaces ``.grad`` of the program's parameters (``None`` for
    those that the loss does not depend on), and returns the ELBO.

    Args:
        program: ``nn.Module`` with Pyro programs ``model`` and ``guide``.
        objective: an objective of this package.
    """

    def __init__(self, program: Any, objective: Any) -> None:
        self.program, self.objective = program, objective

    def __call__(self, *batch: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Return the ELBO at ``kl_weight`` 1, a scalar: the sum over the batch, in nats."""
        self.program.zero_grad(set_to_none=True)
        loss, elbo = self.objective.terms(
            self.program.model, self.program.guide, *batch, kl_weight=kl_weight
        )
        if not loss.requires_grad:
            raise ValueError(NOTHING_TO_LEARN)
        (loss / len(batch[0])).backward()
        result: Tensor = elbo
        return result


class CompiledGradients(Gradients):
    """The same gradients by one compiled function of the batch and the parameters.

    Whatever else the programs read (attributes of their modules, what their functions close over,
    globals) is compiled in. Where it changes, batches take the plain path until it stays the same
    from one batch to the next; then it is compiled anew.

    Args:
        program: ``nn.Module`` with Pyro programs ``model`` and ``guide``.
        objective: an objective of this package.
        rows: number of data in a full batch, for which it is compiled; ``None`` for that of the
            first. Other batches (the last one of an epoch) take the plain path.
        precision: of matrix products.

    Warns:
        PyroVAEWarning: the program cannot be compiled, and why; all batches take the plain path. A
            value that was compiled in has changed; its name.
    """

    def __init__(
        self,
        program: Any,
        objective: Any,
        *,
        rows: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(program, objective)
        self.rows, self.precision = rows, precision
        self.shapes: list[torch.Size] | None = None
        self._run: Callable[..., Any] | None = None
        self._state: list[Tensor] = []
        self._constants: Constants | None = None  # none if it is not to be compiled
        self._left = _MOST_COMPILATIONS
        self._named: set[str] = set()
        self._weight: Tensor | None = None
        self._written: float | None = None

    def __call__(self, *batch: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Return the ELBO at ``kl_weight`` 1, as the plain gradients do."""
        shapes = [argument.shape for argument in batch]
        if self.shapes is None and self.rows in (None, len(batch[0])):
            self.shapes = shapes
            self._compile(batch)
        elif shapes == self.shapes and self._constants is not None:
            changed = self._constants.changed()
            if changed:
                self._run, self._constants = None, self._look()
                self._say(changed)
            elif self._run is None:
                self._compile(batch)
        if self._run is None or shapes != self.shapes:
            return super().__call__(*batch, kl_weight=kl_weight)
        elbo: Tensor
        weight = self.weight(kl_weight, batch[0].device)
        _, elbo, gradients = self._run(weight, *batch, *self._state)
        for parameter, gradient in zip(self._state, gradients, strict=False):
            parameter.grad = gradient
        return elbo

    def _compile(self, batch: tuple[Tensor, ...]) -> None:
        """Compile for batches of these shapes, and try the result once."""
        programs = self.program.model, self.program.guide
        with (
            seeded("compile", 0),
            pyro.validation_enabled(False),
            torch.no_grad(),
            buffers_kept(self.program),
        ):
            # Before tracing the objective must know the plates, and Pyro's store the parameters.
            self.objective.prepare(*programs, *batch)
            constants, self._left = self._look(), self._left - 1
            self.objective.terms(*programs, *batch)
        counted = constants.numbers()

        def build() -> Callable[..., Any]:
            if counted:
                raise RuntimeError(f"the programs change {counted[0]} as they run")
            loss = _Loss(self.program, self.objective)
            run = compile_function(loss, precision=self.precision)
            run(self.weight(1.0, batch[0].device), *batch, *state_of(self.program))
            return run

        with buffers_kept(self.program):
            self._run, self._state = attempt(build, what="training"), state_of(self.program)
        constants.leave_out()  # what the programs keep of a run, such as its densities
        self._constants = None if self._run is None else constants

    def weight(self, kl_weight: float, device: torch.device) -> Tensor:
        """Return the weight as a tensor on the device, written only where it changes.

        One of the host would be read there, and would keep CUDA graphs out.
        """
        if self._weight is None or self._weight.device != device:
            self._weight, self._written = torch.empty((), dtype=torch.float64, device=device), None
        if self._written != kl_weight:
            self._weight.fill_(kl_weight)
            self._written = kl_weight
        return self._weight

    def _look(self) -> Constants:
        return Constants(self.program, self.program.model, self.program.guide, self.objective)

    def _say(self, changed: list[str]) -> None:
        if self._left == 0:
            self._constants = None
        if self._left and self._named.issuperset(changed):
            return
        self._named.update(changed)
        rest = "until it stays as it is" if self._left else "to the end"
        warn(
            f"{changed[0]} is no longer what it was when the step was compiled; steps go on "
            f"without compilation {rest}. Make it a buffer that is changed in place (fill_), and "
            "it may change at every step.",
        )


class CompiledStep:
    r"""One step of SVI as a compiled function: noise, both programs, gradients; then the optimizer.

    ::

        step = pv.CompiledStep(vae, pv.ELBO(), torch.optim.Adam(vae.parameters()), rows=64)
        for x in batches:
            elbo = step(x)

    The loss, its gradients and the random numbers are those of ``pyro.infer.SVI`` (divided by the
    number of data) up to rounding. The whole evaluation is traced below Python once, so Pyro's
    handlers take no time afterwards, and nothing in the programs may depend on values of tensors.
    Numbers and other attributes that the programs read are compiled in; if one changes, steps are
    plain until it stays the same for two, and are then compiled anew. A value that changes at every
    step is better a buffer, changed in place.
    Two Pyro functions become a program by :func:`pyro_vae.as_program`. The modules' parameters must
    stay the same objects, as they do under ``load_state_dict``.

    Args:
        program: ``nn.Module`` with Pyro programs ``model`` and ``guide``.
        objective: an objective of this package, such as ``pv.ELBO()``.
        optimizer: any of ``torch.optim``, over the program's parameters.
        rows: number of data in a full batch, for which the step is compiled; ``None`` for that of
            the first. Other batches (the last of an epoch) are not compiled.
        precision: of matrix products. ``"bfloat16"`` rounds their factors and results to 8 bits;
            parameters, densities and sums stay in float32. On a CPU without instructions for it
            the numbers are the same, and no faster than float32.

    Warns:
        PyroVAEWarning: the program cannot be compiled, and why; all steps take the plain path. A
            value that was compiled in has changed; its name. Two threads take steps by turns.
    """

    def __init__(
        self,
        program: Any,
        objective: Any,
        optimizer: torch.optim.Optimizer,
        *,
        rows: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.gradients = CompiledGradients(program, objective, rows=rows, precision=precision)
        self.optimizer = optimizer

    @verb
    def __call__(self, *batch: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Take a step.

        Args:
            batch: arguments of both programs, with the data along dimension 0.
            kl_weight: weight of the KL term.

        Returns:
            ELBO before the step at ``kl_weight`` 1, a scalar on the device: the sum over the batch,
            in nats.
        """
        say_turns("CompiledStep", _STEPPED)
        with pyro.validation_enabled(False):
            elbo = self.gradients(*batch, kl_weight=kl_weight)
        self.optimizer.step()
        return elbo


class _Loss(nn.Module):
    """Loss per datum and ELBO as the call of a module, so that its parameters can be passed in."""

    def __init__(self, program: nn.Module, objective: Any) -> None:
        super().__init__()
        self.program = program
        self.objective = objective

    def forward(self, kl_weight: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        program: Any = self.program
        loss, elbo = self.objective.terms(program.model, program.guide, *batch, kl_weight=kl_weight)
        return loss / len(batch[0]), elbo
