"""Several processes for one training: how they are started, and what they agree on."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Distributed:
    """The processes that train together; each holds a share of every batch.

    Attributes:
        rank: this process's number; the first one, 0, writes files and speaks.
        count: how many there are.
        group: what they talk over, beside what carries the gradients.
    """

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any of the processes; each has to ask."""
        if self.count == 1:
            return flag
        flags = torch.tensor([int(flag)])
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX, self.group)
        return bool(flags.item())

    def agree(self, value: str | None) -> str:
        """The first process's value, in all of them."""
        values = [value]
        if self.count > 1:
            torch.distributed.broadcast_object_list(values, 0, self.group)
        assert values[0] is not None
        return values[0]


SINGLE_PROCESS = Distributed()


def init_distributed(count: int) -> Distributed:
    """This process's place among those that were started.

    Args:
        count: how many accelerate says there are.
    """
    if count == 1:
        return SINGLE_PROCESS
    # On GPUs the default group is NCCL's: it would hold up the GPU for each flag.
    group = torch.distributed.new_group(backend="gloo")
    return Distributed(torch.distributed.get_rank(), count, group)
