"""Progress on standard error: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

LOG_INTERVAL = 15.0  # seconds between lines in a log


def progress(
    items: Iterable[T], description: str, unit: str, total: int, start: int = 0
) -> Iterator[T]:
    """Yield the items, and report rate and remaining time on standard error.

    Args:
        items: the remaining items.
        description: name of the work, shown first.
        unit: name of the items, in the plural.
        total: number of items, including those done in an earlier run.
        start: number of items done in an earlier run.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=description, unit=f" {unit}", total=total, initial=start)
        return
    began = last_report = time.monotonic()
    for done, item in enumerate(items, start=start + 1):
        yield item
        now = time.monotonic()
        if now - last_report >= LOG_INTERVAL:
            last_report = now
            rate = (done - start) / (now - began)
            left = (total - done) / rate
            message = f"{description}: {done}/{total} {unit}, {rate:.3g}/s, {left:.0f} s left"
            print(message, file=sys.stderr, flush=True)
