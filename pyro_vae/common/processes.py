"""Several processes that work on one task, as ``torchrun`` starts them."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """A group of processes that share one task. One process alone is a group, too.

    Attributes:
        rank: number of this process in the group, from 0.
        world: number of processes in the group.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def join(cls) -> Processes:
        """Return the group that torch knows, or form the one that ``torchrun`` started."""
        if not distributed.is_available():
            return cls()
        if not distributed.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "MASTER_ADDR" not in os.environ:
                return cls()
            on_gpu = torch.cuda.is_available()
            distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
            atexit.register(_leave)
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all: writes files, shows progress."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """Which of a number of rows are for this process; every row is for one."""
        return slice(self.rank, None, self.world)

    def device(self, device: torch.device) -> torch.device:
        """Give each process of a machine a GPU of its own, unless one was named."""
        if self.world == 1 or device.type != "cuda" or device.index is not None:
            return device
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    def wait(self) -> None:
        """Wait for all processes to come here."""
        if self.world > 1:
            distributed.barrier()

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the processes, and return it."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def any(self, *flags: bool) -> list[bool]:
        """Whether each flag is up in any process."""
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
        """Give the module of every process the parameters and buffers of the first."""
        if self.world > 1:
            with torch.no_grad():
                for tensor in (*module.parameters(), *module.buffers()):
                    distributed.broadcast(tensor, 0)

    def combine(
        self, parameters: Sequence[Tensor], rows: int, elbo: Tensor
    ) -> tuple[Tensor, int | Tensor]:
        r"""Make the gradients of all processes those of all their rows together.

        .. math:: g = \sum_r n_r g_r \Big/ \sum_r n_r

        for gradients :math:`g_r` per datum of the :math:`n_r` rows of process r, so batches may be
        of any size, and empty for some processes.

        Args:
            parameters: tensors with gradients (or ``None``, for no rows).
            rows: number of rows of this process.
            elbo: sum of the ELBO over them.

        Returns:
            ELBO and number of rows of all.
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


def _leave() -> None:
    """Dissolve the group while Python still runs: its threads abort a process that has ended.

    The group is only gone with the last reference to it, so cycles that hold one are collected.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()
