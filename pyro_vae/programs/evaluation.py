"""Programs and data, ready to be evaluated: checked, on the device, shared among processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..common.checks import check_data
from ..common.processes import Processes
from ..data import AnyData, Source
from .checks import NonFiniteDensity
from .inputs import source_for
from .layout import pad
from .masks import check_hidden, fill, mask_guide, mask_model
from .modules import check_callable, check_type, device_of, evaluation_mode, modules_used
from .observations import check_support
from .pair import Pair
from .traces import Batch, Fn

__all__ = ["BLOCK", "Block", "Evaluation", "evaluating"]

T = TypeVar("T")

BLOCK = 64
"""Data that are evaluated at once. Draws are seeded by block, so that this number decides which
random numbers a datum gets."""

_FEW = 3  # data to see which modules are called


@dataclass(frozen=True)
class Block:
    """Some of the data, on the device.

    Attributes:
        first: position of the first datum.
        count: number of data; rows beyond it are padding.
        batch: arguments of the programs.
        done: call it with a number of data to show that they are done.
    """

    first: int
    count: int
    batch: Batch
    done: Callable[[int], object] = lambda number: None


@dataclass(frozen=True)
class Evaluation:
    """A pair of programs, inspected, and the data to evaluate it on.

    Attributes:
        pair: the programs (with a mask: of a mask, too).
        source: the data.
        device: where the programs' modules are.
        processes: the processes that share the work.
        checked: whether each block is held against the likelihood's support.
        watched: makes a program one that puts the modules it calls in ``eval()`` mode.
    """

    pair: Pair
    source: Source
    device: torch.device
    processes: Processes
    checked: bool
    watched: Callable[[Fn], Fn]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def rows(self) -> int:
        """Data in a block: 64, or what the programs insist on."""
        return self.pair.fixed_rows or BLOCK

    def blocks(self, rows: int | None = None, *, index: Tensor | None = None) -> Iterator[Block]:
        """All data, block by block; or those at ascending positions ``index``."""
        rows = rows or self.rows
        first = 0
        parts = self.source.blocks(rows) if index is None else self.source.select(index, rows)
        for part in parts:
            batch = tuple(argument.to(self.device) for argument in part)
            yield Block(first, len(batch[0]), pad(batch, self.pair.fixed_rows or 0))
            first += len(batch[0])

    def map(
        self,
        work: Callable[[Block], T],
        *,
        rows: int | None = None,
        index: Tensor | None = None,
        desc: str = "data",
        progress: bool | None = False,
    ) -> list[T]:
        """Apply a function to every block, each in one of the processes.

        Args:
            work: the function; what it returns is sent to the other processes.
            rows: data in a block.
            index: positions of the data, if not all.
            desc: what the progress bar says.
            progress: show a progress bar; ``None`` if the output is a terminal.

        Returns:
            The results in the order of the data, in every process.

        Raises:
            NonFiniteDensity: names data by their position.
        """
        total = len(self) if index is None else len(index)
        rank, world = self.processes.rank, self.processes.world
        hidden = rank > 0 or (None if progress is None else not progress)
        mine = []
        with tqdm(total=total, desc=desc, unit="datum", disable=hidden, leave=False) as bar:

            def show(done: int) -> None:  # the other processes do about as much
                bar.update(min(done * world, total - bar.n))

            for block in itertools.islice(self.blocks(rows, index=index), rank, None, world):
                if index is None:  # of selected data the numbers are not known
                    model, guide = map(self.watched, (self.pair.model, self.pair.guide))
                    look = self.checked
                    given = (model, guide, block.batch)
                    check_support(*given, first=block.first, observations=look, masks=True)
                before = bar.n
                try:
                    mine.append(work(replace(block, done=show)))
                except NonFiniteDensity as error:
                    raise self._named(error, block, index) from None
                show(block.count - (bar.n - before) // world)
        parts = self.processes.gather(mine)
        return [parts[i % world][i // world] for i in range(sum(map(len, parts)))]

    def _named(
        self, error: NonFiniteDensity, block: Block, index: Tensor | None
    ) -> NonFiniteDensity:
        """Name the data of an error by their positions; padding repeats the last one."""
        places = [block.first + min(row, block.count - 1) for row in error.rows]
        if index is not None:
            places = index[places].tolist()
        return NonFiniteDensity(error.site, error.role, sorted(set(places)))


@contextmanager
def evaluating(
    model: Fn,
    guide: Fn,
    data: AnyData,
    *,
    mask: Tensor | None = None,
    checked: bool = True,
    narrow: bool = False,
) -> Iterator[Evaluation]:
    """Make programs and data ready to be evaluated, and evaluate them inside the block.

    The modules that the programs use are in ``eval()`` mode meanwhile, without gradients; the
    caller's random state is left as it was. Under ``torchrun`` the processes share the work.

    Args:
        model: Pyro program; every site inside one plate over the data.
        guide: Pyro program with the model's latent sites, but for those it leaves to be summed out.
        data: a tensor ``(N, *event_shape)``, a tuple of tensors (one for each argument of the
            programs), ``Data``, a dataset, or a loader that does not shuffle. What is not in memory
            is read block by block.
        mask: True where a value of the data is observed, shape of the data or of a datum.
        checked: hold each block against the likelihood's support.
        narrow: allow a guide that cannot draw all that the model allows.

    Raises:
        TypeError: programs that are not callable; data of another kind; not as many arguments as
            the programs take.
        ValueError: no data, NaN, or values of another type than the parameters; programs that are
            no pair over one plate of data.
    """
    check_callable(model=model, guide=guide)
    source = source_for(data, model, guide, finite=False)
    if mask is None:
        source = source.changed(_checked)
    else:
        mask = torch.as_tensor(mask)
    pilot = next(source.blocks(BLOCK))
    check_type(pilot[0], model, guide)
    with evaluation_mode(model, guide) as watched:
        if mask is not None:
            source = source.changed(_masking(mask, len(source)))
            model, guide = mask_model(model), mask_guide(guide)
            pilot = next(source.blocks(BLOCK))
        few = tuple(argument[:_FEW] for argument in pilot)
        used = modules_used(watched(model), watched(guide), few)
        device = device_of(*used) or pilot[0].device
        pilot = tuple(argument.to(device) for argument in pilot)
        pair = Pair.inspect(model, guide, pilot, narrow=narrow)
        rows = pair.fixed_rows or len(pilot[0])
        check_hidden(model, guide, tuple(argument[:rows] for argument in pad(pilot, rows)))
        check = checked and mask is None
        yield Evaluation(pair, source, device, Processes.join(), check, watched)


def _checked(batch: Batch, first: int) -> Batch:
    for number, argument in enumerate(batch):
        check_data(argument, what=f"argument {number}" if number else "x", first=first)
    return batch


def _masking(mask: Tensor, number: int) -> Callable[[Batch, int], Batch]:
    """Fill the missing values of blocks, and put the mask beside them."""

    def change(batch: Batch, first: int) -> Batch:
        x, *rest = batch
        for place, argument in enumerate(rest, 1):
            check_data(argument, what=f"argument {place}", first=first)
        whole = mask.dim() == x.dim() and len(mask) == number
        rows = mask[first : first + len(x)] if whole else mask
        return fill(batch, rows.to(x.device), first=first)

    return change
