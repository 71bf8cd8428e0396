"""What every model of this package is: a module whose methods are two Pyro programs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar, cast

import torch
from pyro.poutine.runtime import Message, am_i_wrapped, apply_stack
from torch import Tensor, nn

from ..common.devices import exact_convolutions
from ..common.verbs import verb
from .modules import device_of

__all__ = ["ProgramModule", "evaluated"]


F = TypeVar("F", bound=Callable[..., Any])


def evaluated(method: F) -> F:
    """Make a module's method compute alone, without gradients, with tensors on its device."""

    @verb
    @wraps(method)
    def wrapped(self: nn.Module, *args: Any, **options: Any) -> Any:
        device = device_of(self)

        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) and device is not None else value

        with torch.no_grad(), exact_convolutions():
            try:
                found = method(
                    self,
                    *(moved(value) for value in args),
                    **{name: moved(value) for name, value in options.items()},
                )
            except ValueError as error:
                if "found invalid values" not in str(error):  # torch's, of parameters
                    raise
                raise ValueError(_diverged(self, method.__name__)) from error
        for value in found if isinstance(found, tuple) else (found,):
            there = isinstance(value, Tensor) and not value.is_meta
            if there and not value.isfinite().all():
                raise ValueError(_diverged(self, method.__name__))
        return found

    return cast(F, wrapped)


def _diverged(module: nn.Module, what: str) -> str:
    largest = max((p.abs().max().item() for p in module.parameters() if p.numel()), default=0.0)
    return (
        f"{what} of this model gives NaN or infinite values: its training diverged (the largest "
        f"parameter is {largest:.3g}), or its data are not like those it was trained on. Train it "
        "with a lower learning rate."
    )


class ProgramModule(nn.Module):
    """Base of modules with two Pyro programs as methods, ``model`` and ``guide``.

    Parameters live in the modules that are its parts; Pyro's global store stays untouched, and
    several models coexist in one process. A subclass calls :meth:`_show_parameters` at the start of
    each program, so that ``pyro.infer.SVI(module.model, module.guide, ...)`` trains it as it is.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]

    def baseline(self, x: Tensor) -> Tensor | None:
        """Return log p of each datum ``(N, *event_shape)`` without latents; ``None`` if unknown."""
        return None

    def _show_parameters(self, *parts: str) -> None:
        """Show parameters to Pyro's handlers, as ``pyro.module`` does but without the store.

        ``pyro.infer.SVI`` optimizes the parameters that it sees while the programs run.
        """
        if not am_i_wrapped():
            return
        for part in parts:
            for name, parameter in getattr(self, part).named_parameters():
                # The attribute that Pyro asks for goes on an alias: the module stays picklable.
                alias = parameter.view_as(parameter)
                alias.unconstrained = partial(_identity, parameter)
                apply_stack(
                    Message(
                        type="param",
                        name=f"{part}.{name}",
                        fn=_identity,
                        is_observed=False,
                        args=(),
                        kwargs={},
                        value=alias,
                        scale=1.0,
                        mask=None,
                        cond_indep_stack=(),
                        done=True,
                        stop=False,
                        infer={},
                        continuation=None,
                    )
                )


def _identity(parameter: Tensor) -> Tensor:
    return parameter
