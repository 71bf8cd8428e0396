"""Importance-weighted bounds of log p(x)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..common.options import Gradient
from ..programs.checks import check_match
from ..programs.traces import Fn, sample_sites
from .base import Objective, ParticlePlate, Traces

__all__ = ["IWAE", "Renyi"]


class Renyi(Objective):
    r"""Variational Rényi bound of order :math:`\alpha`, estimated with K draws per datum.

    .. math:: L = \sum_n \frac{s}{1 - \alpha} \log \frac{1}{K} \sum_{k=1}^K w_{nk}^{1 - \alpha},
        \qquad \log w = \log p(x \mid z) + \beta \, (\log p(z) - \log q(z \mid x))

    :math:`\alpha = 0` is :class:`IWAE`, :math:`\alpha = 1` (taken as the limit) the
    :class:`~pyro_vae.objectives.ELBO`. Each datum has its own weights, and a scale s of the
    programs (N/B of a subsampled plate) stands outside the logarithm, so that the loss of a
    subsample is an unbiased estimate of the loss of all data.

    At :math:`\beta = 1` the bound is at most log p(x) in expectation for :math:`\alpha \ge 0`. For
    :math:`\alpha < 0` it is an upper bound as :math:`K \to \infty` but **not** at finite K: there
    its expectation lies below that limit, and may lie on either side of log p(x).

    Gradients of the guide, with normalized weights
    :math:`\bar w_k = w_k^{1-\alpha} / \sum_j w_j^{1-\alpha}`:

    - ``"reparameterized"``: :math:`\sum_k \bar w_k \, \mathrm{d} \log w_k / \mathrm{d} \phi`.
    - ``"dreg"``: doubly reparameterized, :math:`\sum_k \bar w_k (1 - c + c \bar w_k)
      \frac{\partial \log w_k}{\partial z_k} \frac{\mathrm{d} z_k}{\mathrm{d} \phi}` with
      :math:`c = \beta (1 - \alpha)`; squared weights for the IWAE. The same expectation, less
      variance. Parameters of the model have their usual gradient.
    - ``"stl"``: the same without the second factor. Biased unless K = 1 or :math:`\alpha = 1`.

    Args:
        particles: draws K of z per datum, in one vectorized pass.
        alpha: order.
        gradient: estimator of the guide's gradient.

    Raises:
        ValueError: fewer than one particle, an order that is not finite, or an unknown estimator.

    References:
        Li and Turner (2016). https://arxiv.org/abs/1602.02311
        Tucker et al. (2019), doubly reparameterized gradients. https://arxiv.org/abs/1810.04152
    """

    def __init__(
        self,
        *,
        particles: int = 5,
        alpha: float = 0.5,
        gradient: Gradient = "reparameterized",
    ) -> None:
        super().__init__(
            particles=particles, gradient=gradient, gradients=("reparameterized", "stl", "dreg")
        )
        if not math.isfinite(alpha):
            raise ValueError(f"alpha must be finite; got {alpha}.")
        self.alpha = float(alpha)

    def __repr__(self) -> str:
        options = f"particles={self.num_particles}, alpha={self.alpha!r}"
        return f"Renyi({options}, gradient={self.gradient!r})"

    def terms(
        self,
        model: Fn,
        guide: Fn,
        *args: Tensor,
        kl_weight: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Run both programs once and return the loss and the unweighted ELBO.

        See :meth:`Objective.terms`. Every site must lie in one plate over the data, with one scale;
        where latents belong to all the data, these are one datum, with one weight for each draw,
        and scales stand inside the logarithm.

        Raises:
            ValueError: a site outside the data plate, or with another scale; sites that do not
                match between model and guide.
        """
        traces = self._trace(model, guide, args)
        check_match(traces.model, traces.guide)
        plate = self._data_plate(traces)
        log_likelihood, log_ratio = self._log_weights(traces, plate)
        log_weights = log_likelihood + kl_weight * log_ratio
        order = 1.0 - self.alpha
        if order == 0:
            bound = log_weights.mean(0)
        else:
            particles = math.log(self.num_particles)
            bound = ((order * log_weights).logsumexp(0) - particles) / order
        if traces.path is not None and self.gradient == "dreg" and self.num_particles > 1:
            normalized = (order * log_weights.detach()).softmax(0)
            share = kl_weight * order
            weights = 1 - share + share * normalized
            traces.path.weigh(lambda event_dim: plate.spread(weights, event_dim))
        elbo = (log_likelihood + log_ratio).detach().mean(0).sum()
        return -plate.scale * bound.sum(), elbo

    def _log_weights(self, traces: Traces, plate: ParticlePlate) -> tuple[Tensor, Tensor]:
        """Return log p(x|z) and log p(z) - log q(z|x) without scales, shape ``(K, N)``."""
        density = plate.density
        model, guide = dict(sample_sites(traces.model)), dict(sample_sites(traces.guide))
        observed = [density(n, site) for n, site in model.items() if site["is_observed"]]
        prior = [density(n, site) for n, site in model.items() if not site["is_observed"]]
        # Observed sites of a guide have no draws to differentiate along: they keep their graph.
        fixed = [density(n, site) for n, site in guide.items() if site["is_observed"]]
        log_q = _add([density(n, site) for n, site in guide.items() if not site["is_observed"]])
        if traces.path is not None:
            log_q = traces.path.along_draws(
                log_q, lambda name, terms: plate.per_datum(terms, guide[name]["fn"].event_dim)
            )
        log_ratio = _add(prior) - log_q - _add(fixed)
        return _add(observed), log_ratio


class IWAE(Renyi):
    r"""Importance-weighted bound (IWAE) with K draws per datum.

    .. math:: L = \sum_n s \log \frac{1}{K} \sum_{k=1}^K w_{nk},
        \qquad \log w = \log p(x \mid z) + \beta \, (\log p(z) - \log q(z \mid x))

    At :math:`\beta = 1` a lower bound of log p(x) in expectation, which rises with K to log p(x);
    K = 1 is the ELBO. It is the :class:`Renyi` bound of order 0; see there for the scale s and the
    gradients.

    Args:
        particles: draws K of z per datum, in one vectorized pass.
        gradient: estimator of the guide's gradient: ``"reparameterized"``, ``"dreg"`` (doubly
            reparameterized: the same expectation, and a signal that does not vanish in the noise
            as K grows) or ``"stl"`` (biased for K > 1).

    Raises:
        ValueError: fewer than one particle, or an unknown estimator.

    References:
        Burda et al. (2016). https://arxiv.org/abs/1509.00519
        Tucker et al. (2019), doubly reparameterized gradients. https://arxiv.org/abs/1810.04152
        Rainforth et al. (2018), signal against noise. https://arxiv.org/abs/1802.04537
    """

    def __init__(self, *, particles: int = 5, gradient: Gradient = "reparameterized") -> None:
        super().__init__(particles=particles, alpha=0.0, gradient=gradient)

    def __repr__(self) -> str:
        return f"IWAE(particles={self.num_particles}, gradient={self.gradient!r})"


def _add(terms: list[Tensor]) -> Any:
    """Sum of terms; of none the number 0, which belongs to no device."""
    return sum(terms)
