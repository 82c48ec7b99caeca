"""Work ahead in threads: decoding and resizing images release Python's global lock."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """`map` in threads, in order, at most two items ahead of the consumer for each thread.

    Args:
        function: called for each item; an exception of it is raised where its result is due.
        items: its arguments, drawn as they are needed.
        workers: threads; 0 calls the function in this thread, when its result is due.
    """
    if workers == 0:
        yield from map(function, items)
        return
    arguments = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Result]] = deque(
            pool.submit(function, item) for item in islice(arguments, 2 * workers)
        )
        try:
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(arguments, 1))
        finally:
            for future in pending:
                future.cancel()
