"""Modules as compiled functions: Pyro's handlers are traced away, arithmetic stays."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pyro
import torch
from torch import Tensor, nn

from ..common.errors import PyroVAEWarning
from ..common.options import Precision
from ..common.seeding import seeded
from .products import products_pass

__all__ = ["as_function", "attempt", "compile_call", "compile_function", "reason", "state_of"]

T = TypeVar("T")

_number = itertools.count()


def compile_function(module: nn.Module, *, precision: Precision = "float32") -> Callable[..., Any]:
    """Compile the call of a module and its gradients, with parameters and buffers as arguments.

    ``torch.compile`` cannot look through Pyro's handlers and need not: a function allowed in its
    graph is traced below Python, handlers and all. Nothing in the call may depend on values of
    tensors. It is compiled for the shapes of the first arguments, and must be given no others.

    Args:
        module: its call takes tensors, and returns the loss first.
        precision: of matrix products.

    Returns:
        Function of the module's arguments, followed by :func:`state_of` the module. Its results are
        what the module returns, without a graph, and a list of the loss's gradients by the
        parameters: ``None`` for those that the loss does not depend on.
    """
    function = as_function(module)
    parameters = list(module.parameters())
    number = len(state_of(module))
    learned = [place for place, parameter in enumerate(parameters) if parameter.requires_grad]
    reached: list[int] = []

    def call(*tensors: Tensor) -> Any:
        split = len(tensors) - number
        state = list(tensors[split:])
        with torch.enable_grad():
            for place in learned:
                state[place] = state[place].detach().requires_grad_()
            loss, *others = function(*tensors[:split], *state)
            inputs = [state[place] for place in learned]
            found = torch.autograd.grad(loss, inputs, allow_unused=True)
        reached[:] = [p for p, g in zip(learned, found, strict=True) if g is not None]
        return loss.detach(), *others, *(g for g in found if g is not None)

    on_cpu = all(tensor.device.type == "cpu" for tensor in state_of(module))
    compiled = compile_call(call, products=products_pass(precision), on_cpu=on_cpu)

    def run(*tensors: Tensor) -> Any:
        with torch.no_grad():
            results = compiled(*tensors)
        split = len(results) - len(reached)
        by_place = dict(zip(reached, results[split:], strict=True))
        return *results[:split], [by_place.get(place) for place in range(len(parameters))]

    return run


def as_function(module: nn.Module) -> Callable[..., Any]:
    """Return the call of a module as a function of its arguments, then :func:`state_of` it."""
    names, number = _names(module), len(state_of(module))

    def call(*tensors: Tensor) -> Any:
        split = len(tensors) - number
        given = {name: tensors[split + place] for name, place in names.items()}
        return torch.func.functional_call(module, given, tensors[:split], tie_weights=False)

    return call


def compile_call(
    call: Callable[..., Any], *, products: Any = None, on_cpu: bool
) -> Callable[..., Any]:
    """Compile a function of tensors, with a pass over its matrix products.

    It is compiled for the shapes of the first arguments, and must be given no others.
    """
    allowed = torch.compiler.allow_in_graph(call)
    options: dict[str, Any] = {
        "fallback_random": True,
        "cpp_wrapper": on_cpu,  # kernels are called from C++, not from Python
        "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,  # shapes are the caller's care
    }
    if products is not None:
        options["post_grad_custom_post_pass"] = products

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
def _quietly() -> Iterator[None]:
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


def attempt(build: Callable[[], T], *, what: str) -> T | None:
    """Return what a function builds by compiling and trying a user's program, if that works.

    Warns:
        PyroVAEWarning: it does not; says why, and that ``what`` goes on without compilation.
    """
    try:
        with seeded("compile", 0), pyro.validation_enabled(False), _quietly():
            return build()
    except Exception as error:  # whatever a user's program brings up under tracing
        warnings.warn(
            f"{what} goes on without compilation: {reason(error)}", PyroVAEWarning, stacklevel=3
        )
        return None


def reason(error: BaseException) -> str:
    """Say in a line why a program could not be compiled."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
