"""Codes of data, and data from their codes: moments and draws of q(z|x), and E[x|z] over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..common.seeding import seeded
from ..common.verbs import verb
from ..data import AnyData
from ..evidence.sizes import check_sizes
from ..programs.checks import kind
from ..programs.evaluation import BLOCK, Block, evaluating
from ..programs.moments import Moments, classes_of, moments_of
from ..programs.traces import Fn, latent_sites, observed_sites

__all__ = ["Encoding", "Reconstruction", "encode", "reconstruct"]

_AT_ONCE = 16  # draws for each datum that go through the programs at once

Columns = dict[str, Tensor]
Found = dict[str, Columns]


@dataclass(frozen=True, eq=False)
class Encoding:
    """What a guide says of the latents of N data, by latent site, on the CPU.

    A latent that is a class index has the probabilities of its C classes as mean, ``(N, ..., C)``.

    Attributes:
        mean: E[z|x] under q(z|x), shape ``(N, ...)``.
        scale: standard deviation of z under q(z|x), likewise.
        error: Monte-Carlo standard error of ``mean``: 0 where it is exact, as for latents that
            depend on the data alone and not on other latents.
        draws: draws of q(z|x), shape ``(N, draws, ...)``.
    """

    mean: Columns
    scale: Columns
    error: Columns
    draws: Columns = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.mean.values())))

    def columns(self) -> Columns:
        """Return all by name, the data first: ``z_mean``, ``z_scale``, ``z_error``, ``z_draw``."""
        found = {}
        for site in self.mean:
            for what in ("mean", "scale", "error"):
                found[f"{site}_{what}"] = getattr(self, what)[site]
            if site in self.draws:
                found[f"{site}_draw"] = self.draws[site]
        return found

    def __str__(self) -> str:
        return _listed("q(z|x)", self.mean, self.error)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    r"""E[x|z] of N data, averaged over their q(z|x), by observed site, on the CPU.

    Attributes:
        mean: :math:`E_{q(z|x)} E[x|z]`, shape of the data; of class indices the most probable one.
        error: Monte-Carlo standard error of ``mean``; NaN for class indices.
    """

    mean: Columns
    error: Columns

    def __len__(self) -> int:
        return len(next(iter(self.mean.values())))

    def columns(self) -> Columns:
        """Return both by name, the data first: ``x_mean``, ``x_error``."""
        named = (("mean", self.mean), ("error", self.error))
        return {f"{site}_{what}": of[site] for site in self.mean for what, of in named}

    def __str__(self) -> str:
        return _listed("E[x|z] over q(z|x)", self.mean, self.error)


@verb
def encode(
    model: Fn,
    guide: Fn,
    x: AnyData,
    *,
    samples: int = 100,
    draws: int = 0,
    mask: Tensor | None = None,
    seed: int = 0,
    progress: bool | None = False,
) -> Encoding:
    r"""Encode data: mean, scale and draws of every latent under the guide.

    .. math:: E[z] = E_a E[z | a, x], \qquad Var[z] = E_a Var[z | a, x] + Var_a E[z | a, x]

    with a the latents that the guide draws before z. A latent without any, such as a VAE's, gets
    its distribution's own moments, exactly; those further down, and distributions that do not tell
    their moments (flows), get an average over ``samples`` draws, with its error. It is the guide
    that is described, so right as far as that is: :func:`~pyro_vae.sample_posterior` draws from
    p(z|x) itself.

    Args:
        model: Pyro program.
        guide: Pyro program.
        x: N data, as for ``log_evidence``.
        samples: draws for each datum, at least 2.
        draws: how many of them to return, at most ``samples``.
        mask: True where a value is observed, as for ``log_evidence``.
        seed: seed of the draws.
        progress: show a progress bar; ``None`` if the output is a terminal.

    Raises:
        ValueError: a wrong number of draws; no latents left to draw; latents of the whole data
            set; all that ``log_evidence`` refuses of programs and data.
        NotEnoughMemory: the draws to return do not fit.
    """
    _check_number("samples", samples, least=2)
    _check_number("draws", draws, least=0)
    if draws > samples:
        raise ValueError(
            f"draws are returned of the {samples} samples, so at most as many; got draws={draws}. "
            f"Take more: samples={draws}."
        )
    with evaluating(model, guide, x, mask=mask, narrow=True, each="encode") as evaluation:
        pair = evaluation.pair
        check_sizes(evaluation, BLOCK, 0, keep=draws)
        names = list(pair.supports(next(evaluation.blocks()).batch))
        if not names:
            raise ValueError("no latent is left to encode: the model sums them all out.")

        def work(block: Block) -> Found:
            moments = {name: Moments() for name in names}
            drawn: dict[str, list[Tensor]] = {name: [] for name in names}
            for begin in range(0, samples, _AT_ONCE):
                number = min(_AT_ONCE, samples - begin)
                with seeded("encode", seed, block.first // BLOCK, begin):
                    trace = pair.trace("guide", block.batch, number)
                values = pair.drawn(trace, block.batch, number)
                for name, site in latent_sites(trace):
                    if name in moments:
                        mean, variance = moments_of(pair, site, number)
                        if mean is None or variance is None:
                            mean, variance = values[name], None
                        moments[name].add(mean, variance)
                        drawn[name].append(values[name][: max(0, draws - begin)])
            found: Found = {name: moment.found() for name, moment in moments.items()}
            for name in names if draws else ():
                found[name]["draws"] = torch.cat(drawn[name]).movedim(0, pair.data_axis)
            return _rows(found, pair.data_axis - 1, block.count)

        parts = evaluation.map(work, desc="encoding", progress=progress)
    return Encoding(**_joined(parts))


@verb
def reconstruct(
    model: Fn,
    guide: Fn,
    x: AnyData,
    *,
    samples: int = 100,
    mask: Tensor | None = None,
    seed: int = 0,
    progress: bool | None = False,
) -> Reconstruction:
    r"""Reconstruct data: the mean of x given z, averaged over the guide's z.

    .. math:: \hat x_n = \frac{1}{S} \sum_s E[x | z_s], \qquad z_s \sim q(z | x_n)

    (A model's own ``reconstruct`` decodes the mean of q(z|x) alone, without an average.) Arguments
    are those of :func:`encode`; all observed sites are reconstructed, those that a mask hides, too.

    Raises:
        ValueError: latents that the model sums out, which have no draws; all that :func:`encode`
            refuses.
    """
    _check_number("samples", samples, least=2)
    with evaluating(model, guide, x, mask=mask, narrow=True, each="reconstruct") as evaluation:
        pair = evaluation.pair
        if pair.summed:
            raise ValueError(
                f"latents {', '.join(map(repr, pair.summed))} are summed out and have no draws to "
                "reconstruct from; add them to the guide."
            )

        def work(block: Block) -> Found:
            moments: dict[str, Moments] = {}
            indices = set()
            for begin in range(0, samples, _AT_ONCE):
                number = min(_AT_ONCE, samples - begin)
                with seeded("encode", seed, block.first // BLOCK, begin):
                    values, _ = pair.propose(block.batch, number)
                for name, site in observed_sites(pair.trace("model", block.batch, number, values)):
                    mean, _ = moments_of(pair, site, number)
                    if mean is None:
                        raise ValueError(
                            f"site {name!r} is {kind(site)}, which does not tell its mean, so that "
                            "it cannot be reconstructed."
                        )
                    moments.setdefault(name, Moments()).add(mean, None)
                    if classes_of(site["fn"]):
                        indices.add(name)
            found: Found = {}
            for name, moment in moments.items():
                found[name] = {what: moment.found()[what] for what in ("mean", "error")}
                if name in indices:
                    index = found[name]["mean"].argmax(-1).to(moment.dtype)
                    found[name] = {"mean": index, "error": torch.full_like(index, torch.nan)}
            return _rows(found, pair.data_axis - 1, block.count)

        parts = evaluation.map(work, desc="reconstructing", progress=progress)
    return Reconstruction(**_joined(parts))


def _rows(found: Found, axis: int, count: int) -> Found:
    """Put the data first, without padding, on the CPU."""
    return {
        name: {what: value.movedim(axis, 0)[:count].cpu() for what, value in columns.items()}
        for name, columns in found.items()
    }


def _joined(parts: list[Found]) -> dict[str, Columns]:
    """Join blocks of data, by column and site."""
    return {
        what: {name: torch.cat([part[name][what] for part in parts]) for name in parts[0]}
        for what in next(iter(parts[0].values()))
    }


def _check_number(name: str, number: Any, *, least: int) -> None:
    if not isinstance(number, int) or number < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {number!r}.")


def _listed(what: str, mean: Columns, error: Columns) -> str:
    lines = []
    for name, value in mean.items():
        most = error[name].nan_to_num().max().item()
        exact = "exact" if most == 0 else f"Monte-Carlo error at most {most:.2g}"
        lines.append(f"{name:<8} {what}: {tuple(value.shape)}, {exact}")
    return "\n".join(lines)
