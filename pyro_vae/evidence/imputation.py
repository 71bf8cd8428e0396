"""Missing values filled with draws of the model, given the values that are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..common.options import Method
from ..common.schema import Schema
from ..common.seeding import seeded
from ..common.verbs import verb
from ..data import AnyData, Data, imputed
from ..programs.evaluation import Block, Evaluation, evaluating
from ..programs.masks import check_mask
from ..programs.traces import Fn
from .annealing import Annealing
from .posterior import PosteriorDraws, sample_posterior
from .result import Evidence

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Imputation", "impute"]


@dataclass(frozen=True, eq=False)
class Imputation:
    """Data whose missing values were drawn, several times.

    Attributes:
        draws: completed data, ``(n, N, *event_shape)``, on the CPU; equal to the given data where
            these are observed.
        missing: where values were drawn, ``(N, *event_shape)``.
        evidence: log p of each datum's observed values, with the diagnostics of its weights.
        schema: columns of a table.
        table: the table as it was given, with columns that the model does not know.
    """

    draws: Tensor
    missing: Tensor
    evidence: Evidence
    schema: Schema | None = None
    table: Any = None

    @property
    def mean(self) -> Tensor:
        """Means of the draws, ``(N, *event_shape)``; of categories the mean position."""
        return self.draws.mean(0)

    @property
    def sd(self) -> Tensor:
        """Standard deviations of the draws, 0 where observed."""
        return self.draws.std(0, correction=0)

    def __len__(self) -> int:
        return len(self.draws)

    def frame(self, *, each: bool = False) -> DataFrame:
        """Return the table with its missing cells filled; all others are as they were given.

        Columns that the model ignores stay, and types of columns where they hold what is filled in.
        Missing cells hold the mean of the draws (rounded for counts), or the most frequent
        category. A column ``NAME.spread`` beside each column with missing cells says how sure that
        is: the standard deviation of the draws or, of categories, the share of other draws; empty
        where the cell was given. Where the table has a column of such a name, another one is taken,
        with a warning.

        Args:
            each: return the n completed tables instead, one below the other, with a first column
                ``draw`` from 0 on and a second one ``row``.

        Raises:
            ValueError: data that are no table.
        """
        if self.schema is None:
            raise ValueError("the data were no table, so that no schema says what they mean.")
        return imputed(self.draws, self.missing, self.schema, given=self.table, each=each)


@verb
def impute(
    model: Fn,
    guide: Fn,
    x: AnyData,
    n: int = 20,
    *,
    method: Method = "auto",
    samples: int = 1000,
    defensive: float | None = None,
    annealing: Annealing | None = None,
    mask: Tensor | None = None,
    search: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> Imputation:
    r"""Draw the missing values of each datum n times, given its observed ones.

    .. math:: x_{mis} \sim p(x_{mis} \mid z), \qquad z \sim p(z \mid x_{obs})

    with z from :func:`~pyro_vae.sample_posterior` (sampling-importance-resampling), so that draws
    are those of the model's :math:`p(x_{mis} \mid x_{obs})`, whatever the guide's errors. Their
    spread is that of one value, noise included; uncertainty of the parameters does not count.

    Args:
        model: Pyro program; every site inside one outermost plate over the data, its observation an
            argument.
        guide: Pyro program with the model's latent sites.
        x: N data, NaN where missing if the program takes it (:class:`~pyro_vae.likelihoods.Columns`
            does); else whole ones, with a mask.
        n: draws for each datum, at most ``samples``.
        mask: True where a value of x is observed.
        method: see :func:`~pyro_vae.sample_posterior`, as for all that follow.
        samples: draws of the proposal for each datum.
        defensive: share of the draws to take from the prior.
        annealing: settings of the last rung.
        search: look for posterior mass that the proposal misses.
        seed: seed of all draws.
        progress: show a progress bar; by default if the output is a terminal.

    Returns:
        Completed data, n of each.

    Raises:
        ValueError: all that :func:`~pyro_vae.sample_posterior` refuses; an observation that is no
            argument of the model.

    Warns:
        UnreliableEvidence: draws of some data are to doubt.

    References:
        Rubin (1987), Multiple Imputation for Nonresponse in Surveys.
        Mattei and Frellsen (2019), MIWAE. https://arxiv.org/abs/1812.02633
    """
    posterior = sample_posterior(
        model,
        guide,
        x,
        n,
        method=method,
        samples=samples,
        defensive=defensive,
        annealing=annealing,
        mask=mask,
        search=search,
        seed=seed,
        progress=progress,
    )
    with evaluating(model, guide, x, mask=mask, narrow=True, each="impute") as evaluation:
        blocks = list(evaluation.map(lambda block: _drawn(evaluation, block, posterior, seed)))
    draws = torch.cat([drawn for drawn, _ in blocks], 1)
    given = torch.cat([known for _, known in blocks])
    missing = given.isnan() if mask is None else given.isnan() | ~check_mask(mask.cpu(), given)
    draws = torch.where(missing, draws, given)
    schema, table = (x.schema, x.table) if isinstance(x, Data) else (None, None)
    return Imputation(draws, missing, posterior.evidence, schema, table)


def _drawn(
    evaluation: Evaluation, block: Block, posterior: PosteriorDraws, seed: int
) -> tuple[Tensor, Tensor]:
    """Data of a block drawn anew at draws of their latents; and the given ones."""
    pair = evaluation.pair
    rows = torch.arange(len(block.batch[0])).clamp_max(block.count - 1) + block.first
    values = {
        name: value[:, rows].movedim(1, pair.data_axis).to(evaluation.device)
        for name, value in posterior.values.items()
    }
    number, _ = next(iter(pair.observed(block.batch).items()))
    with seeded("impute", seed, block.first):
        new = pair.replicate(block.batch, len(posterior), values)
    return new[number][:, : block.count].cpu(), block.batch[number][: block.count].cpu()
