"""The ways in which a stage or command can fail, and their exit codes."""

DONE = 0
FAILED = 1
USER_ERROR = 2
INTERRUPTED = 3


class UserError(Exception):
    """The user's params or files are wrong: exit code 2.

    The message names the file or key, says what is wrong with it and what to do.
    """


class WorkError(Exception):
    """The work failed for a reason outside the user's params and files: exit code 1."""
