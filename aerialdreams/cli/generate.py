"""`aerialdreams generate`: an image for a land-cover mask."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from aerialdreams.errors import UserError
from aerialdreams.paths import BASE, CONTROLNET

EXAMPLES = """\
examples:
  aerialdreams generate mask.tif --prompt "Aerial view of Brest. water, building."
  aerialdreams generate mask.png --pixel 0.2 --seed 7 --output street.png
  aerialdreams generate mask.tif --prompt "Oil on canvas painting." --guidance 5

The mask is a raster of any size and any format that GDAL reads, with one band of class ids or three
bands with the classes' colours. Large masks are covered with overlapping tiles that are blended.
The image gets the mask's georeference."""


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
    parser.add_argument("--prompt", type=text, default="Aerial view.", help="what the image shows")
    parser.add_argument(
        "--negative-prompt",
        type=text,
        default="",
        help="what the image must not show; needs guidance > 1",
    )
    parser.add_argument(
        "--output", type=Path, help=".tif or .png; default: the mask's name with -photograph"
    )
    parser.add_argument(
        "--seed", type=non_negative, default=0, help="seed of the noise (default 0)"
    )
    model = parser.add_argument_group("sampling (default: the values saved with the model)")
    model.add_argument("--sampler", choices=["ddim", "dpm++", "unipc"])
    model.add_argument("--steps", type=positive, help="denoising steps")
    model.add_argument(
        "--guidance", type=at_least_one, help="classifier-free guidance scale; 1 turns it off"
    )
    model.add_argument(
        "--conditioning-scale",
        type=number(0, math.inf),
        help="factor on the ControlNet's residuals; higher follows the mask more closely",
    )
    parser.add_argument(
        "--pixel",
        type=positive_number,
        help="pixel size of a mask without georeference, metres; default: the model's",
    )
    parser.add_argument(
        "--off-palette",
        type=number(0, 1),
        default=0.01,
        help="largest allowed share of pixels whose colour is not a class's (default 0.01)",
    )
    parser.add_argument("--controlnet", type=Path, default=CONTROLNET, help="the model's folder")
    parser.add_argument("--base", type=Path, default=BASE, help="the base model's folder")
    parser.set_defaults(run=run)


def number(least: float, most: float) -> Any:
    """An argument's type: a finite number in a range."""

    def parse(value: str) -> float:
        try:
            parsed = float(value)
        except ValueError:
            parsed = math.nan
        if not (math.isfinite(parsed) and least <= parsed <= most):
            allowed = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"{value!r} is not a number {allowed}")
        return parsed

    return parse


def positive_number(value: str) -> float:
    """An argument's type: a finite number above 0."""
    parsed: float = number(0, math.inf)(value)
    if parsed == 0:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number above 0")
    return parsed


at_least_one = number(1, math.inf)


def positive(value: str) -> int:
    """An argument's type: a whole number above 0."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number above 0")
    return int(value)


def non_negative(value: str) -> int:
    """An argument's type: a whole number from 0."""
    if not value.isdecimal():
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from 0")
    return int(value)


def text(value: str) -> str:
    """An argument's type: text that arrived in the terminal's encoding."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"{value!r} is not valid text in this terminal's encoding; set LC_ALL=C.UTF-8"
        ) from None
    return value


def run(args: argparse.Namespace) -> str:
    """Generate the image; return a summary in numbers.

    Raises:
        UserError: the mask, a model or the output's name is invalid.
    """
    import numpy as np

    from aerialdreams.data.images import write_image
    from aerialdreams.data.mask_files import UserMask, read_user_mask, resample_mask
    from aerialdreams.data.rasters import write_geotiff
    from aerialdreams.models.model_info import ModelInfo
    from aerialdreams.util.files import dvc_md5

    info = ModelInfo.load(args.controlnet)
    mask: UserMask = read_user_mask(
        args.mask, info.conditioning.classes, args.off_palette, info.ignored
    )
    pixel_size = _pixel_size(args, mask, info.pixel_size)
    output = _output(args, has_georeference=mask.georeference is not None)
    for note in _notes(mask):
        print(f"{args.mask}: {note}", file=sys.stderr)
    mask = resample_mask(mask, pixel_size, info.pixel_size)

    from aerialdreams.generation.painter import Painter
    from aerialdreams.models.stable_diffusion import truncated_text

    painter = Painter(args.controlnet, args.base)
    for option, prompt in (("--prompt", args.prompt), ("--negative-prompt", args.negative_prompt)):
        unseen = truncated_text(painter.base.tokenizer, prompt)
        if unseen:
            limit = painter.base.tokenizer.model_max_length
            print(f"{option}: only {limit} tokens are used, not {unseen!r}", file=sys.stderr)
    image = painter.paint(
        mask.class_ids,
        args.prompt,
        seed=args.seed,
        negative_prompt=args.negative_prompt,
        sampler=args.sampler,
        steps=args.steps,
        guidance=args.guidance,
        conditioning_scale=args.conditioning_scale,
    )
    if not mask.valid.all():  # pixels outside the mask are transparent
        image = np.dstack([image, mask.valid.astype(np.uint8) * 255])
    if output.suffix.lower() != ".png" and mask.georeference:
        tags = {
            "SYNTHETIC": "YES",
            "TIFFTAG_IMAGEDESCRIPTION": "Synthetic: made by AerialDreams, shows no real place",
            "PROMPT": args.prompt,
            "SEED": str(args.seed),
            "CONTROLNET_MD5": dvc_md5(args.controlnet),
            "CREDITS": f"Model trained on {info.credit}",
        }
        write_geotiff(output, image, mask.georeference, tags)
    else:
        write_image(output, image)
    height, width = image.shape[:2]
    return f"{output}: {width} x {height} pixels of {info.pixel_size:.2f} m generated"


def _pixel_size(args: argparse.Namespace, mask: Any, model_pixel_size: float) -> float:
    """Pixel size of the mask on the ground, metres."""
    from aerialdreams.data.georeference import NotSquareError, ground_pixel_size
    from aerialdreams.data.grids import utm_zone

    if mask.georeference:
        try:
            return ground_pixel_size(mask.georeference, *mask.class_ids.shape[::-1])
        except NotSquareError as error:
            shape = mask.class_ids.shape[::-1]
            crs = utm_zone(mask.georeference, *shape)[0] if mask.georeference.crs else "EPSG:NNNN"
            raise UserError(
                f"{args.mask}: {error}; warp it to a projection in metres first, such as `gdalwarp"
                f" -t_srs {crs} -r near`"
            ) from None
    if args.pixel:
        return float(args.pixel)
    print(
        f"{args.mask}: has no georeference; assuming the model's pixel size,"
        f" {model_pixel_size:.2f} m (--pixel sets another)",
        file=sys.stderr,
    )
    return model_pixel_size


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


def _notes(mask: Any) -> list[str]:
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
