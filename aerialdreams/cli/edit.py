"""`aerialdreams edit`: change part of a photograph, and leave every other pixel as it is."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aerialdreams.cli.arguments import (
    add_model_arguments,
    add_prompt_arguments,
    non_negative,
    positive,
    sampling_settings,
)
from aerialdreams.cli.masks import load_mask, report_truncation, resolve_models
from aerialdreams.errors import UserError
from aerialdreams.pipeline.environment import quick_imports

if TYPE_CHECKING:
    from aerialdreams.data.mask_files import UserMask

EXAMPLES = """\
examples:
  aerialdreams edit before.tif after.tif --photograph orthophoto.tif --output new-road
  aerialdreams edit before.tif after.tif --seed 7          (the photograph is generated, too)
  aerialdreams edit mask.tif --region area.geojson --photograph orthophoto.tif --seed 2
  aerialdreams edit masks/ --table edits.csv --count 1000 --output pairs

Where the masks differ, and in a margin around that, the image is repainted; all other pixels stay
identical. The folder gets before and after, both masks, and change (255 where the mask changes), as
GeoTIFFs, or as PNGs if the masks have no georeference.

--table makes many pairs for change detection. Its columns: from, to (classes; from may be empty for
any), and optionally shape (parcel, rectangle, disc or line), size (metres), x and y (metres from
the mask's upper left corner; without them the place is drawn by the seed)."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "edit",
        help="change part of a photograph after its mask, or make change-detection pairs",
        description="Repaint a photograph where its land cover changes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, help="mask before the change; a folder with --table")
    parser.add_argument("after", type=Path, nargs="?", help="mask after the change")
    parser.add_argument(
        "--region", type=Path, help="repaint here: polygons, or a raster that is not 0 there"
    )
    parser.add_argument(
        "--photograph", type=Path, help="image before the change; default: it is generated"
    )
    parser.add_argument("--output", type=Path, help="folder; default: the mask's name with -edit")
    parser.add_argument(
        "--margin", type=non_negative, default=8, help="pixels of blending (default 8)"
    )
    parser.add_argument("--table", type=Path, help="CSV of edits to make pairs with")
    parser.add_argument("--count", type=positive, default=1, help="number of pairs (default 1)")
    add_prompt_arguments(parser)
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    """Make the edit or the pairs; return a summary in numbers.

    Raises:
        UserError: a mask, the photograph, a model, the table or the output is invalid.
    """
    with quick_imports():
        from aerialdreams.data.regions import read_photograph, read_region
        from aerialdreams.generation.edit_files import EditImages, write_edit
        from aerialdreams.generation.editing import edit
        from aerialdreams.generation.painter import Painter
        from aerialdreams.models.model_info import ModelInfo, synthetic_tags

    resolve_models(args)
    info = ModelInfo.load(args.controlnet)
    if args.table:
        from aerialdreams.cli.edit_table import make_pairs

        return make_pairs(args, info)
    if not args.after and not args.region:
        raise UserError("name a mask after the change, or a --region to repaint")
    before = load_mask(args.before, args, info)
    after = load_mask(args.after, args, info) if args.after else before
    _require_same_ground(args.after, before, after)
    changed = (before.class_ids != after.class_ids) & after.valid
    if args.region:
        changed |= read_region(args.region, before.georeference, changed.shape)
    if not changed.any():
        raise UserError(f"{args.after or args.region}: changes nothing: no pixel differs")
    output = _output(args)
    photograph = None
    if args.photograph:
        bands = 3 + len(info.further.names)
        photograph = read_photograph(args.photograph, before.georeference, changed.shape, bands)
    painter = Painter(args.controlnet, args.base)
    report_truncation(painter, args)
    settings = sampling_settings(args)
    if photograph is None:
        photograph = painter.paint(before.class_ids, args.prompt, seed=args.seed, **settings)
    result = edit(
        painter,
        photograph,
        after.class_ids,
        changed,
        args.prompt,
        args.seed,
        args.margin,
        **settings,
    )
    tags = synthetic_tags(info, args.controlnet, args.prompt, args.seed)
    images = EditImages(photograph, result, before.class_ids, after.class_ids, changed)
    write_edit(
        output,
        images,
        before.georeference,
        list(info.conditioning.classes),
        tags,
        real_before=bool(args.photograph),
        further=info.further,
    )
    differing = (photograph != result).any(2).mean()
    return (
        f"{output}: {changed.mean():.2%} of {changed.shape[1]} x {changed.shape[0]} pixels changed"
        f" class, {differing:.2%} repainted, the others are identical"
    )


def _require_same_ground(path: Path | None, before: "UserMask", after: "UserMask") -> None:
    """Raise a UserError if the masks do not cover the same pixels of the same ground."""
    if before.class_ids.shape != after.class_ids.shape:
        sizes = [" x ".join(map(str, one.class_ids.shape[::-1])) for one in (after, before)]
        raise UserError(
            f"{path}: has {sizes[0]} pixels of the model's size, the mask before has {sizes[1]};"
            " both must cover the same ground"
        )
    first, second = before.georeference, after.georeference
    if first and second and not first.transform.almost_equals(second.transform, first.transform.a):
        raise UserError(f"{path}: lies elsewhere than the mask before the change")


def _output(args: argparse.Namespace) -> Path:
    """The folder of the results.

    Raises:
        UserError: it holds an input, or is a file.
    """
    output: Path = args.output or args.before.with_name(f"{args.before.stem}-edit")
    inputs = [path for path in (args.before, args.after, args.photograph, args.region) if path]
    if output.exists() and not output.is_dir():
        raise UserError(f"--output: {output}: is a file; name a folder")
    if any(path.resolve().parent == output.resolve() for path in inputs):
        raise UserError(
            f"--output: {output}: holds an input, which could be overwritten; name another folder"
        )
    return output
