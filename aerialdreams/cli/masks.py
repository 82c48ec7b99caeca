"""A user's mask and models: found, read, reported on."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aerialdreams.errors import UserError

if TYPE_CHECKING:
    from aerialdreams.data.mask_files import UserMask
    from aerialdreams.generation.painter import Painter
    from aerialdreams.models.model_info import ModelInfo


def resolve_models(args: argparse.Namespace) -> None:
    """Replace the names of the models by their folders; see `model_names.model_folder`."""
    from aerialdreams.models.base_folder import files_of_family
    from aerialdreams.models.families import FAMILIES
    from aerialdreams.pipeline.model_names import model_folder

    args.controlnet = model_folder(args.controlnet, "--controlnet")
    base_files = {pattern for family in FAMILIES for pattern in files_of_family(family)}
    args.base = model_folder(args.base, "--base", sorted(base_files))


def load_mask(path: Path, args: argparse.Namespace, info: "ModelInfo") -> "UserMask":
    """Read a mask, resampled to the model's pixel size; notes about it go to the standard error.

    Args:
        path: the mask, or vector data if `args` has a mapping.
        args: see `arguments.add_model_arguments`.
        info: of the model.

    Raises:
        UserError: the mask, the mapping or the bounds are invalid.
    """
    from aerialdreams.data.grids import on_square_grid
    from aerialdreams.data.mask_files import read_user_mask

    classes = info.conditioning.classes
    if args.mapping:
        from aerialdreams.data.vectors import load_mapping, read_vector_mask

        mapping, size = load_mapping(args.mapping), args.pixel or info.pixel_size
        mask = read_vector_mask(path, mapping, classes, size, args.bounds)
    elif args.bounds:
        raise UserError("--bounds: is for vector data; name their classes with --mapping")
    else:
        mask = read_user_mask(path, classes, args.off_palette, info.ignored)
    if not mask.georeference and not args.pixel:
        print(
            f"{path}: has no georeference; assuming the model's pixel size,"
            f" {info.pixel_size:.2f} m (--pixel sets another)",
            file=sys.stderr,
        )
    for note in _notes(mask):
        print(f"{path}: {note}", file=sys.stderr)
    try:
        on_grid, note = on_square_grid(mask, args.pixel or info.pixel_size, info.pixel_size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if note:
        print(f"{path}: {note}", file=sys.stderr)
    return on_grid


def report_truncation(painter: "Painter", args: argparse.Namespace) -> None:
    """Say which words of the prompts are beyond the text encoder's length."""
    from aerialdreams.models.latent_diffusion import truncated_text

    for option, prompt in (("--prompt", args.prompt), ("--negative-prompt", args.negative_prompt)):
        unseen = truncated_text(painter.base.tokenizer, prompt)
        if unseen:
            limit = painter.base.tokenizer.model_max_length
            print(f"{option}: only {limit} tokens are used, not {unseen!r}", file=sys.stderr)


def _notes(mask: "UserMask") -> list[str]:
    """Messages to the user about how the mask was read."""
    notes = list(mask.notes)
    if mask.off_palette:
        notes.append(
            f"{mask.off_palette:.2%} of its pixels were assigned the class of the nearest colour"
        )
    if not mask.valid.all():
        notes.append(
            f"{1 - mask.valid.mean():.2%} of its pixels are nodata, transparent or masked; they are"
            " transparent in the image"
        )
    if mask.georeference and not mask.georeference.crs:
        notes.append("has no CRS, so the image has none")
    return notes
