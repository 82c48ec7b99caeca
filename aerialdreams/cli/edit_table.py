"""`aerialdreams edit --table`: pairs of images for change detection, as a dataset."""

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aerialdreams.cli.arguments import sampling_settings
from aerialdreams.cli.masks import load_mask, report_truncation
from aerialdreams.errors import UserError
from aerialdreams.util.files import atomic_file, dvc_md5, read_json, write_json
from aerialdreams.util.progress import progress

if TYPE_CHECKING:
    from aerialdreams.data.mask_files import UserMask
    from aerialdreams.generation.edit_tables import EditRow
    from aerialdreams.models.model_info import ModelInfo

MASKS = (".tif", ".tiff", ".png", ".vrt", ".jp2")
TRIES = 50  # of a row on further masks, before it is given up
COLUMNS = ["pair", "mask", "from", "to", "changed_pixels", "seed"]
CARD = """\
# Change-detection pairs

{count} pairs of synthetic aerial images, made by AerialDreams. None shows a real place.

| folder | content |
|---|---|
| `before/`, `after/` | images; identical beyond {margin} pixels from what changes |
| `mask-before/`, `mask-after/` | class ids |
| `change/` | 255 where the class changes, else 0 |
| `metadata.csv` | for each pair: its mask, what becomes what, changed pixels, seed |

Pixels are {pixel_size:.2f} m. Prompt: {prompt}

Classes: {classes}

Model trained on {credit}
"""


def make_pairs(args: argparse.Namespace, info: "ModelInfo") -> str:
    """Make pairs by a table of edits; return a summary in numbers.

    Pairs that an interrupted call with the same arguments has made are kept.

    Raises:
        UserError: a mask, the table, a model or the output is invalid, or no edit fits any mask.
    """
    from aerialdreams.generation.edit_files import EditImages, write_edit
    from aerialdreams.generation.edit_tables import read_edits
    from aerialdreams.generation.editing import edit
    from aerialdreams.generation.painter import Painter
    from aerialdreams.models.model_info import synthetic_tags

    unused = {"a second mask": args.after, "--photograph": args.photograph, "--region": args.region}
    for name, value in unused.items():
        if value:
            raise UserError(f"{name}: has no use with --table")
    classes = list(info.conditioning.classes)
    rows = read_edits(args.table, classes)
    paths = _mask_paths(args.before)
    output: Path = args.output or args.before.with_name(f"{args.before.stem}-pairs")
    if output.resolve() in (args.before.resolve(), args.before.resolve().parent):
        raise UserError(f"--output: {output}: holds the masks; name another folder")
    masks = [load_mask(path, args, info) for path in paths]
    painter = Painter(args.controlnet, args.base)
    report_truncation(painter, args)
    settings, records = sampling_settings(args), []
    _require_same_request(output, args)
    for number in progress(range(args.count), "pairs", "pairs", args.count):
        seed = args.seed + number
        row = rows[number % len(rows)]
        path, mask, after = _place(row, paths, masks, info, args.seed, number)
        changed = mask.class_ids != after
        record = [f"{number:06d}", path.name, row.from_class or "", row.to_class]
        records.append([*record, int(changed.sum()), seed])
        suffix = ".tif" if mask.georeference else ".png"
        if (output / f"change/{number:06d}{suffix}").exists():
            continue  # from a call that was interrupted; it is the last file of a pair
        before = painter.paint(mask.class_ids, args.prompt, seed=seed, on_step=_quiet, **settings)
        image = edit(
            painter, before, after, changed, args.prompt, seed, args.margin, _quiet, **settings
        )
        write_edit(
            output,
            EditImages(before, image, mask.class_ids, after, changed),
            mask.georeference,
            classes,
            synthetic_tags(info, args.controlnet, args.prompt, seed),
            pair=f"{number:06d}",
            further=info.further,
        )
    _write_metadata(output, records)
    card = CARD.format(
        count=args.count,
        margin=args.margin,
        pixel_size=info.pixel_size,
        prompt=args.prompt,
        classes=", ".join(f"{row.id} {row.name}" for row in classes),
        credit=info.credit,
    )
    (output / "README.md").write_text(card, encoding="utf-8")
    share = sum(record[4] for record in records) / max(args.count, 1)
    return f"{output}: {args.count} pairs, {share:.0f} pixels changed in each on average"


def _quiet(done: int, steps: int) -> None:
    """Pairs have one progress bar, not one for each image."""


def _require_same_request(output: Path, args: argparse.Namespace) -> None:
    """Raise a UserError if a folder has pairs of other arguments; else note these in it."""
    decisive = {
        name: str(value)
        for name, value in vars(args).items()
        if name not in ("run", "output", "count", "table")
    }
    decisive["edits"] = args.table.read_text(encoding="utf-8-sig")
    decisive["model"] = dvc_md5(args.controlnet)
    path = output / "request.json"
    if path.exists() and read_json(path) != decisive:
        raise UserError(
            f"--output: {output}: has pairs made with other arguments; name another folder, or"
            " remove it"
        )
    if output.exists() and not path.exists() and any(output.iterdir()):
        raise UserError(f"--output: {output}: is not empty; name another folder")
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, decisive)


def _mask_paths(path: Path) -> list[Path]:
    """A mask, or all masks of a folder."""
    if not path.is_dir():
        return [path]
    paths = sorted(file for file in path.iterdir() if file.suffix.lower() in MASKS)
    if not paths:
        raise UserError(f"{path}: has no mask; masks end in {', '.join(MASKS)}")
    return paths


def _place(
    row: "EditRow",
    paths: list[Path],
    masks: list["UserMask"],
    info: "ModelInfo",
    seed: int,
    number: int,
) -> tuple[Path, "UserMask", Any]:
    """The first mask, from the number-th, that has a place for an edit, and the mask after it."""
    from aerialdreams.generation.edit_tables import apply_edit

    classes = info.conditioning.classes
    for trial in range(min(TRIES, 10 * len(masks))):
        index = (number + trial) % len(masks)
        mask = masks[index]
        key = f"{number} {trial}"
        after = apply_edit(mask.class_ids, row, classes, info.pixel_size, seed, key)
        if after is not None:
            return paths[index], mask, after
    raise UserError(
        f"no mask has a place for the edit from {row.from_class or 'any class'} to {row.to_class};"
        " remove it from the table, or name more masks"
    )


def _write_metadata(output: Path, records: list[list[Any]]) -> None:
    with (
        atomic_file(output / "metadata.csv") as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(records)
