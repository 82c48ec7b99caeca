"""The per-patch work of the data stages, on all cores of this machine."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from aerialdreams.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_patches(
    work: Callable[[Item], Result],
    items: list[Item],
    what: str,
    workers: int,
    unit: str = "patches",
) -> Iterator[Result]:
    """Do `work` on each item in worker processes, with progress; results in the items' order.

    Args:
        work: a function that a worker can import (no closure). Its exceptions come out here.
        items: what it gets; each is pickled on its own.
        what: name of the work, for the progress line.
        workers: number of processes; 0 is one for each core that this process may use.
        unit: name of the items, in the plural.
    """
    count = workers or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(
        max_workers=max(1, min(count, len(items))),
        mp_context=get_context("spawn"),
        initializer=_die_with,
        initargs=(os.getpid(),),
    ) as pool:
        try:
            results = _bounded_map(pool, work, items, ahead=4 * count)
            yield from progress(results, what, unit, len(items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _bounded_map(
    pool: ProcessPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """`pool.map` that has at most `ahead` items under way, so that results never pile up."""
    rest = iter(items)
    pending = [pool.submit(work, item) for item in islice(rest, ahead)]
    while pending:
        yield pending.pop(0).result()
        pending.extend(pool.submit(work, item) for item in islice(rest, 1))


def _die_with(parent: int) -> None:
    """End this worker when the process that started it is gone, however it went."""
    # Ctrl-C reaches the whole process group; the stage itself decides how to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
