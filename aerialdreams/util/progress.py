"""Progress for people: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


LOG_INTERVAL = 15.0  # seconds between lines in a log


def progress(items: Iterable[T], what: str, unit: str, total: int, start: int = 0) -> Iterator[T]:
    """Yield the items and report rate and remaining time on standard error.

    Args:
        items: what is left to do.
        what: the work's name, shown first.
        unit: the name of the items, in the plural.
        total: how many items there are in all, those done earlier included.
        start: how many were done earlier.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, unit=f" {unit}", total=total, initial=start)
        return
    began = told = time.monotonic()
    for done, item in enumerate(items, start=start + 1):
        yield item
        now = time.monotonic()
        if now - told >= LOG_INTERVAL:
            told = now
            rate = (done - start) / (now - began)
            left = (total - done) / rate
            message = f"{what}: {done}/{total} {unit}, {rate:.3g}/s, {left:.0f} s left"
            print(message, file=sys.stderr, flush=True)
