"""Modules as compiled functions: Pyro's handlers are traced away, the arithmetic stays."""

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

from ..common.errors import warn
from ..common.host import keep_memory
from ..common.options import Precision
from ..common.seeding import seeded
from ..common.verbs import verb
from .passes import graph_pass, quick_logarithms
from .products import products_pass

__all__ = ["as_function", "attempt", "compile_call", "compile_function", "reason", "state_of"]

T = TypeVar("T")

_number = itertools.count()


@verb
def compile_function(module: nn.Module, *, precision: Precision = "float32") -> Callable[..., Any]:
    """Compile the call of a module and its gradients, with parameters and buffers as arguments.

    ``torch.compile`` cannot look through Pyro's handlers and need not: a function that is allowed
    in its graph is traced below Python, handlers and all. Nothing in the call may depend on values
    of tensors. The function is compiled for the shapes of its first arguments, and is only to be
    called with those.

    Args:
        module: takes tensors, and returns a tuple of tensors, the loss first.
        precision: of matrix products.

    Returns:
        Function of the module's arguments, followed by :func:`state_of` the module. It returns
        what the module does, detached, and a list of the loss's gradients by the parameters,
        ``None`` for those that the loss does not depend on.
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
    compiled = compile_call(call, precision=precision, on_cpu=on_cpu)

    def run(*tensors: Tensor) -> Any:
        with torch.no_grad():
            results = compiled(*tensors)
        split = len(results) - len(reached)
        by_place = dict(zip(reached, results[split:], strict=True))
        return *results[:split], [by_place.get(place) for place in range(len(parameters))]

    return run


def as_function(module: nn.Module) -> Callable[..., Any]:
    """Return a module's call as a function of its arguments, then of its :func:`state_of`."""
    names, number = _names(module), len(state_of(module))

    def call(*tensors: Tensor) -> Any:
        split = len(tensors) - number
        given = {name: tensors[split + place] for name, place in names.items()}
        return torch.func.functional_call(module, given, tensors[:split], tie_weights=False)

    return call


def compile_call(
    call: Callable[..., Any], *, precision: Precision | None = None, on_cpu: bool
) -> Callable[..., Any]:
    """Compile a function of tensors; ``precision`` is that of its products if they are to change.

    It is compiled for the shapes of its first arguments, and is only to be called with those.
    """
    keep_memory()
    options: dict[str, Any] = {
        "fallback_random": True,  # the same random numbers as without compilation
        "cpp_wrapper": on_cpu,  # calling kernels from Python would cost more than small ones take
        "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,  # callers check the shapes
    }
    passes: dict[str, Callable[..., None]] = {"logarithms": quick_logarithms}
    if precision is not None:
        passes[precision] = products_pass(precision)
    options["post_grad_custom_post_pass"] = graph_pass(**passes)
    if on_cpu and torch.backends.cpu.get_cpu_capability() in _KNOWN:
        first = _compiled(call, {**options, "cpp.vec_isa_ok": True})
    else:
        first = _compiled(call, options)
    chosen: list[Callable[..., Any]] = []

    def run(*tensors: Tensor) -> Any:
        with _validation_kept():
            if chosen:
                return chosen[0](*tensors)
            try:
                result = first(*tensors)
                chosen.append(first)
            except Exception as error:
                if not _of_the_compiler(error):
                    raise
                _forget_instructions()
                chosen.append(_compiled(call, options))
                result = chosen[0](*tensors)
            return result

    return run


# What torch itself was built for and found on this processor. Inductor compiles, links and loads a
# program for each set of instructions first, five seconds in all; with these it is not asked to.
_KNOWN = ("AVX2", "AVX512")


def _compiled(call: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    allowed = torch.compiler.allow_in_graph(call)

    def traced(*tensors: Tensor) -> Any:
        return allowed(*tensors)

    # torch looks compiled graphs up by code object, regardless of what it closes over: without a
    # code object of its own, a second function of the same shapes would run the first one's graph.
    traced.__code__ = traced.__code__.replace(co_name=f"traced_{next(_number)}")
    with _validation_kept():
        compiled: Callable[..., Any] = torch.compile(
            traced, fullgraph=True, dynamic=False, options=options
        )
    return compiled


def _of_the_compiler(error: BaseException) -> bool:
    """Whether the C++ compiler failed, or what it made could not be loaded."""
    from torch._inductor.exc import CppCompileError

    return any(isinstance(each, CppCompileError | OSError) for each in _chain(error))


def _forget_instructions() -> None:
    """Let Inductor find out which instructions compiler and processor both know."""
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    valid_vec_isa_list.cache_clear()


@contextmanager
def _validation_kept() -> Iterator[None]:
    """Restore torch's validation of distributions, which ``torch.compile`` switches off."""
    validate = torch.distributions.Distribution._validate_args
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(validate)


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide from the user what torch tells its own developers while it compiles."""
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

    Each name of a shared tensor is here, but a shared module has only one: ``functional_call`` does
    not restore the tensors of a module that it meets twice.
    """
    places = {id(tensor): place for place, tensor in enumerate(state_of(module))}
    names = {}
    for prefix, part in module.named_modules():
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                names[f"{prefix}.{name}" if prefix else name] = places[id(tensor)]
    return names


@verb
def attempt(build: Callable[[], T], *, what: str) -> T | None:
    """Return what ``build`` makes by compiling and trying a user's program; ``None`` if it fails.

    Warns:
        PyroVAEWarning: it failed, and why; ``what`` goes on without compilation.
    """
    try:
        with seeded("compile", 0), pyro.validation_enabled(False), _quietly():
            return build()
    except Exception as error:  # a user's program may fail in any way under tracing
        warn(
            f"{what} goes on without compilation: {reason(error)}",
        )
        return None


def reason(error: BaseException) -> str:
    """Say in one line why a program could not be compiled."""
    *_, error = _chain(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then what caused it, to the first cause."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
