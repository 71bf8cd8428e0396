"""Networks as short lists of operations, which the page computes in JavaScript."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from ..networks import Network
from ..networks.conv import ConvEncoder, DoubleWithImageBias, ResidualBlock
from ..networks.dense import GatedDense
from .packing import Pack

__all__ = ["Operation", "UnknownPart", "operations"]

Operation = dict[str, Any]
Shape = tuple[int, ...]
_Walked = tuple[list[Operation], Shape]


class UnknownPart(ValueError):
    """A part of a model that the page cannot compute; the message says which."""


def operations(network: nn.Module, in_shape: Sequence[int], pack: Pack) -> list[Operation]:
    """Describe a network as operations on rows of numbers, its weights put into ``pack``.

    An operation maps rows to rows, in row-major order, so that a change of shape is none. There are
    ``linear``, ``activation``, ``gate``, ``convolution``, ``transposed`` (convolution),
    ``residual`` (rows plus those of a branch) and nothing else. A module is known by its
    ``forward``: a subclass that changes it is another one.

    Args:
        network: from an event shape to another, in evaluation mode.
        in_shape: event shape of its input.
        pack: takes the weights.

    Raises:
        UnknownPart: a module, or a setting of one, that the page does not know.
    """
    return _walk(network, tuple(in_shape), pack)[0]


def _walk(module: nn.Module, shape: Shape, pack: Pack) -> _Walked:
    kind: Any = type(module)
    walker = _WALKERS.get(kind.transform if isinstance(module, Network) else kind.forward)
    hooked = module._forward_hooks or module._forward_pre_hooks
    if walker is None or hooked:
        raise UnknownPart(
            f"the page does not know the module {kind.__name__}{' with hooks' if hooked else ''}."
        )
    return walker(module, shape, pack)


def _dense(network: Any, shape: Shape, pack: Pack) -> _Walked:
    hidden, between = _walk(network.hidden, (prod(shape),), pack)
    output, _ = _walk(network.output, between, pack)
    return [*hidden, *output], tuple(network.out_shape)


def _image_encoder(network: Any, shape: Shape, pack: Pack) -> _Walked:
    *channels, height, width = shape
    hidden, between = _walk(network.hidden, (prod(channels), height, width), pack)
    output, _ = _walk(network.output, (prod(between),), pack)
    return [*hidden, *output], tuple(network.out_shape)


def _sequence(modules: Any, shape: Shape, pack: Pack) -> _Walked:
    listed: list[Operation] = []
    for module in modules:
        more, shape = _walk(module, shape, pack)
        listed += more
    return listed, shape


def _affine(module: Any, pack: Pack) -> Operation:
    return {
        "in": module.in_features,
        "out": module.out_features,
        "weight": pack.add(module.weight),
        "bias": _bias(module.bias, pack),
    }


def _linear(module: Any, shape: Shape, pack: Pack) -> _Walked:
    # Over the last dimension: rows of one vector each, or of several with the same weights.
    return [{"kind": "linear", **_affine(module, pack)}], (*shape[:-1], module.out_features)


def _gate(module: Any, shape: Shape, pack: Pack) -> _Walked:
    gated = {"linear": _affine(module.linear, pack), "gate": _affine(module.gate, pack)}
    return [{"kind": "gate", **gated}], (*shape[:-1], module.linear.out_features)


def _activation(name: str) -> Callable[[Any, Shape, Pack], _Walked]:
    def walk(module: Any, shape: Shape, pack: Pack) -> _Walked:
        _check_usual(module, beta=1, approximate="none")
        return [{"kind": "activation", "name": name}], shape

    return walk


def _nothing(module: Any, shape: Shape, pack: Pack) -> _Walked:
    return [], shape


def _flatten(module: Any, shape: Shape, pack: Pack) -> _Walked:
    _check_usual(module, start_dim=1, end_dim=-1)
    return [], (prod(shape),)


def _unflatten(module: Any, shape: Shape, pack: Pack) -> _Walked:
    _check_usual(module, dim=1)
    return [], tuple(module.unflattened_size)


def _convolution(module: Any, shape: Shape, pack: Pack) -> _Walked:
    _check_plain(module)
    sizes = (
        (size + 2 * padding - kernel) // stride + 1
        for size, kernel, stride, padding in _along(module, shape)
    )
    return _convolved("convolution", module, shape, (module.out_channels, *sizes), pack)


def _transposed(module: Any, shape: Shape, pack: Pack) -> _Walked:
    _check_plain(module)
    sizes = (
        (size - 1) * stride - 2 * padding + kernel + more
        for (size, kernel, stride, padding), more in zip(
            _along(module, shape), module.output_padding, strict=True
        )
    )
    return _convolved("transposed", module, shape, (module.out_channels, *sizes), pack)


def _convolved(kind: str, module: Any, shape: Shape, out: Shape, pack: Pack) -> _Walked:
    operation = {
        "kind": kind,
        "in": shape,
        "out": out,
        "kernel": module.kernel_size,
        "stride": module.stride,
        "padding": module.padding,
        "weight": pack.add(module.weight),
        "bias": _bias(module.bias, pack),  # of each channel or of each pixel: its size tells
    }
    return [operation], out


def _residual(module: Any, shape: Shape, pack: Pack) -> _Walked:
    branch, _ = _walk(module.branch, shape, pack)
    return [{"kind": "residual", "branch": branch}], shape


def _bias(bias: Tensor | None, pack: Pack) -> Any:
    return None if bias is None else pack.add(bias)


def _along(module: Any, shape: Shape) -> Any:
    return zip(shape[-2:], module.kernel_size, module.stride, module.padding, strict=True)


def _check_plain(module: Any) -> None:
    _check_usual(module, dilation=(1, 1), groups=1, padding_mode="zeros")
    if isinstance(module.padding, str):
        raise UnknownPart("the page does not know convolutions whose padding is a word.")


def _check_usual(module: nn.Module, **usual: Any) -> None:
    for setting, value in usual.items():
        if getattr(module, setting, value) != value:
            raise UnknownPart(
                f"the page does not know {type(module).__name__} with "
                f"{setting}={getattr(module, setting)!r}."
            )


_WALKERS: dict[Any, Callable[[Any, Shape, Pack], _Walked]] = {
    Network.transform: _dense,
    ConvEncoder.transform: _image_encoder,
    nn.Sequential.forward: _sequence,
    nn.Linear.forward: _linear,
    GatedDense.forward: _gate,
    nn.Tanh.forward: _activation("tanh"),
    nn.ReLU.forward: _activation("relu"),
    nn.Softplus.forward: _activation("softplus"),
    nn.GELU.forward: _activation("gelu"),
    nn.SiLU.forward: _activation("silu"),
    nn.Sigmoid.forward: _activation("sigmoid"),
    nn.Identity.forward: _nothing,
    nn.Dropout.forward: _nothing,
    nn.Flatten.forward: _flatten,
    nn.Unflatten.forward: _unflatten,
    nn.Conv2d.forward: _convolution,
    nn.ConvTranspose2d.forward: _transposed,
    DoubleWithImageBias.forward: _transposed,
    ResidualBlock.forward: _residual,
}
