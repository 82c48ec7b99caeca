"""`aerialdreams compare`: experiments side by side."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aerialdreams.errors import UserError
from aerialdreams.util.files import atomic_file

if TYPE_CHECKING:
    from aerialdreams.pipeline.experiments import Table


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "compare",
        help="compare experiments: params, metrics, images, significance of the difference",
        description="Compare experiments with the first one named, the baseline.",
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
    """Compare experiments and write the page, if one is asked for.

    Returns:
        The tables and verdicts as text.

    Raises:
        UserError: an experiment cannot be read, or fewer than two are named.
    """
    from aerialdreams.pipeline.comparison_page import comparison_page
    from aerialdreams.pipeline.experiments import compare_experiments, load_experiment

    if len(args.experiments) < 2:
        raise UserError("name at least two experiments; `dvc exp show` and `git log` list them")
    comparison = compare_experiments([load_experiment(name) for name in args.experiments])
    if args.page:
        page = comparison_page(comparison)
        with atomic_file(args.page) as partial:
            partial.write_text(page, encoding="utf-8")
    return "\n\n".join([*map(as_text, comparison.tables), "\n".join(comparison.verdicts)])


def as_text(table: "Table") -> str:
    """A table as text, its columns aligned, under its title."""
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, *text])
