"""Gradients of log q(z|x) along the draws alone, for guides of any structure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..programs.traces import latent_sites

__all__ = ["PathGradient"]


class PathGradient(Messenger):  # type: ignore[misc, unused-ignore]
    r"""Runs a guide so that log q is differentiated along its draws, at fixed parameters.

    For reparameterized draws :math:`z(\varepsilon, \phi)` the derivative of
    :math:`\log q_\phi(z \mid x)` has a path term, through z, and a score term, through
    :math:`\phi` at fixed z. The score term is left out here, wherever the parameters are and
    however later latents depend on earlier ones.

    The guide runs once. It goes on with each draw behind a gate, and densities are computed at
    leaves that hold the draws; with the gates closed, the derivatives by leaves and gates are those
    of log q by each latent. The gradient of the draws that the model receives can be weighted
    (:meth:`weigh`) without affecting the guide's own use of them.

    References:
        Roeder et al. (2017). https://arxiv.org/abs/1703.09194
    """

    def __init__(self) -> None:
        super().__init__()
        self._closed = False
        self._gates: dict[str, Tensor] = {}
        self._leaves: dict[str, Tensor] = {}
        self._draws: dict[str, Tensor] = {}
        self._weights: Callable[[int], Tensor] | None = None

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["value"] = self._gates[msg["name"]] = _Through.apply(msg["value"], self._pass_gate)

    def compute_log_prob(self, trace: Trace) -> None:
        """Compute the log densities in a guide's trace, and give it the draws that the model gets.

        Raises:
            NotImplementedError: a distribution that knows its density only at its own draws.
        """
        drawn = {name: site["value"] for name, site in latent_sites(trace)}
        for name, site in latent_sites(trace):
            leaf = drawn[name].detach().requires_grad_(drawn[name].requires_grad)
            site["value"] = self._leaves[name] = leaf
        try:
            trace.compute_log_prob()
        except (KeyError, NotImplementedError) as error:
            raise NotImplementedError(
                "a latent site of the guide has a density at its own draws only (a transform "
                f"without inverse: {error}), so log q cannot be differentiated along them; use "
                "gradient='reparameterized'."
            ) from error
        for name, site in latent_sites(trace):
            change = partial(self._weigh_gradient, site["fn"].event_dim)
            site["value"] = self._draws[name] = _Through.apply(drawn[name], change)

    def along_draws(self, log_q: Any, add_up: Callable[[str, Tensor], Tensor]) -> Any:
        """Return log q with its value, and its gradient along the draws alone.

        Args:
            log_q: sum of log densities of the sites.
            add_up: sums the terms of a named site, of the shape of its draws, to that of ``log_q``.
        """
        nodes = [
            (name, node)
            for name in self._draws
            for node in (self._leaves[name], self._gates[name])
            if node.requires_grad
        ]
        if not isinstance(log_q, Tensor):  # the number 0, of no draws
            return log_q
        result = log_q.detach()
        if not nodes or not log_q.requires_grad:
            return result
        self._closed = True
        try:
            slopes = torch.autograd.grad(
                log_q.sum(), [node for _, node in nodes], retain_graph=True, allow_unused=True
            )
        finally:
            self._closed = False
        for (name, _), slope in zip(nodes, slopes, strict=True):
            if slope is not None:
                draws = self._draws[name]
                result = result + add_up(name, slope * (draws - draws.detach()))
        return result

    def weigh(self, weights: Callable[[int], Tensor]) -> None:
        """Multiply the gradient that reaches the draws, once it is computed.

        ``weights`` maps a number of event dimensions to weights that broadcast with the draws.
        """
        self._weights = weights

    def _pass_gate(self, gradient: Tensor) -> Tensor | None:
        return None if self._closed else gradient

    def _weigh_gradient(self, event_dim: int, gradient: Tensor) -> Tensor:
        if self._weights is None:
            return gradient
        return gradient * self._weights(event_dim).to(gradient.dtype)


class _Through(torch.autograd.Function):
    """Identity whose gradient is passed through a function; ``None`` from it stops the gradient."""

    @staticmethod
    def forward(value: Tensor, change: Callable[[Tensor], Tensor | None]) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.change = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        return ctx.change(gradient), None
