"""`aerialdreams compare`: experiments side by side."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aerialdreams.errors import UserError
from aerialdreams.util.files import atomic_file

if TYPE_CHECKING:
    from aerialdreams.pipeline.comparison import Table


EXAMPLES = """\
examples:
  aerialdreams compare HEAD~1 workspace --page comparison.html
  aerialdreams compare base@1,2,3 wider@1,2,3    seeds of two recipes
  aerialdreams compare base@all new=brisk-fox,run:4f1c

NAME@SEEDS are the experiments that have NAME's params but for the seeds, and these values of
train_controlnet.seed; NAME is an experiment, a recipe as MLflow shows it, or the name given to a
grid (base for base-1, base-2, ...)."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "compare",
        help="compare experiments: params, metrics, images, significance of the difference",
        description="Compare experiments, or groups of them over seeds, with the first named.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "experiments",
        nargs="+",
        help="two or more git revisions, names of `dvc exp`, workspace, run:ID of MLflow, or groups"
        " of seeds: NAME@SEEDS, NAME@all, LABEL=NAME,NAME",
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
    from aerialdreams.pipeline.comparison import compare_groups
    from aerialdreams.pipeline.comparison_page import comparison_page
    from aerialdreams.pipeline.recipes import load_group

    if len(args.experiments) < 2:
        raise UserError("name at least two experiments; `dvc exp show` and `git log` list them")
    comparison = compare_groups([load_group(name) for name in args.experiments])
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
