"""Run a function on many items in parallel: local processes, or the workers of a Dask cluster."""

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
from aerialdreams.util.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNKS_AHEAD = 4  # submitted chunks per worker: none waits for work, and results do not pile up
MAX_CHUNK = 16  # items; handing a chunk over takes 1 ms, a typical item 3 ms


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    total: int,
    description: str,
    *,
    workers: int = 0,
    scheduler: str = "",
    unit: str = "patches",
) -> Iterator[Result]:
    """Apply a function to each item in parallel, with progress; results keep the items' order.

    With one worker, the work is done in this process.

    Args:
        function: one that a worker can import (no closure). Its exceptions are raised here. It must
            be safe to call twice on an item, because a cluster repeats the work of a lost worker.
        items: its arguments, which must pickle. They are consumed as workers become free.
        total: number of items.
        description: name of the work, for the progress line.
        workers: local processes; 0 is one per CPU.
        scheduler: address of a Dask scheduler, whose workers are used instead.
        unit: name of the items, in the plural.

    Raises:
        UserError: a scheduler is given and `distributed` is not installed.
        WorkError: the scheduler cannot be reached, or has no workers.
    """
    local = max(1, min(workers or available_cpus(), total))
    if local == 1 and not scheduler:
        yield from progress(map(function, items), description, unit, total)
        return
    with _dask(scheduler) if scheduler else _local_pool(local) as (executor, count):
        chunks = _chunks(iter(items), max(1, min(MAX_CHUNK, total // (CHUNKS_AHEAD * count))))
        results = _bounded_map(executor, function, chunks, CHUNKS_AHEAD * count)
        yield from progress(results, description, unit, total)


def available_cpus() -> int:
    """CPUs that this process may use, where the system tells; else all of the machine."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _chunks(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while chunk := list(islice(items, size)):
        yield chunk


@contextmanager
def _local_pool(workers: int) -> Iterator[tuple[Executor, int]]:
    """A pool of local processes, and their number."""
    with ProcessPoolExecutor(
        max_workers=workers,
        mp_context=get_context("spawn"),
        initializer=_end_with_parent,
        initargs=(os.getpid(),),
    ) as pool:
        yield pool, workers


@contextmanager
def _dask(scheduler: str) -> Iterator[tuple[Executor, int]]:
    """A running Dask cluster, and its number of threads. Its workers must share this folder."""
    try:
        from distributed import Client
    except ImportError:
        raise UserError(
            "runtime.scheduler: needs Dask; `pip install 'aerialdreams[dask]'` on every machine, or"
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
            raise WorkError(f"runtime.scheduler: {scheduler} has no workers; start `dask worker`")
        yield client.get_executor(pure=False), count


def _bounded_map(
    executor: Executor,
    function: Callable[[Item], Result],
    chunks: Iterator[list[Item]],
    ahead: int,
) -> Iterator[Result]:
    """`executor.map` that submits at most `ahead` chunks before their results are consumed."""
    root = Path.cwd()
    pending = deque(
        executor.submit(_run_chunk, root, function, chunk) for chunk in islice(chunks, ahead)
    )
    try:
        while pending:
            for result in pending.popleft().result():
                if isinstance(result, (UserError, WorkError)):
                    raise result
                yield result
            pending.extend(
                executor.submit(_run_chunk, root, function, chunk) for chunk in islice(chunks, 1)
            )
    finally:
        for future in pending:  # after an error, or if the caller wants no more results
            future.cancel()


def _run_chunk(
    root: Path, function: Callable[[Item], Result], chunk: list[Item]
) -> list[Result | UserError | WorkError]:
    """Process a chunk in the project's folder; a worker of a cluster may have started elsewhere.

    Our errors are returned as results, because the exceptions that they were raised from (such as
    GDAL's) may not pickle.
    """
    if Path.cwd() != root:
        os.chdir(root)
    results: list[Result | UserError | WorkError] = []
    try:
        for item in chunk:
            results.append(function(item))
    except (UserError, WorkError) as error:
        results.append(type(error)(str(error)))
    return results


def _end_with_parent(parent: int) -> None:
    """Make this worker end when the process that started it has ended, even by SIGKILL."""
    # Ctrl-C reaches the whole process group; the stage itself decides how to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
