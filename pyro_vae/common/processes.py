"""Several processes that work on one task, as ``torchrun`` starts them."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from .devices import own_gpu

__all__ = ["Processes", "unshared"]

_UNSHARED = ContextVar("unshared", default=False)


@dataclass(frozen=True)
class Processes:
    """A group of processes that share one task; a single process is a group, too.

    Attributes:
        rank: index of this process in the group, from 0.
        world: number of processes in the group.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def join(cls) -> Processes:
        """Return the group that torch knows, or form the one that ``torchrun`` started.

        Inside :func:`unshared` this is a group of one.
        """
        if _UNSHARED.get() or not distributed.is_available():
            return cls()
        if not distributed.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "MASTER_ADDR" not in os.environ:
                return cls()
            distributed.init_process_group(_backend())
            atexit.register(_leave)
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all: writes files, shows progress."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """Slice of the rows that this process works on; every row belongs to one process."""
        return slice(self.rank, None, self.world)

    def wait(self) -> None:
        """Wait until every process has reached this point."""
        if self.world > 1:
            distributed.barrier()

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the processes, and return it."""
        if self.world > 1:
            sends = distributed.get_backend_config()
            # A group that the user formed of NCCL alone sends nothing from the host.
            there = tensor if tensor.device.type in sends else tensor.to("cuda")
            distributed.all_reduce(there)
            tensor.copy_(there)
        return tensor

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process."""
        if self.world == 1:
            return list(flags)
        return (self.add_up(torch.tensor(flags, dtype=torch.int32)) > 0).tolist()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        values: list[Any] = [value] * self.world
        if self.world > 1:
            distributed.all_gather_object(values, value)
        return values

    def align(self, module: nn.Module) -> None:
        """Copy the parameters and buffers of the first process into every other."""
        if self.world > 1:
            with torch.no_grad():
                for tensor in (*module.parameters(), *module.buffers()):
                    distributed.broadcast(tensor, 0)

    def combine(
        self, parameters: Sequence[Tensor], rows: int, elbo: Tensor
    ) -> tuple[Tensor, int | Tensor]:
        r"""Replace each process's gradients by the mean over the rows of all processes.

        .. math:: g = \sum_r n_r g_r \Big/ \sum_r n_r

        where :math:`g_r` is the gradient per datum of the :math:`n_r` rows of process r. Batches
        may differ in size, and may be empty.

        Args:
            parameters: tensors with gradients (or ``None``, for no rows).
            rows: number of rows of this process.
            elbo: sum of the ELBO over them.

        Returns:
            ELBO and number of rows, summed over the processes.
        """
        if self.world == 1:
            return elbo, rows
        sums = torch.stack([elbo.double(), torch.full_like(elbo, rows, dtype=torch.float64)])
        total, count = self.add_up(sums).unbind()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in grads])
        flat = self.add_up(flat * (rows / count).to(flat.dtype))
        pieces = flat.split([p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
        return total, count


@contextmanager
def unshared() -> Iterator[None]:
    """Let one process work for itself for a while: what it calls shares nothing with the others."""
    token = _UNSHARED.set(True)
    try:
        yield
    finally:
        _UNSHARED.reset(token)


def _backend() -> str:
    """What sends tensors between the processes; each takes its own GPU, if there are GPUs."""
    own = own_gpu()
    if own is None:
        return "gloo"
    torch.cuda.set_device(own)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    enough = torch.cuda.device_count() >= here  # NCCL wants a GPU for each process
    return "cpu:gloo,cuda:nccl" if enough else "cpu:gloo,cuda:gloo"


def _leave() -> None:
    """Dissolve the group before Python shuts down, when its threads could abort the process.

    The group lives until the last reference to it is gone, so reference cycles are collected too.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()
