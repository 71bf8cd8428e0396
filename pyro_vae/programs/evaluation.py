"""Programs and data, ready to be evaluated: checked, on the device, shared among processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from ..common.checks import check_data, reading
from ..common.devices import sent
from ..common.host import threads_worth, use_threads
from ..common.processes import Processes
from ..common.progress import Progress
from ..common.seeding import seeded
from ..data import AnyData, Source, as_source, fingerprint_of
from .arguments import bound, of_fewer
from .autoguides import density_of, of_each_datum
from .checks import NonFiniteDensity
from .inputs import data_set, source_for
from .layout import pad
from .masks import check_hidden, check_mask, fill, mask_guide, mask_model
from .modules import (
    check_callable,
    check_type,
    device_of,
    evaluation_mode,
    modules_used,
    takes_missing,
)
from .observations import check_support
from .pair import MixedRows, OneNumber, Pair
from .traces import Batch, Fn
from .whole import Whole

__all__ = ["BLOCK", "Block", "Evaluation", "evaluating"]

T = TypeVar("T")

BLOCK = 64
"""Data that are evaluated at once. Draws are seeded by block, so that this number decides which
random numbers a datum gets."""

_TRIED = 16  # samples of a block, to see how many threads they are worth
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
        source: the data, with whatever else the programs get.
        own: the data by themselves, as they were given (with their mask).
        device: where the programs' modules are.
        processes: the processes that share the work.
        checked: whether each block is held against the likelihood's support.
        watched: makes a program one that puts the modules it calls in ``eval()`` mode.
        data_set: number of data in the one data set that is a datum here; 0 where each is one.
        amortized: false if the guide is an automatic one, with parameters for each of these data.
    """

    pair: Pair
    source: Source
    own: Source
    device: torch.device
    processes: Processes
    checked: bool
    watched: Callable[[Fn], Fn]
    data_set: int = 0
    amortized: bool = True

    def __len__(self) -> int:
        return len(self.source)

    @property
    def rows(self) -> int:
        """Data in a block: 64, or what the programs insist on."""
        return self.pair.fixed_rows or BLOCK

    def identity(self) -> dict[str, Any]:
        """Return what a result says of its data: hash, description, sizes."""
        return {
            "event_size": math.prod(next(self.own.blocks(1))[0].shape[1:]),
            "data_sha256": fingerprint_of(self.own),
            "data": self.own.description,
            "data_set": self.data_set,
        }

    def check_method(self, method: str) -> None:
        """Check that a proposal can be fitted, if one is asked for.

        Raises:
            ValueError: programs of a fixed number of data, with another method than ``"guide"`` or
                ``"auto"``, which stays there.
        """
        if self.pair.fixed_rows and method not in ("guide", "auto"):
            raise ValueError(
                f"method {method!r} needs programs that take any number of data; theirs is "
                f"{self.pair.fixed_rows}. Give the data plate size len(x), or use method='guide'."
            )

    def check_amortized(self, what: str) -> None:
        """Check that the guide is one for other data, too.

        Raises:
            ValueError: an automatic guide, of which ``what`` has no use.
        """
        if not self.amortized:
            self.refuse_fixed(what)

    def refuse_fixed(self, what: str) -> NoReturn:
        """Say that the guide is none for other data.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{what} simulates other data, and the guide knows those alone that it was trained "
            "on; take one that looks at the data, such as pv.amortize(model, x)."
        )

    def on(self, data: Batch) -> Evaluation:
        """Return the same programs with other data, arguments as the programs get them."""
        source = as_source(data, _any_number)
        return replace(self, source=source, own=source, checked=False)

    def blocks(self, rows: int | None = None, *, index: Tensor | None = None) -> Iterator[Block]:
        """All data, block by block; or those at ascending positions ``index``."""
        rows = rows or self.rows
        first = 0
        parts = self.source.blocks(rows) if index is None else self.source.select(index, rows)
        for part in parts:
            batch = tuple(sent(argument, self.device) for argument in part)
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
            desc: what is done, in words.
            progress: show a bar (true), nothing (false), or what suits the output (``None``).

        Returns:
            The results in the order of the data, in every process.

        Raises:
            NonFiniteDensity: names data by their position.
        """
        total = len(self) if index is None else len(index)
        rank, world = self.processes.rank, self.processes.world
        shown = False if rank > 0 else progress
        mine = []
        with Progress(total, desc, "data", show=shown) as bar:

            def show(done: int) -> None:  # the other processes do about as much
                bar.update(min(done * world, total - bar.done))

            for block in itertools.islice(self.blocks(rows, index=index), rank, None, world):
                if index is None:  # of selected data the numbers are not known
                    model, guide = map(self.watched, (self.pair.model, self.pair.guide))
                    hold = partial(check_support, model, guide, first=block.first, masks=True)
                    for given in self.pair.arguments(block.batch):
                        traces = hold(given, observations=self.checked)
                        if not self.data_set:
                            self.pair.check_sites(*traces, block.first)
                        check_hidden(self.pair.model, self.pair.guide, given)
                before = bar.done
                try:
                    mine.append(work(replace(block, done=show)))
                except NonFiniteDensity as error:
                    raise self._named(error, block, index) from None
                show(block.count - (bar.done - before) // world)
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
    each: str = "",
) -> Iterator[Evaluation]:
    """Make programs and data ready to be evaluated, and evaluate them inside the block.

    Where latents belong to all the data, or programs of these data alone mix them, the whole data
    set is one datum (:class:`Whole`).
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
        each: name of a function that is for data with latents of their own alone.

    Raises:
        TypeError: programs that are not callable; data of another kind; not as many arguments as
            the programs take.
        ValueError: no data, NaN, or values of another type than the parameters; programs that are
            no pair over one plate of data.
    """
    check_callable(model=model, guide=guide)
    automatic = guide
    data, (model, guide) = bound(data, model, guide)
    most = torch.get_num_threads()
    with use_threads(1), evaluation_mode(model, guide) as watched:
        kind: type[Pair] = Pair
        marginals = None
        at_once = data_set(data, watched(model), watched(guide), automatic)
        if at_once is None:
            source = own = source_for(data, model, guide, finite=False)
            marginals = of_each_datum(automatic, len(source))
            if marginals is not None:
                guide, more = marginals
                model, source = of_fewer(model, len(more)), source.beside(more)
        elif each:
            raise ValueError(
                f"{each} is for data with latents of their own; latents of this model belong to "
                "the whole data set. log_evidence(method='auto') estimates log p(data)."
            )
        else:
            kind = Whole
            source = own = as_source(tuple(a[None] for a in at_once), _any_number)
        missing = takes_missing(model, guide)
        if missing and mask is not None:
            hide = _hiding(torch.as_tensor(mask), len(source))
            source, own, mask = source.changed(hide), own.changed(hide), None
        if mask is None:
            source = source.changed(partial(_checked, finite=not missing))
        else:
            mask = torch.as_tensor(mask)
        pilot = next(source.blocks(BLOCK))
        check_type(pilot[0], model, guide)
        if mask is not None:
            own = own.changed(_masking(mask, len(source)))
            source = source.changed(_masking(mask, len(source)))
            model, guide = mask_model(model), mask_guide(guide)
            pilot = next(source.blocks(BLOCK))
        few = tuple(argument[:_FEW] for argument in pilot)
        if at_once is not None:
            few = tuple(argument[0] for argument in pilot)
        used = modules_used(watched(model), watched(guide), few)
        device = device_of(*used) or pilot[0].device
        pilot = tuple(argument.to(device) for argument in pilot)
        some = pilot
        if at_once is None and source.in_memory and len(source) > BLOCK:
            some = _more(pilot, source)
            modules_used(watched(model), watched(guide), some)  # which puts them in eval() mode
        try:
            with reading():
                pair = _inspected(kind, model, guide, some, narrow)
        except MixedRows:
            if each or mask is not None or marginals or len(source) > len(pilot[0]):
                raise
            at_once, pilot = pilot, tuple(argument[None] for argument in pilot)  # one data set
            source = own = as_source(pilot, _any_number)
            with reading():
                pair = Whole.inspect(model, guide, pilot, narrow=narrow)
        if isinstance(pair, Whole):
            pair = pair.knowing(pilot, density_of(automatic))
        rows = pair.fixed_rows or len(pilot[0])
        for given in pair.arguments(tuple(argument[:rows] for argument in pad(pilot, rows))):
            check_hidden(pair.model, pair.guide, given)
        check = checked and mask is None
        size = 0 if at_once is None else len(at_once[0])
        processes, amortized = Processes.join(), marginals is None
        with use_threads(_threads(pair, pilot, device, most)):
            yield Evaluation(pair, source, own, device, processes, check, watched, size, amortized)


def _inspected(kind: type[Pair], model: Fn, guide: Fn, pilot: Batch, narrow: bool) -> Pair:
    """Inspect programs; an argument that is the number of data follows them, if it must."""
    try:
        return kind.inspect(model, guide, pilot, narrow=narrow)
    except OneNumber:
        if not hasattr(model, "counting") or not hasattr(guide, "counting"):
            raise
        return kind.inspect(model.counting, guide.counting, pilot, narrow=narrow)


def _more(pilot: Batch, source: Source) -> Batch:
    """Some of the first data, and of all of them, to see which depend on others."""
    with seeded("pilot", 0):
        index = torch.randperm(len(source))[: BLOCK // 2].sort().values
    (more,) = source.select(index, len(index))
    return tuple(torch.cat([a, sent(b, a.device)]) for a, b in zip(pilot, more, strict=True))


def _threads(pair: Pair, pilot: Batch, device: torch.device, most: int) -> int:
    """Threads, of so many, that draws of the guide and their densities are worth."""
    if device.type != "cpu" or most == 1:
        return most
    batch = tuple(argument[: pair.fixed_rows or BLOCK] for argument in pilot)
    batch = pad(batch, pair.fixed_rows or 0)

    def work() -> None:
        values, _ = pair.propose(batch, _TRIED)
        pair.log_joint(batch, values)

    return threads_worth(work, most)


def _any_number(*arguments: Tensor) -> None:
    """Stand for a program of any number of arguments."""


def _checked(batch: Batch, first: int, *, finite: bool) -> Batch:
    for number, argument in enumerate(batch):
        what = f"argument {number}" if number else "x"
        check_data(argument, what=what, first=first, finite=finite or number > 0)
    return batch


def _hiding(mask: Tensor, number: int) -> Callable[[Batch, int], Batch]:
    """Put NaN for the missing values of blocks, for programs that take it."""

    def change(batch: Batch, first: int) -> Batch:
        x, *rest = batch
        seen = check_mask(_rows_of(mask, x, first, number), x)
        return torch.where(seen, x, torch.full_like(x, torch.nan)), *rest

    return change


def _masking(mask: Tensor, number: int) -> Callable[[Batch, int], Batch]:
    """Fill the missing values of blocks, and put the mask beside them."""

    def change(batch: Batch, first: int) -> Batch:
        x, *rest = batch
        for place, argument in enumerate(rest, 1):
            check_data(argument, what=f"argument {place}", first=first)
        return fill(batch, _rows_of(mask, x, first, number), first=first)

    return change


def _rows_of(mask: Tensor, x: Tensor, first: int, number: int) -> Tensor:
    """Mask of a block of the data, unless it is one for each datum."""
    whole = mask.dim() == x.dim() and len(mask) == number
    return (mask[first : first + len(x)] if whole else mask).to(x.device)
