"""Simulation-based calibration of a guide, before and after weighting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..common.devices import sent
from ..common.options import Method
from ..common.seeding import seeded
from ..common.tables import align
from ..common.verbs import verb
from ..data import AnyData
from ..evidence.ladder import Ladder
from ..evidence.sizes import chunk_for
from ..programs.evaluation import Block, Evaluation, evaluating
from ..programs.pair import Pair, Values
from ..programs.traces import Batch, Fn
from .uniformity import Uniformity

if TYPE_CHECKING:
    from ..plots import Figure

__all__ = ["Calibration", "calibration"]

LIKELIHOOD = "log p(x|z)"
_LEAST = 50
_SHOWN = 16


@dataclass(frozen=True, eq=False)
class Calibration:
    r"""Ranks of the latents that data were simulated from, among draws given those data.

    A rank is a number on [0, 1]: uniform for draws of the posterior; near 0 and 1 too often if they
    are too narrow; near 1/2 if too wide; to one side if biased.

    Attributes:
        names: one for each latent dimension, and ``"log p(x|z)"``, D in all.
        guide: ranks among draws of the guide, ``(M, D)``, float64.
        weighted: ranks among draws resampled by importance weights, ``(M, D)``, float64.
        draws: draws for each simulated datum.
        level: simultaneous level of the bands, for all dimensions together.
        method: proposal of the weighted draws.
        share_doubtful: share of simulated data whose weights are to doubt.
        seed: seed of the draws.
    """

    names: tuple[str, ...]
    guide: Tensor
    weighted: Tensor
    draws: int
    level: float
    method: Method
    share_doubtful: float
    seed: int

    def __len__(self) -> int:
        return len(self.guide)

    @property
    def uniformity(self) -> Uniformity:
        """Test that the ranks of a dimension are uniform."""
        return Uniformity.of(len(self))

    def p_values(self) -> tuple[Tensor, Tensor]:
        """P-values of uniform ranks, of guide and weighted draws, each ``(D,)``."""
        test = self.uniformity
        return test.p_values(self.guide), test.p_values(self.weighted)

    def inside(self) -> tuple[Tensor, Tensor]:
        """Whether each dimension is inside the band, for guide and weighted draws, ``(D,)``."""
        one, other = self.p_values()
        return one >= self._limit, other >= self._limit

    @property
    def _limit(self) -> float:
        return (1 - self.level) / len(self.names)

    def coverage(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """How often central intervals hold the truth, of guide and weighted draws.

        Args:
            levels: nominal probabilities of the intervals, ``(L,)``.

        Returns:
            Shares of the simulated data, each ``(L, D)``.
        """
        limit = levels.double()[:, None, None] / 2
        one, other = (
            ((ranks - 0.5).abs() <= limit).double().mean(1) for ranks in (self.guide, self.weighted)
        )
        return one, other

    @property
    def verdict(self) -> str:
        """How many dimensions are calibrated, of guide and weighted draws."""
        one, other = (int(inside.sum()) for inside in self.inside())
        total = len(self.names)
        return f"calibrated: guide {one} of {total}, weighted draws {other} of {total}"

    def __str__(self) -> str:
        (p_guide, p_weighted), (in_guide, in_weighted) = self.p_values(), self.inside()
        half, most = zip(*self.coverage(torch.tensor([0.5, 0.9])), strict=True)
        rows = [["", "50 % covers", "weighted", "90 % covers", "weighted", "p-value", "weighted"]]
        order = p_guide.argsort(stable=True)[:_SHOWN].sort().values.tolist()
        for d in order:
            shares = (f"{share[d]:.1%}" for pair in (half, most) for share in pair)
            tests = ((p_guide, in_guide), (p_weighted, in_weighted))
            marked = (f"{p[d]:.4f}{' ' if inside[d] else '!'}" for p, inside in tests)
            rows.append([self.names[d], *shares, *marked])
        left = len(self.names) - len(order)
        lines = [line.rstrip() for line in align(rows)]
        if left:
            lines.append(f"({left} more dimensions with larger p-values of the guide)")
        doubts = f"; {self.share_doubtful:.0%} of the weights to doubt" * bool(self.share_doubtful)
        said = (
            f"{len(self)} simulated data, {self.draws} draws of each, weighted by method "
            f"{self.method!r}{doubts}; !: outside the {self.level:.0%} band of all dimensions"
        )
        return "\n".join([*lines, self.verdict, said])

    def summary(self) -> dict[str, Any]:
        """Plain values, for a file."""
        (p_guide, p_weighted), (in_guide, in_weighted) = self.p_values(), self.inside()
        most = [share[0] for share in self.coverage(torch.tensor([0.9]))]
        return {
            "verdict": self.verdict,
            "simulations": len(self),
            "draws": self.draws,
            "level": self.level,
            "method": self.method,
            "share_doubtful": self.share_doubtful,
            "seed": self.seed,
            "dimensions": {
                name: {
                    "p_value_guide": p_guide[d].item(),
                    "p_value_weighted": p_weighted[d].item(),
                    "inside_guide": bool(in_guide[d]),
                    "inside_weighted": bool(in_weighted[d]),
                    "coverage_90_guide": most[0][d].item(),
                    "coverage_90_weighted": most[1][d].item(),
                }
                for d, name in enumerate(self.names)
            },
        }

    def plot(self, *, title: str | None = None) -> Figure:
        """Draw the ranks' distribution functions in their band, and the coverage of intervals."""
        from ..plots import calibration_curves

        test = self.uniformity
        return calibration_curves(
            {"guide": self.guide, "weighted": self.weighted},
            dict(zip(("guide", "weighted"), self.inside(), strict=True)),
            band=(test.grid, *test.band(1 - self._limit)),
            names=self.names,
            title=title,
        )


@verb
@torch.no_grad()
def calibration(
    model: Fn,
    guide: Fn,
    x: AnyData,
    *,
    simulations: int = 500,
    draws: int = 63,
    method: Method = "auto",
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: bool | None = None,
) -> Calibration:
    r"""Check a guide, and what its weights make of it, on data simulated from the model.

    With :math:`z^* \sim p(z)` and :math:`x \sim p(x \mid z^*)`, the latents :math:`z^*` are a draw
    of the posterior of x, so that among L draws of it their rank is uniform (ties are broken by
    chance, and so is the place within a rank):

    .. math:: u_d = \frac{1}{L + 1} \Big(\sum_{l=1}^{L} 1[z_{ld} < z^*_d] + v\Big), \qquad
        v \sim U(0, 1)

    This is looked at for each latent dimension, for draws of the guide and for draws resampled by
    their importance weights (as of :func:`~pyro_vae.sample_posterior`), and for
    :math:`\log p(x \mid z)`, which shows what the latents alone do not: draws that do not depend on
    the data, such as the prior's, have uniform ranks in every latent (Modrák et al. 2023).

    It is the guide on data as the model makes them that is checked, not on those of the world.

    Args:
        model: Pyro program; every site inside one outermost plate over the data.
        guide: Pyro program with the model's latent sites.
        x: data, which give the shape of the simulated ones, and the programs' other arguments.
        simulations: number M of simulated data; small miscalibration shows in many only.
        draws: L draws for each, well below the effective sample size of the weights.
        method: proposal of the weighted draws.
        samples: its draws for each simulated datum, at least L.
        level: simultaneous level of the bands: the probability that, of right draws, all ranks of
            all dimensions are inside.
        seed: seed of all draws.
        progress: show a progress bar; by default if the output is a terminal.

    Returns:
        The ranks, with their p-values, bands and coverage.

    Raises:
        ValueError: fewer than 50 simulations; draws less than 1 or more than ``samples``; a level
            outside (0, 1); a program that cannot be simulated; another method than ``"guide"`` with
            discrete latents or programs of a fixed number of data.

    References:
        Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based
        calibration. https://arxiv.org/abs/1804.06788
        Modrák et al. (2023), Simulation-based calibration checking for Bayesian computation: the
        choice of test quantities shapes sensitivity. https://arxiv.org/abs/2211.02383
        Säilynoja et al. (2022). https://doi.org/10.1007/s11222-022-10090-6
    """
    if not isinstance(simulations, int) or simulations < _LEAST:
        raise ValueError(
            f"simulations must be at least {_LEAST}, a whole number; got {simulations!r}."
        )
    if not isinstance(draws, int) or not 1 <= draws <= samples:
        raise ValueError(
            f"draws must be a whole number from 1 to samples={samples}; got {draws!r}. More draws "
            "need more samples."
        )
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1; got {level}.")
    ways: dict[str, Any] = {"checked": False, "narrow": True, "each": "calibration"}
    with evaluating(model, guide, x, **ways) as evaluation:
        pair = evaluation.pair
        evaluation.check_amortized("calibration")
        evaluation.check_method(method)
        chunk = chunk_for(evaluation, evaluation.rows)
        ladder = Ladder(method=method, samples=samples, chunk=chunk, keep=draws)
        parts = list(_passes(evaluation, ladder, simulations, seed, progress))
        names = _names(pair, next(evaluation.blocks()).batch)
    one, other, doubtful = (torch.cat(column) for column in zip(*parts, strict=True))
    share = doubtful.double().mean().item()
    return Calibration(names, one, other, draws, level, method, share, seed)


def _passes(
    evaluation: Evaluation, ladder: Ladder, simulations: int, seed: int, progress: bool | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Simulate at the data, again and again if they are few, and rank; by block."""
    pair = evaluation.pair
    for start in range(0, simulations, len(evaluation)):
        index = torch.arange(min(len(evaluation), simulations - start))

        def work(block: Block, start: int = start) -> tuple[Tensor, Tensor, Tensor]:
            key = (seed, start, block.first)
            with seeded("simulate", *key):
                batch, truth = pair.simulate(block.batch)
            with seeded("calibrate", *key):
                values, _ = pair.propose(batch, ladder.keep)
            exact = _quantities(pair, batch, truth)
            found = _ranks(exact, _quantities(pair, batch, values), ("ranks", *key))
            after = torch.empty_like(found)
            doubtful = torch.zeros(len(found), dtype=torch.bool)
            for weighed in ladder.weigh(pair, batch, key):
                rows, weighted = weighed.fitted.index, weighed.draws or {}
                mine = exact[:, sent(rows, exact.device)]
                drawn = _quantities(pair, weighed.fitted.batch, weighted)
                after[rows] = _ranks(mine, drawn, ("ranks", *key, weighed.rung))
                doubtful[rows] = weighed.doubtful()
            count = block.count
            return found[:count], after[:count], doubtful[:count]

        yield from evaluation.map(work, index=index, desc="calibration", progress=progress)


def _quantities(pair: Pair, batch: Batch, values: Values) -> Tensor:
    """Latent dimensions of draws, and log p(x|z), side by side, ``(S, N, D)``, float64."""
    columns = [
        values[name].movedim(pair.data_axis, 1).double().flatten(2)
        if values[name].dim() > 2
        else values[name].double()[..., None]
        for name in _sites(pair, batch)
    ]
    log_prior, log_joint = pair.log_terms(batch, values)
    return torch.cat([*columns, (log_joint - log_prior)[..., None]], -1)


def _sites(pair: Pair, batch: Batch) -> list[str]:
    return list(pair.supports(batch))


def _names(pair: Pair, batch: Batch) -> tuple[str, ...]:
    """Names of the quantities."""
    values = pair.simulate(batch)[1]
    names = []
    for name in _sites(pair, batch):
        size = values[name].numel() // len(batch[0])
        names += [name] if size == 1 else [f"{name}[{d}]" for d in range(size)]
    return (*names, LIKELIHOOD)


def _ranks(truth: Tensor, draws: Tensor, key: tuple[Any, ...]) -> Tensor:
    """Ranks of ``(1, N, D)`` among ``(S, N, D)``, on [0, 1], ``(N, D)``, on the CPU."""
    below = (draws < truth).double().sum(0).cpu()
    ties = (draws == truth).double().sum(0).cpu()
    with seeded(*key):
        place = torch.rand(below.shape, dtype=torch.float64)
    return (below + place * (ties + 1)) / (len(draws) + 1)
