"""`aerialdreams publish`: upload dataset, models or a Space to the Hugging Face hub."""

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  aerialdreams publish dataset me/flair-captioned --dry-run
  aerialdreams publish controlnet me/flair-controlnet --private --revision v1
  aerialdreams publish base me/flair-base
  aerialdreams publish space me/aerial --controlnet me/flair-controlnet@v1 --base me/flair-base"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "publish",
        help="upload dataset, models or a Space to the Hugging Face hub",
        description="Upload data/dataset, models/adapted_base, models/controlnet, or a Space with"
        " the page of `serve`, to the Hugging Face hub, after checking licence and credits. The"
        " token is read from HF_TOKEN or `hf auth login`.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=["dataset", "base", "controlnet", "space"])
    parser.add_argument("repo", help="repository on the hub, OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", default="main", help="branch (default main)")
    parser.add_argument("--dry-run", action="store_true", help="list the files, upload nothing")
    parser.add_argument("--controlnet", default="", help="for a Space: the model on the hub")
    parser.add_argument("--base", default="", help="for a Space: its base model on the hub")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    """Upload; return a summary in numbers.

    Raises:
        UserError: licence, credits or files are missing, or the hub rejects the token.
        WorkError: the hub cannot be reached.
    """
    from aerialdreams.params import load_params
    from aerialdreams.pipeline.publish import publish

    credits = load_params().credits
    if args.kind == "space":
        from aerialdreams.pipeline.publish import Upload, list_sizes, upload_folder
        from aerialdreams.pipeline.space import SPACE, write_space

        folder = write_space(SPACE, Path(), args.controlnet, args.base, credits)
        upload = Upload(folder, "space", list_sizes(folder), "see the models' cards")
        said = upload_folder(upload, args.repo, args.private, args.revision, args.dry_run)
        return f"{said}; its files are in {folder}"
    return publish(args.kind, args.repo, args.private, args.revision, args.dry_run, credits)
