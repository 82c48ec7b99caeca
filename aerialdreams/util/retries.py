"""What a retry prints: without a line, a minute of retries looks like a process that hangs."""

import sys
from collections.abc import Callable

from tenacity import RetryCallState


def report_retry(subject: str) -> Callable[[RetryCallState], None]:
    """For tenacity's `before_sleep`: print what failed and when the next attempt comes.

    Args:
        subject: what is being attempted, such as a URL; begins each line.
    """

    def report(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0.0
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"{subject}: {reason}; trying again in {wait:.0f} s", file=sys.stderr, flush=True)

    return report
