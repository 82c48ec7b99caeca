"""Whether this process is writing what it must not lose: it is not killed meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_active = 0


@contextmanager
def saving() -> Iterator[None]:
    """Mark a block, in any thread, that saves the state of long work."""
    global _active
    with _lock:
        _active += 1
    try:
        yield
    finally:
        with _lock:
            _active -= 1


def is_saving() -> bool:
    """Whether any thread is in such a block."""
    return _active > 0
