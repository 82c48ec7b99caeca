"""Distributed training: this process's rank, and what ranks agree on."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from aerialdreams.errors import WorkError


@dataclass(frozen=True)
class Distributed:
    """One of the processes that train together.

    Attributes:
        rank: this process's rank; rank 0 writes files and logs.
        world_size: number of processes.
        group: process group for messages on the CPU, beside the one that carries gradients.
    """

    rank: int = 0
    world_size: int = 1
    group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank. All ranks must call it."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor([int(flag)])
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX, self.group)
        return bool(flags.item())

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.any(False)

    def broadcast(self, value: str | None) -> str:
        """Rank 0's value, on all ranks."""
        values = [value]
        if self.world_size > 1:
            torch.distributed.broadcast_object_list(values, 0, self.group)
        assert values[0] is not None
        return values[0]

    def require_equal(self, value: int, name: str) -> None:
        """Check that a number is the same on all ranks.

        Raises:
            WorkError: it is not.
        """
        if self.world_size == 1:
            return
        extremes = torch.tensor([value, -value])
        torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX, self.group)
        highest, lowest = int(extremes[0]), -int(extremes[1])
        if highest != lowest:
            raise WorkError(
                f"{name} is {lowest} on one rank and {highest} on another; all machines must see"
                " the same scratch/ folder"
            )


SINGLE_PROCESS = Distributed()


def init_distributed(world_size: int) -> Distributed:
    """This process's rank among those that accelerate or torchrun started.

    Args:
        world_size: the number of processes.
    """
    if world_size == 1:
        return SINGLE_PROCESS
    # On GPUs the default group is NCCL's, in which every flag would synchronise the GPU.
    # Ranks wait here while rank 0 validates, samples images or writes outputs, for hours perhaps.
    group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=1))
    return Distributed(torch.distributed.get_rank(), world_size, group)
