"""Run a stage as several processes on this machine, by torch's own launcher."""

import logging
import os
import sys
from typing import NoReturn

from aerialdreams.errors import FAILED, INTERRUPTED

LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SHUTDOWN_TIMEOUT = 3600  # seconds; each process ends itself sooner, see runtime.grace


def is_launched() -> bool:
    """Whether this process is one rank of several, started by us, torchrun or accelerate.

    A container platform may set RANK or WORLD_SIZE alone; a launcher sets all of these.
    """
    return all(name in os.environ for name in LAUNCHER_VARIABLES)


def ignore_incomplete_launch() -> None:
    """Remove a launcher's variables where not all are set: accelerate would wait for others."""
    if not is_launched():
        for name in LAUNCHER_VARIABLES:
            os.environ.pop(name, None)


def launch_processes(module: str, count: int) -> NoReturn:
    """Run `python -m module` as `count` processes on this machine, and exit when they have ended.

    The exit code is 0, that of the first process that failed, or 3 if a signal ended them.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The processes report their errors themselves. torch sets these levels on import.
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
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        sys.exit(code if code > 0 else FAILED)
    except (SignalException, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    sys.exit(0)
