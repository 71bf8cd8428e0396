"""Pyro programs as compiled functions: handlers are traced away, arithmetic stays."""

from __future__ import annotations

import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .errors import PyroVAEWarning
from .seeding import seeded

__all__ = ["CompiledTerms", "compile_function", "onednn_is_faster", "quietly", "reason", "state_of"]


_number = itertools.count()


class CompiledTerms:
    r"""The terms of an objective as one compiled function of the batch and the parameters.

    Calling it is ``objective.terms(program.model, program.guide, *batch, kl_weight=...)``: the same
    loss, gradients and random numbers up to rounding, without Pyro's handlers at run time. The
    whole evaluation is traced below Python, so nothing in it may depend on values of tensors.

    It is compiled for the first batch of ``rows`` data. Others (the last one of an epoch) take the
    plain path, and so does everything if the program cannot be compiled, after one warning that
    says why.

    Args:
        program: ``nn.Module`` with Pyro programs ``model`` and ``guide``.
        objective: an objective of this package.
        rows: number of data in a full batch; ``None`` for that of the first.

    Warns:
        PyroVAEWarning: the program could not be compiled.
    """

    def __init__(self, program: Any, objective: Any, *, rows: int | None = None) -> None:
        self.program, self.objective, self.rows = program, objective, rows
        self.shapes: list[torch.Size] | None = None
        self._run: Callable[..., tuple[Tensor, Tensor]] | None = None

    def __call__(self, *batch: Tensor, kl_weight: float) -> tuple[Tensor, Tensor]:
        """Return loss and unweighted ELBO, as ``objective.terms`` does."""
        shapes = [argument.shape for argument in batch]
        if self.shapes is None and self.rows in (None, len(batch[0])):
            self.shapes = shapes
            self._compile(batch)
        if self._run is None or shapes != self.shapes:
            return self._plain(batch, kl_weight)
        return self._run(_scalar(kl_weight), *batch, *state_of(self.program))

    def _plain(self, batch: tuple[Tensor, ...], kl_weight: float) -> tuple[Tensor, Tensor]:
        terms: tuple[Tensor, Tensor] = self.objective.terms(
            self.program.model, self.program.guide, *batch, kl_weight=kl_weight
        )
        return terms

    def _compile(self, batch: tuple[Tensor, ...]) -> None:
        """Compile for batches of these shapes, and try the result once."""
        buffers = [(buffer, buffer.clone()) for buffer in self.program.buffers()]
        with seeded("compile", 0):
            with torch.no_grad():
                self._plain(batch, 1.0)  # the objective finds the plates
            try:
                run = compile_function(_Terms(self.program, self.objective))
                with quietly():
                    loss, _ = run(_scalar(1.0), *batch, *state_of(self.program))
                    parameters = [p for p in self.program.parameters() if p.requires_grad]
                    torch.autograd.grad(loss, parameters, allow_unused=True)
            except Exception as error:  # whatever a user's program brings up under tracing
                warnings.warn(
                    f"training goes on without compilation: {reason(error)}",
                    PyroVAEWarning,
                    stacklevel=2,
                )
            else:
                self._run = run
        with torch.no_grad():
            for buffer, before in buffers:  # running statistics are not to know of the trial
                buffer.copy_(before)


class _Terms(nn.Module):
    """The terms as the call of a module, whose parameters can then be given from outside."""

    def __init__(self, program: nn.Module, objective: Any) -> None:
        super().__init__()
        self.program = program
        self.objective = objective

    def forward(self, kl_weight: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        program: Any = self.program
        terms: tuple[Tensor, Tensor] = self.objective.terms(
            program.model, program.guide, *batch, kl_weight=kl_weight
        )
        return terms


def compile_function(module: nn.Module) -> Callable[..., Any]:
    """Compile the call of a module, with its parameters and buffers as arguments.

    ``torch.compile`` cannot look through Pyro's handlers and need not: a function allowed in its
    graph is traced below Python, handlers and all.

    Args:
        module: its call takes tensors.

    Returns:
        Function of the module's arguments, followed by its parameters and its buffers.
    """
    names = _names(module)
    number = max(names.values(), default=-1) + 1

    def call(*tensors: Tensor) -> Any:
        split = len(tensors) - number
        state = {name: tensors[split + place] for name, place in names.items()}
        return torch.func.functional_call(module, state, tensors[:split], tie_weights=False)

    allowed = torch.compiler.allow_in_graph(call)
    options: dict[str, Any] = {"fallback_random": True}
    if onednn_is_faster():
        options["post_grad_custom_post_pass"] = _onednn_pass()

    def traced(*tensors: Tensor) -> Any:
        return allowed(*tensors)

    # Compiled graphs are found by code object, and what it closes over is not looked at: without a
    # code object of its own, a second function of the same shapes would run the first one's graph.
    traced.__code__ = traced.__code__.replace(co_name=f"traced_{next(_number)}")
    with _validation_kept():
        compiled = torch.compile(traced, fullgraph=True, dynamic=False, options=options)

    def run(*tensors: Tensor) -> Any:
        with _validation_kept():
            return compiled(*tensors)

    return run


@contextmanager
def _validation_kept() -> Iterator[None]:
    """Keep torch's validation of distributions, which ``torch.compile`` switches off."""
    validate = torch.distributions.Distribution._validate_args
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(validate)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what torch says to its own developers while it compiles from the user."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def state_of(module: nn.Module) -> list[Tensor]:
    """Return the parameters and then the buffers of a module, each once."""
    return [*module.parameters(), *module.buffers()]


def _names(module: nn.Module) -> dict[str, int]:
    """Names of all parameters and buffers, with their places in :func:`state_of`.

    A tensor with several names has all of them here, but a module that is found at several places
    is listed once: ``functional_call`` does not put the tensors of such a module back.
    """
    places = {id(tensor): place for place, tensor in enumerate(state_of(module))}
    names = {}
    for prefix, part in module.named_modules():
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                names[f"{prefix}.{name}" if prefix else name] = places[id(tensor)]
    return names


def reason(error: BaseException) -> str:
    """Say in a line why a program could not be compiled."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies float32 matrices faster here than torch's default, as measured.

    On processors where MKL takes a slow path, oneDNN does twice as many operations a second.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    with seeded("measure", 0), torch.no_grad():
        a, b = torch.randn(128, 512), torch.randn(512, 512)
        try:
            default, onednn = _seconds(torch.mm, a, b), _seconds(_linear, a, b)
        except (RuntimeError, AttributeError):  # a build without the operator
            return False
    return onednn < 0.8 * default


def _seconds(fn: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> float:
    fn(a, b)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        fn(a, b)
        times.append(time.perf_counter() - started)
    return min(times)


def _linear(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return product


@cache
def _onednn_pass() -> Any:
    """Post-grad pass that gives float32 matrix products on the CPU to oneDNN."""
    from torch._inductor.custom_graph_pass import CustomGraphPass

    product = torch.library.custom_op("pyro_vae::matmul", _linear, mutates_args=())
    product.register_fake(lambda a, b: a.new_empty(a.shape[0], b.shape[1]))
    target = torch.ops.pyro_vae.matmul.default

    class OneDNN(CustomGraphPass):  # type: ignore[misc, unused-ignore]
        def __call__(self, graph: torch.fx.Graph) -> None:
            aten = torch.ops.aten
            for node in list(graph.nodes):
                if node.op != "call_function" or not _is_float32_on_cpu(node):
                    continue
                if node.target is aten.mm.default:
                    node.target = target
                elif node.target is aten.addmm.default and not node.kwargs:
                    bias, a, b = node.args
                    with graph.inserting_before(node):
                        multiplied = graph.call_function(target, (a, b))
                        added = graph.call_function(aten.add.Tensor, (multiplied, bias))
                    multiplied.meta, added.meta = dict(node.meta), dict(node.meta)
                    node.replace_all_uses_with(added)
                    graph.erase_node(node)

        def uuid(self) -> Any:
            return "pyro_vae onednn 1"

    return OneDNN()


def _is_float32_on_cpu(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.float32 and value.device.type == "cpu"
