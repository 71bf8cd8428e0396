"""Draws of each datum's posterior, by sampling-importance-resampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..common.options import Method
from ..common.verbs import verb
from ..data import AnyData
from ..programs.evaluation import evaluating
from ..programs.pair import Values
from ..programs.traces import Fn
from .annealing import Annealing
from .arviz import labelled
from .export import to_datatree
from .importance import estimate, warn_if_unreliable
from .ladder import Ladder
from .result import Evidence

__all__ = ["PosteriorDraws", "check_draws", "sample_posterior"]


@dataclass(frozen=True, eq=False)
class PosteriorDraws:
    """Draws of p(z|x) of each of N data, and what their weights say of them.

    Attributes:
        values: by latent site, of shape ``(n, N, ...)``, on the CPU: inner plates and the event
            follow the data. Where latents belong to the whole data set, in the site's own shape,
            ``(n, ...)``.
        evidence: log p(x) by the same draws, with the effective sample size, k̂ and the verdict of
            each datum's weights.
    """

    values: Values
    evidence: Evidence

    @property
    def ess(self) -> Tensor:
        """Effective sample size of each datum's weights, ``(N,)``: its draws are worth no more."""
        return self.evidence.ess

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), ()))

    def __getitem__(self, site: str) -> Tensor:
        return self.values[site]

    def verdicts(self) -> list[str]:
        """Return for each datum ``"trusted"``, or ``"doubtful: "`` and why."""
        return self.evidence.verdicts()

    def to_datatree(
        self,
        *,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the draws and their evidence as a labelled tree, for xarray and ArviZ.

        The group ``posterior`` has a variable for each latent site, with dimensions ``chain`` (one,
        as the draws are independent), ``draw``, ``datum`` and those of the site, ``z_dim_0``;
        ``log_evidence`` is that of :func:`~pyro_vae.evidence.to_datatree`.

        Args:
            dims: names of a site's own dimensions, by site, in place of ``z_dim_0``, ...
            coords: labels along dimensions, by the dimension's name (``"datum"``, too).

        Raises:
            ImportError: xarray is not installed.
            ValueError: names for a site that is not there, or another number of them; labels of
                another number, or of no dimension.
        """
        tree = to_datatree(self.evidence)
        lead = ("chain", "draw") if self.evidence.data_set else ("chain", "draw", "datum")
        named = labelled(self.values, lead, dims or {}, coords or {}, number=len(self.evidence))
        return tree.from_dict({**tree.to_dict(), "/posterior": named}, name=tree.name)

    def __str__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.values.items())
        used = ", ".join(f"{name} {count}" for name, count in self.evidence.rungs().items())
        rows = {
            "draws": shapes or "none: no latents are left to draw",
            "effective sample size": f"median {self.ess.median():.1f}, least {self.ess.min():.1f} "
            f"of {self.evidence.samples}",
            "proposals": used,
            "verdict": self.evidence.verdict,
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


@verb
def sample_posterior(
    model: Fn,
    guide: Fn,
    x: AnyData,
    n: int,
    *,
    method: Method = "auto",
    samples: int = 1000,
    defensive: float | None = None,
    annealing: Annealing | None = None,
    mask: Tensor | None = None,
    chunk: int | None = None,
    search: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> PosteriorDraws:
    r"""Draw latents of each datum from :math:`p(z \mid x)`, not from the guide.

    K draws of the proposal :math:`q_n` that :func:`~pyro_vae.log_evidence` would use are resampled
    by their importance weights:

    .. math:: P(\tilde z_n = z_k) = \frac{w_k}{\sum_j w_j}, \qquad
        w_k = \frac{p(x_n, z_k)}{q_n(z_k)}, \qquad z_k \sim q_n

    (systematic resampling in random order). The distribution of a draw is the posterior up to a
    bias of order 1/K; on the last rung the ends of the annealed chains are resampled. Draws repeat
    themselves as n nears the effective sample size, so take more ``samples`` for more draws.
    Discrete latents that the model sums out are not drawn.

    Args:
        model: Pyro program; every site inside one outermost plate over the data.
        guide: Pyro program with the model's latent sites.
        x: N data, as for :func:`~pyro_vae.log_evidence`, which has the other arguments, too.
        n: draws for each datum, at most ``samples``.
        method: rung of the ladder, or ``"auto"``.
        samples: draws K of the proposal for each datum.
        defensive: share of the draws to take from the prior.
        annealing: settings of the last rung.
        mask: True where a value of x is observed: draws given the observed values.
        chunk: samples that go through the model at once.
        search: look for posterior mass that the proposal misses.
        seed: seed of the draws.
        progress: show a progress bar; by default if the output is a terminal.

    Returns:
        Draws by site, of shape ``(n, N, ...)``, with the evidence.

    Raises:
        ValueError: n less than 1 or more than ``samples``, and all that
            :func:`~pyro_vae.log_evidence` refuses.

    Warns:
        UnreliableEvidence: weights of some data are to doubt, and with them their draws.

    References:
        Rubin (1988), Using the SIR algorithm to simulate posterior distributions.
        Smith and Gelfand (1992). https://doi.org/10.1080/00031305.1992.10475856
    """
    check_draws(n, samples)
    ladder = Ladder(
        method=method,
        samples=samples,
        defensive=defensive,
        annealing=annealing or Annealing(),
        keep=n,
    )
    narrow = method != "guide" or bool(defensive)
    with evaluating(model, guide, x, mask=mask, narrow=narrow) as evaluation:
        evidence, values = estimate(
            evaluation, ladder, chunk=chunk, search=search, seed=seed, progress=progress
        )
    warn_if_unreliable(evidence)
    if evidence.data_set:
        values = {name: value[:, 0] for name, value in values.items()}
    return PosteriorDraws(values, evidence)


def check_draws(n: Any, samples: Any) -> None:
    """Check numbers of draws, before there is work in them.

    Raises:
        ValueError: samples or draws less than 1, or more draws than samples.
    """
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples must be a whole number, at least 1; got {samples!r}.")
    if not isinstance(n, int) or not 1 <= n <= samples:
        raise ValueError(
            f"n, the draws for each datum, must be a whole number from 1 to samples={samples}; got "
            f"{n!r}. More draws need more samples."
        )
