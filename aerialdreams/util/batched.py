"""Batches of any items."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last may be shorter (Python 3.12 has itertools.batched)."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
