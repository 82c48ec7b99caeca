"""`aerialdreams generate`: an image for a land-cover mask."""

import argparse
from pathlib import Path
from typing import Any

from aerialdreams.cli.arguments import (
    add_model_arguments,
    add_prompt_arguments,
    sampling_settings,
)
from aerialdreams.cli.masks import load_mask, report_truncation, resolve_models
from aerialdreams.errors import UserError
from aerialdreams.pipeline.environment import quick_imports

EXAMPLES = """\
examples:
  aerialdreams generate mask.tif --prompt "Aerial view of Brest. water, building."
  aerialdreams generate mask.png --pixel 0.2 --seed 7 --output street.png
  aerialdreams generate mask.tif --prompt "Oil on canvas painting." --guidance 5

The mask is a raster of any size and any format that GDAL reads, with one band of class ids or three
bands with the classes' colours. Large masks are covered with overlapping tiles that are blended.
The image gets the mask's georeference. Near infrared and height, if the model makes them, are
further bands of a GeoTIFF, and PNGs beside a PNG."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "generate",
        help="generate an aerial image for a land-cover mask",
        description="Generate an aerial image for a land-cover mask.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("mask", type=Path, help="class ids or colours")
    add_prompt_arguments(parser)
    parser.add_argument(
        "--output", type=Path, help=".tif or .png; default: the mask's name with -photograph"
    )
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    """Generate the image; return a summary in numbers.

    Raises:
        UserError: the mask, a model or the output's name is invalid.
    """
    with quick_imports():
        import numpy as np

        from aerialdreams.data.images import write_bands
        from aerialdreams.data.rasters import write_geotiff
        from aerialdreams.generation.painter import Painter
        from aerialdreams.models.model_info import ModelInfo, synthetic_tags

    resolve_models(args)
    info = ModelInfo.load(args.controlnet)
    mask = load_mask(args.mask, args, info)
    output = _output(args, has_georeference=mask.georeference is not None)
    painter = Painter(args.controlnet, args.base)
    report_truncation(painter, args)
    image = painter.paint(mask.class_ids, args.prompt, seed=args.seed, **sampling_settings(args))
    if not mask.valid.all():  # pixels outside the mask are transparent
        image = np.dstack([image, mask.valid.astype(np.uint8) * 255])
    if output.suffix.lower() != ".png" and mask.georeference:
        tags = synthetic_tags(info, args.controlnet, args.prompt, args.seed)
        write_geotiff(output, image, mask.georeference, tags, further=info.further)
    else:
        write_bands(output, image, info.further.names)
    height, width = image.shape[:2]
    return f"{output}: {width} x {height} pixels of {info.pixel_size:.2f} m generated"


def _output(args: argparse.Namespace, has_georeference: bool) -> Path:
    """Path of the image.

    Raises:
        UserError: it is the mask, or its suffix is not supported.
    """
    suffix = ".tif" if has_georeference else ".png"
    output: Path = args.output or args.mask.with_name(f"{args.mask.stem}-photograph{suffix}")
    if output.exists() and output.samefile(args.mask):
        raise UserError(
            f"--output: {output}: is the mask, which would be overwritten; name another file"
        )
    if output.suffix.lower() == ".png" or (
        output.suffix.lower() in (".tif", ".tiff") and has_georeference
    ):
        return output
    allowed = ".png, .tif or .tiff" if has_georeference else ".png: the mask has no georeference"
    raise UserError(f"--output: {output}: must end in {allowed}")
