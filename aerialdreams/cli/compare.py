"""`aerialdreams compare`: experiments side by side."""

import argparse
from pathlib import Path
from typing import Any

from aerialdreams.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "compare",
        help="compare experiments: params, metrics, images, and whether the difference is real",
        description="Compare experiments with the first one named.",
        epilog="example:\n  aerialdreams compare HEAD~1 workspace --page comparison.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "experiments",
        nargs="+",
        help="two or more git revisions, names of `dvc exp`, workspace, or run:ID of MLflow",
    )
    parser.add_argument(
        "--page", type=Path, help="write an HTML page with images of the same masks"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    """Compare; gives the tables.

    Raises:
        UserError: an experiment cannot be read, or only one is named.
    """
    from aerialdreams.pipeline.comparison import compare

    if len(args.experiments) < 2:
        raise UserError("name at least two experiments; `dvc exp show` and `git log` list them")
    return compare(args.experiments, args.page)
