"""The `aerialdreams` command: one module per subcommand."""

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

from aerialdreams.cli import (
    check_remote,
    compare,
    edit,
    generate,
    outlines,
    publish,
    serve,
    settings,
)
from aerialdreams.errors import DONE, FAILED, INTERRUPTED, USER_ERROR, UserError, WorkError
from aerialdreams.pipeline import environment

COMMANDS = (generate, edit, serve, compare, settings, outlines, publish, check_remote)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its code.

    Args:
        arguments: command-line arguments; None for those of this process.
    """
    environment.set_up_command()
    parser = argparse.ArgumentParser(
        prog="aerialdreams",
        description="Aerial images from land-cover masks.",
        epilog="Exit codes: 0 success, 1 failure, 2 wrong argument or file, 3 interrupted.",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(arguments)
    try:
        print(args.run(args))
    except UserError as error:
        sys.exit(_fail(str(error), USER_ERROR))
    except WorkError as error:
        sys.exit(_fail(str(error), FAILED))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", INTERRUPTED))
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        sys.exit(_fail(message, FAILED))
    except Exception as error:
        sys.exit(_fail(_unexpected(error), FAILED))
    sys.exit(DONE)


def _fail(message: str, code: int) -> int:
    print(f"aerialdreams: error: {message}", file=sys.stderr, flush=True)
    return code


def _unexpected(error: Exception) -> str:
    """Write an unexpected error's traceback to a file; return a message that names the file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="aerialdreams-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exception(error, file=file)
    message = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {message}; the traceback is in {Path(file.name)}"
