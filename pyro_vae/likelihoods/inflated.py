"""Likelihoods of counts with more zeros than a distribution of counts has."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..distributions import masses
from ..networks import MakesNetwork
from .base import Likelihood, number_or_word
from .counts import NegativeBinomial, Poisson
from .scale import KINDS, register_raw

__all__ = ["ZeroInflated", "ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"]


class ZeroInflated(Likelihood):
    r"""Counts that are zero with probability g for another reason than their rate.

    .. math:: P(0 \mid z) = g + (1 - g) \, c(0 \mid z), \qquad P(x \mid z) = (1 - g) \, c(x \mid z)

    Args:
        network: maps z to the outputs of c, and with ``gate="network"`` to another row of raw gates
            after them.
        event_shape: shape of one datum.
        counts: makes c, a likelihood of counts, on the network that it is given.
        gate: g, a probability; a number between 0 and 1 or a word, as ``scale`` of
            :class:`~pyro_vae.likelihoods.scale.Scaled`.

    Attributes:
        counts: the likelihood c. Its network stands for this one's, and does nothing.
        gate_kind: ``"fixed"``, ``"shared"``, ``"value"`` or ``"network"``.
    """

    def __init__(
        self,
        network: MakesNetwork,
        event_shape: Sequence[int],
        counts: Likelihood,
        *,
        gate: float | str = "shared",
    ) -> None:
        gate = number_or_word("gate", gate, list(KINDS))
        if not isinstance(gate, str) and gate >= 1:
            raise ValueError(f"gate is a probability, between 0 and 1; got {gate!r}.")
        rows = counts.output_shape[: len(counts.output_shape) - len(event_shape)]
        if gate == "network":
            rows = (sum(rows) + 1 if rows else 2,)
        super().__init__(network, event_shape, rows=rows)
        self.counts = counts
        self.raw_gate: Tensor | None
        self.gate_kind = register_raw(self, "raw_gate", gate, torch.logit)

    @property
    def gate(self) -> Tensor:
        """The gate, a scalar or (for ``"value"``) of shape ``event_shape``.

        Raises:
            ValueError: the gate comes from the network, so it depends on z.
        """
        if self.raw_gate is None:
            raise ValueError(
                "this likelihood's gate depends on z; take it from the distribution, "
                "likelihood(z).base_dist.gate."
            )
        return self.raw_gate.sigmoid()

    @property
    def description(self) -> str:
        """The likelihood in words, with its gate."""
        gate = KINDS.get(self.gate_kind, "").format("gate")
        if self.gate_kind == "fixed":
            gate = f"gate {self.gate.item():.4g}"
        return f"zero-inflated {self.counts.description}, with {gate}"

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the mass functions of single values."""
        rest, gate = output, self.raw_gate
        if gate is None:
            rows = output.movedim(-self.event_dim - 1, 0)
            rest, gate = rows[:-1].movedim(0, -self.event_dim - 1), rows[-1]
            if len(self.counts.output_shape) == self.event_dim:
                rest = rows[0]
        return masses.ZeroInflated(self.counts.values(rest), gate)

    def starting_output(self, x: Tensor) -> Tensor | None:
        """Start gates at the share of zeros beyond those of c, clipped to [0.01, 0.9]."""
        gate = self.raw_gate
        if self.gate_kind != "fixed":
            start = self.counts.starting_output(x)
            assert start is not None
            zeros = self.counts.values(start).log_prob(torch.zeros_like(x[0])).exp()
            excess = (x == 0).to(x.dtype).mean(0) - zeros
            excess = excess.mean() if self.gate_kind == "shared" else excess
            gate = excess.clamp(0.01, 0.9).logit()
            if self.raw_gate is not None:
                self.raw_gate.copy_(gate)
        assert gate is not None
        start = self.counts.starting_output(x / gate.neg().sigmoid())
        if self.gate_kind != "network" or start is None:
            return start
        rows = start.unsqueeze(0) if start.dim() == self.event_dim else start
        return torch.cat([rows, gate.unsqueeze(0)])


class ZeroInflatedPoisson(ZeroInflated):
    """Zero-inflated :class:`~pyro_vae.likelihoods.Poisson`; arguments as :class:`ZeroInflated`."""

    def __init__(
        self, network: MakesNetwork, event_shape: Sequence[int], *, gate: float | str = "shared"
    ) -> None:
        super().__init__(network, event_shape, Poisson(nn.Identity(), event_shape), gate=gate)


class ZeroInflatedNegativeBinomial(ZeroInflated):
    """Zero-inflated :class:`~pyro_vae.likelihoods.NegativeBinomial`.

    Arguments are those of both, :class:`ZeroInflated` and the negative binomial.
    """

    def __init__(
        self,
        network: MakesNetwork,
        event_shape: Sequence[int],
        *,
        dispersion: float | str = "shared",
        floor: float = 1e-4,
        gate: float | str = "shared",
    ) -> None:
        counts = NegativeBinomial(nn.Identity(), event_shape, dispersion=dispersion, floor=floor)
        super().__init__(network, event_shape, counts, gate=gate)

    @property
    def floor(self) -> float:
        """Least value of a learned dispersion; 0 if it is fixed."""
        counts: NegativeBinomial = self.counts  # type: ignore[assignment]
        return counts.floor
