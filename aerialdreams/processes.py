"""Several processes for one training: how they are started, and what they agree on."""

import logging
import os
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from aerialdreams.errors import FAILED, INTERRUPTED

STOP_PATIENCE = 120  # seconds that processes have to end their step and save


@dataclass(frozen=True)
class Team:
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


ALONE = Team()


def team_up(count: int) -> Team:
    """This process's place among those that were started.

    Args:
        count: how many accelerate says there are.
    """
    if count == 1:
        return ALONE
    # On GPUs the default group is NCCL's: it would hold up the GPU for each flag.
    group = torch.distributed.new_group(backend="gloo")
    return Team(torch.distributed.get_rank(), count, group)


def launched() -> bool:
    """Whether this process is one of several, started by us, torchrun or accelerate."""
    return "RANK" in os.environ


def launch(module: str, count: int) -> NoReturn:
    """Run `python -m module` as so many processes on this machine, by torch's own launcher.

    Never returns: exits with the code of the first that failed, 3 where a signal ended them.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What our processes say is enough; and of a stage's end, its exit code.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.launcher").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        shutdown_timeout=STOP_PATIENCE,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        sys.exit(code if code > 0 else FAILED)
    except (SignalException, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    sys.exit(0)
