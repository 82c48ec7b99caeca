"""Stages in several processes: this process's rank, its share of the work, what ranks agree on."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState

from aerialdreams.errors import WorkError
from aerialdreams.pipeline.launch import is_launched, launch_processes

Item = TypeVar("Item")


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

    def gather(self, values: list[Item]) -> list[Item]:
        """The values of all ranks on rank 0, in the order of the ranks; elsewhere an empty list."""
        if self.world_size == 1:
            return values
        lists: list[list[Item] | None] | None = [None] * self.world_size if self.is_main else None
        torch.distributed.gather_object(values, lists, 0, self.group)
        return [value for part in lists or [] for value in part or []]

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's consecutive part of some items."""
        count = len(items)
        first, end = (count * number // self.world_size for number in (self.rank, self.rank + 1))
        return items[first:end]

    @contextmanager
    def shared_folder(self, folder: AbstractContextManager[Path]) -> Iterator[Path]:
        """A folder that rank 0 opens and closes, on all ranks.

        Rank 0 leaves the block when all ranks have come to its end.
        """
        with folder if self.is_main else nullcontext() as opened:
            yield Path(self.broadcast(str(opened) if opened else None))
            self.barrier()

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


def start_processes(module: str, count: int) -> tuple[Distributed, torch.device]:
    """Run a stage as several processes, if its params say so and nothing has launched it yet.

    Args:
        module: the stage's.
        count: number of processes on this machine.

    Returns:
        This process's rank and its device. In the process that launches, it does not return.
    """
    if count > 1 and not is_launched():
        launch_processes(module, count)
    state = PartialState(cpu=not torch.cuda.is_available())
    # With several processes on a CPU accelerate's device is cpu:0.
    device = state.device if state.device.type != "cpu" else torch.device("cpu")
    return init_distributed(state.num_processes), device


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
