"""The evidence lower bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from ..common.options import KL, Gradient
from ..programs.checks import check_match, is_delta
from ..programs.traces import Fn, latent_sites, observed_scale, sample_sites
from .base import Objective, Traces
from .free_bits import floored_kl

__all__ = ["ELBO"]


class ELBO(Objective, Trace_ELBO):  # type: ignore[misc, unused-ignore]
    r"""Evidence lower bound of a Pyro model and guide, with a weight on its KL term.

    .. math:: L = E_{q(z \mid x)}[\log p(x \mid z)] - \beta \, KL(q(z \mid x) \,\|\, p(z))

    A lower bound of log p(x) at :math:`\beta = 1`. It is a ``pyro.infer.Trace_ELBO``, with the same
    loss and gradient (for a sampled KL and reparameterized latents), so
    ``pyro.infer.SVI(model, guide, optimizer, pv.ELBO())`` works. :func:`pyro_vae.fit` uses
    :meth:`terms`, whose KL weight may be any number from exactly 0 up.

    With free bits :math:`\lambda` the KL term of the loss is, summed over latent dimensions d,

    .. math:: N \sum_d \max\Bigl(\lambda,
        \frac{1}{N} \sum_n KL(q(z_{nd} \mid x_n) \,\|\, p(z_{nd}))\Bigr)

    with the mean over the N data of the batch (and over the particles), so that the KL of a
    dimension has no gradient below :math:`\lambda`. Each element of an inner plate is a dimension
    of its own. A site whose guide or prior does not factor over its D event dimensions counts as
    one, with :math:`D \lambda`. Below the threshold the loss is not a bound; the ELBO returned with
    it is.

    Args:
        particles: draws of z per datum, in one vectorized pass.
        kl: ``"sampled"`` takes log q - log p at the draws; ``"analytic"`` takes the closed form at
            each latent site for which torch has one, and the sampled term at the others. Sites
            whose distribution depends on later latents of the guide keep the sampled term.
            :meth:`kl_used` tells which one a site has.
        gradient: ``"reparameterized"``, or ``"stl"`` (sticking the landing): log q is
            differentiated along the draws alone. Unbiased too, and free of noise where q is the
            posterior.
        free_bits: threshold :math:`\lambda` in nats, for each latent dimension.

    Raises:
        ValueError: fewer than one particle, an unknown ``kl`` or ``gradient``, negative free bits,
            or ``"stl"`` with an analytic KL or free bits.

    References:
        Kingma and Welling (2014). https://arxiv.org/abs/1312.6114
        Roeder et al. (2017), sticking the landing. https://arxiv.org/abs/1703.09194
        Kingma et al. (2016), free bits, appendix C.8. https://arxiv.org/abs/1606.04934
    """

    def __init__(
        self,
        *,
        particles: int = 1,
        kl: KL = "sampled",
        gradient: Gradient = "reparameterized",
        free_bits: float = 0.0,
    ) -> None:
        super().__init__(
            particles=particles, gradient=gradient, gradients=("reparameterized", "stl")
        )
        if kl not in ("sampled", "analytic"):
            raise ValueError(f"kl must be 'sampled' or 'analytic'; got {kl!r}.")
        if not free_bits >= 0:
            raise ValueError(f"free_bits must not be negative; got {free_bits}.")
        if gradient == "stl" and kl == "analytic":
            raise ValueError(
                "gradient='stl' differentiates the sampled log q, which an analytic KL does not "
                "have; use one of the two."
            )
        if gradient == "stl" and free_bits:
            raise ValueError(
                "gradient='stl' leaves out the score term of log q, whose mean is not zero with "
                "free_bits; use one of the two."
            )
        self.kl = kl
        self.free_bits = float(free_bits)

    def __repr__(self) -> str:
        options = f"particles={self.num_particles}, kl={self.kl!r}"
        if self.gradient != "reparameterized":
            options += f", gradient={self.gradient!r}"
        if self.free_bits:
            options += f", free_bits={self.free_bits!r}"
        return f"ELBO({options})"

    def terms(
        self,
        model: Fn,
        guide: Fn,
        *args: Tensor,
        kl_weight: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Run both programs once and return the loss and the unweighted ELBO.

        See :meth:`Objective.terms`. With free bits, every site must lie in one plate over the data.
        """
        traces = self._trace(model, guide, args)
        closed = self._closed_forms(traces)
        observed, kl = self._split(traces, closed)
        elbo = (observed - kl).detach() / observed_scale(traces.model, traces.rows)
        if self.free_bits:
            kl = self._floored(traces, closed)
        particles = self.num_particles
        return (kl_weight * kl - observed) / particles, elbo / particles

    def kl_used(self, model: Fn, guide: Fn, *args: Tensor) -> dict[str, str]:
        """Return by latent site of the guide how its KL term is computed: analytic or sampled."""
        traces = self._pilot(model, guide, args)
        closed = self._closed_forms(traces)
        return {
            name: "analytic" if name in closed else "sampled"
            for name, _ in latent_sites(traces.guide)
        }

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss as a differentiable scalar, as Pyro's class does."""
        return self._kind.differentiable_loss(self, model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss and backpropagate it, as Pyro's class does."""
        return self._kind.loss_and_grads(self, model, guide, *args, **kwargs)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss."""
        return self._kind.loss(self, model, guide, *args, **kwargs)

    @property
    def _kind(self) -> Any:
        """Class that computes the loss: Pyro's own if it can, since it takes discrete latents."""
        sampled = self.kl == "sampled" and not self.free_bits
        return Trace_ELBO if sampled and self.gradient == "reparameterized" else Objective

    def _split(self, traces: Traces, closed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sum the log densities of the observed sites, and the KL terms, also over particles."""
        observed: Tensor | float = 0.0
        kl: Tensor | float = sum(closed.values())
        log_q: Tensor | float = 0.0
        for name, site in sample_sites(traces.model):
            if site["is_observed"]:
                observed = observed + site["log_prob_sum"]
            elif name not in closed:
                kl = kl - site["log_prob_sum"]
        for name, site in sample_sites(traces.guide):
            if site["is_observed"]:
                kl = kl + site["log_prob_sum"]
            elif name not in closed:
                log_q = log_q + site["log_prob_sum"]
        if traces.path is not None:
            log_q = traces.path.along_draws(torch.as_tensor(log_q), lambda _, terms: terms.sum())
        return torch.as_tensor(observed), torch.as_tensor(kl + log_q)

    def _floored(self, traces: Traces, closed: Mapping[str, Tensor]) -> Tensor:
        """Sum the KL terms with free bits, also over particles."""
        plate = self._data_plate(traces)
        check_match(traces.model, traces.guide)
        prior = dict(latent_sites(traces.model))
        total: Tensor | float = 0.0
        for name, site in sample_sites(traces.guide):
            if name in prior:
                kl = floored_kl(
                    site,
                    prior[name],
                    plate,
                    free_bits=self.free_bits,
                    analytic=name in closed,
                )
                total = total + plate.scale * plate.rows * plate.particles * kl
            else:
                total = total + site["log_prob_sum"]
        return torch.as_tensor(total)

    def _closed_forms(self, traces: Traces) -> dict[str, Tensor]:
        """Closed-form KL of the latent sites that have one, summed with the model's scale."""
        if self.kl == "sampled":
            return {}
        prior = dict(latent_sites(traces.model))
        latents = [name for name, _ in latent_sites(traces.guide) if name in prior]
        found = {}
        for name in latents if latents == list(prior) else []:
            q: Any = traces.guide.nodes[name]
            p = prior[name]
            if is_delta(q["fn"]):  # its closed form leaves its density out
                continue
            try:
                kl = kl_divergence(q["fn"], p["fn"])
            except NotImplementedError:
                continue
            kl = torch.as_tensor(kl)  # a plain zero where all is masked
            found[name] = scale_and_mask(kl, scale=p["scale"], mask=p["mask"]).sum()
        return found
