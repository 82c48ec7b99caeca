"""`aerialdreams settings`: apply files of settings/ to params.yaml."""

import argparse
from typing import Any

EXAMPLE = """\
example:
  aerialdreams settings flair sd21 gpu

`git diff params.yaml` shows the changes, `git checkout params.yaml` reverts them."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "settings",
        help="apply settings, such as flair, sd21 and gpu, to params.yaml",
        description="Apply settings to params.yaml, or list them if none is named.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="files of settings/; later ones win")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    """Apply or list settings; return the changed keys, or the list.

    Raises:
        UserError: a name or key is unknown, or the resulting params are invalid.
    """
    from aerialdreams.pipeline.settings import SETTINGS, apply_settings, available_settings

    if args.names:
        return "\n".join(apply_settings(args.names)) or "params.yaml already has these values"
    titles = (
        (name, (SETTINGS / f"{name}.yaml").read_text().splitlines()[0])
        for name in available_settings()
    )
    return "\n".join(f"{name:8} {title.lstrip('# ')}" for name, title in titles)
