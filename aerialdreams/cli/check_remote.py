"""`aerialdreams check-remote`: find missing and damaged objects in DVC's remote."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "check-remote",
        help="find missing and damaged objects in DVC's remote",
        description="Read the objects of outputs in DVC's remote and compare their hashes with"
        " dvc.lock.",
    )
    parser.add_argument(
        "outputs", nargs="*", help="such as data/dataset; default: all outputs that are pushed"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    """Check the remote; return a summary in numbers.

    Raises:
        UserError: an output is unknown, or there is no remote.
        WorkError: objects are missing or damaged.
    """
    from aerialdreams.pipeline.remote import check_remote

    return check_remote(args.outputs)
