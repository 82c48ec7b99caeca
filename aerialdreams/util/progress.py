"""Progress reports: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LOG_INTERVAL = 15.0  # seconds between lines in a log


def progress(
    items: Iterable[Item], description: str, unit: str, total: int, start: int = 0
) -> Iterator[Item]:
    """Yield the items, and report rate and remaining time on standard error.

    Args:
        items: the items still to do.
        description: of the work, shown first.
        unit: name of the items, in the plural.
        total: number of items, including those done earlier.
        start: number of items done earlier.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=description, unit=f" {unit}", total=total, initial=start)
        return
    started = last_report = time.monotonic()
    for done, item in enumerate(items, start=start + 1):
        yield item
        now = time.monotonic()
        if now - last_report >= LOG_INTERVAL:
            last_report = now
            rate = (done - start) / (now - started)
            remaining = (total - done) / rate
            print(
                f"{description}: {done}/{total} {unit}, {rate:.3g}/s, {remaining:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
