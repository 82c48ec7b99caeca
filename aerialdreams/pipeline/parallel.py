"""The per-patch work of the data stages, on all cores of this machine or on several machines."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from aerialdreams.errors import UserError, WorkError
from aerialdreams.params import Runtime
from aerialdreams.util.progress import progress

Item = TypeVar("Item")


Result = TypeVar("Result")


AHEAD = 4  # lots under way for each worker, so that none waits and results never pile up


LOT = 16  # most items handed over at once: a mask takes 3 ms, handing one over 1 ms


def parallel_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    count: int,
    what: str,
    runtime: Runtime,
    unit: str = "patches",
) -> Iterator[Result]:
    """Do `work` on each item in worker processes, with progress; results in the items' order.

    Args:
        work: a function that a worker can import (no closure). Its exceptions come out here. It may
            be done twice on an item, where a worker was lost, and must not mind.
        items: what it gets; each must pickle. Drawn as workers get free, and none is held.
        count: how many there are.
        what: name of the work, for the progress line.
        runtime: how many local workers, or which Dask scheduler's.
        unit: name of the items, in the plural.

    Raises:
        UserError: `distributed` is not installed, and a scheduler is named.
        WorkError: the scheduler cannot be reached, has no worker, or lost the work.
    """
    with _workers(runtime, count) as (pool, workers):
        ahead = AHEAD * workers
        lots = _lots(iter(items), max(1, min(LOT, count // ahead)))
        results = _bounded_map(pool, work, lots, ahead)
        yield from progress(results, what, unit, count)


def _lots(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while lot := list(islice(items, size)):
        yield lot


@contextmanager
def _workers(runtime: Runtime, items: int) -> Iterator[tuple[Executor, int]]:
    """What takes the work, and how many items it does at a time."""
    if runtime.scheduler:
        with _dask(runtime.scheduler) as (pool, count):
            yield pool, count
        return
    count = max(1, min(runtime.workers or len(os.sched_getaffinity(0)), items))
    with ProcessPoolExecutor(
        max_workers=count,
        mp_context=get_context("spawn"),
        initializer=_die_with,
        initargs=(os.getpid(),),
    ) as pool:
        yield pool, count


@contextmanager
def _dask(scheduler: str) -> Iterator[tuple[Executor, int]]:
    """The workers of a running Dask cluster, which see this folder under the same path."""
    try:
        from distributed import Client
    except ImportError:
        raise UserError(
            "runtime.scheduler: needs Dask; `pip install 'aerialdreams[dask]'` here and there, or"
            ' set it to ""'
        ) from None
    try:
        client = Client(scheduler, set_as_default=False)
    except (OSError, ValueError) as error:
        raise WorkError(
            f"runtime.scheduler: {scheduler} cannot be reached ({error}); start it with `dask"
            ' scheduler`, or set it to "" for local workers'
        ) from None
    with client:
        count = sum(client.nthreads().values())
        if not count:
            raise WorkError(f"runtime.scheduler: {scheduler} has no worker; start `dask worker`")
        yield client.get_executor(pure=False), count


def _bounded_map(
    pool: Executor, work: Callable[[Item], Result], lots: Iterator[list[Item]], ahead: int
) -> Iterator[Result]:
    """`pool.map` that has at most `ahead` lots under way, so that results never pile up."""
    root = Path.cwd()
    pending = deque(pool.submit(_here, root, work, lot) for lot in islice(lots, ahead))
    try:
        while pending:
            for outcome in pending.popleft().result():
                if isinstance(outcome, (UserError, WorkError)):
                    raise outcome
                yield outcome
            pending.extend(pool.submit(_here, root, work, lot) for lot in islice(lots, 1))
    finally:
        for future in pending:  # where one failed, or nobody asks for more
            future.cancel()


def _here(
    root: Path, work: Callable[[Item], Result], lot: list[Item]
) -> list[Result | UserError | WorkError]:
    """Do the work in the project's folder: a worker of another machine may stand elsewhere.

    Our errors come back as results. What lies behind one (GDAL's, say) may not bear the journey.
    """
    if Path.cwd() != root:
        os.chdir(root)
    outcomes: list[Result | UserError | WorkError] = []
    try:
        for item in lot:
            outcomes.append(work(item))
    except (UserError, WorkError) as error:
        outcomes.append(type(error)(str(error)))
    return outcomes


def _die_with(parent: int) -> None:
    """End this worker when the process that started it is gone, however it went."""
    # Ctrl-C reaches the whole process group; the stage itself decides how to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
