"""patch-index: check every patch and write the one list of patches.

Reads   data/raw/ and its metadata JSON
Writes  data/patches.parquet, one row for each good patch
        data/rejected.csv, one row for each patch that is set aside, with the reason
"""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rasterio.warp import transform

from aerialdreams.data.credits import IGN_CREDIT
from aerialdreams.data.flair import CLASS_COUNT, PATCH_NAME, PIXEL, SIDE
from aerialdreams.data.index import INDEX_SCHEMA, SPLITS
from aerialdreams.data.land_cover import class_pixel_counts, invalid_ids
from aerialdreams.data.tiles import Tile, read_tile
from aerialdreams.errors import UserError
from aerialdreams.params import Params, PatchIndex
from aerialdreams.paths import INDEX, RAW
from aerialdreams.pipeline.parallel import parallel_map
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.util.files import atomic_file, file_md5
from aerialdreams.util.tables import write_table

REJECTED = Path("data/rejected.csv")

# Domain and zone are the folders' names, in IGN's storage and in the Hugging Face release alike.
PLACE = re.compile(r"(?:.*/)?(D\d{3}_\d{4})/(?:.*/)?(Z\d+_[UANFH]{2})/(?:.*/)?[^/]+")
# FLAIR's transforms carry float noise; a tenth of a pixel is more than all of it.
TOLERANCE = PIXEL / 10


@dataclass(frozen=True)
class Pair:
    """The files of one patch, and what FLAIR's metadata say of it."""

    root: Path
    patch_id: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    metadata: dict[str, Any]


def main(params: Params) -> str:
    stage = params.patch_index
    pairs = find_pairs(RAW, read_metadata(Path(stage.metadata)))
    checked = parallel_map(
        check,
        pairs,
        len(pairs),
        "patches checked",
        workers=params.runtime.workers,
        scheduler=params.runtime.scheduler,
    )
    rows, rejected = [], []
    for result in checked:
        if isinstance(result, dict):
            rows.append(result)
        else:
            rejected.append(result)
    with atomic_file(REJECTED) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("patch_id", "file", "reason"), *rejected])
    if len(rejected) > stage.max_rejected * len(pairs):
        first = "; ".join(f"{file}: {reason}" for _, file, reason in rejected[:3])
        raise UserError(
            f"{len(rejected)} of {len(pairs)} patches are bad, more than patch_index.max_rejected"
            f" ({stage.max_rejected:.2%}) allows; the first: {first}; all are in {REJECTED}"
        )
    assign_splits(rows, stage)
    add_centres(rows)
    add_grid(rows)
    write_table(INDEX, rows, INDEX_SCHEMA, IGN_CREDIT)
    counts = ", ".join(f"{sum(r['split'] == s for r in rows)} {s}" for s in SPLITS)
    return f"{len(rows)} patches ({counts}), {len(rejected)} set aside"


def read_metadata(path: Path) -> dict[str, Any]:
    """FLAIR's metadata, keyed by image stem; ids need not be on disk, nor the reverse."""
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: not found; it is IGN's metadata of the patches, beside the images in their"
            " archive; set patch_index.metadata to where it is"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); fetch it again") from None
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: must be a JSON object keyed by image name; fetch it again")
    return metadata


def find_pairs(root: Path, metadata: dict[str, Any]) -> list[Pair]:
    """Group the tiles under `root` by their number, in order of it."""
    files: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(root.rglob("*.tif")):
        name = PATCH_NAME.fullmatch(path.name)
        if name:
            files.setdefault(name[2], {"IMG": [], "MSK": []})[name[1]].append(path)
    if not files:
        raise UserError(f"{root}: no IMG_nnnnnn.tif or MSK_nnnnnn.tif in it or its folders")
    return [
        Pair(
            root,
            number,
            tuple(found["IMG"]),
            tuple(found["MSK"]),
            metadata.get(f"IMG_{number}", {}),
        )
        for number, found in sorted(files.items())
    ]


def check(pair: Pair) -> dict[str, Any] | tuple[str, str, str]:
    """A patch's index row without split and centre, or (patch_id, file, reason) if it is bad."""
    for files, other, kind in (
        (pair.images, pair.masks, "image"),
        (pair.masks, pair.images, "mask"),
    ):
        if not files:
            return pair.patch_id, str(other[0]), f"no {kind} with this number"
        if len(files) > 1:
            return pair.patch_id, str(files[1]), f"a second {kind} with this number"
    (image_path,), (mask_path,) = pair.images, pair.masks
    place, of_mask = place_of(image_path, pair.root), place_of(mask_path, pair.root)
    if not place:
        return pair.patch_id, str(image_path), "not in folders named Dxxx_yyyy and Zn_LL"
    if of_mask != place:
        where = "/".join(place)
        return (
            pair.patch_id,
            str(mask_path),
            f"not of the same domain and zone as its image, {where}",
        )
    try:
        image, mask = read_tile(image_path), read_tile(mask_path)
    except UserError as error:
        file, _, reason = str(error).partition(": ")
        return pair.patch_id, file, reason
    for path, flaw in ((image_path, image_flaw(image)), (mask_path, mask_flaw(mask, image))):
        if flaw:
            return pair.patch_id, str(path), flaw
    return {
        "patch_id": pair.patch_id,
        "domain": place[0],
        "zone": place[1],
        "image_path": image_path.relative_to(pair.root).as_posix(),
        "mask_path": mask_path.relative_to(pair.root).as_posix(),
        "image_md5": file_md5(image_path),
        "mask_md5": file_md5(mask_path),
        "pixels": class_pixel_counts(mask.bands).tolist(),
        "origin_x": round(image.origin[0], 1),
        "origin_y": round(image.origin[1], 1),
        "date": pair.metadata.get("date"),
        "time": pair.metadata.get("time"),
        "camera": pair.metadata.get("camera"),
    }


def place_of(path: Path, root: Path) -> tuple[str, str] | None:
    """Domain and zone of a tile, by the folders that it lies in, whatever stands between them."""
    place = PLACE.fullmatch(path.relative_to(root).as_posix())
    return (place[1], place[2]) if place else None


def image_flaw(image: Tile) -> str | None:
    """Why an image is no FLAIR image, or None."""
    if image.bands.shape != (5, SIDE, SIDE):
        return f"shape {image.bands.shape}, not (5, {SIDE}, {SIDE})"
    if image.bands.dtype != "uint8":
        return f"type {image.bands.dtype}, not uint8"
    # Where an image has no code FLAIR means Lambert-93; another code is another place.
    epsg = image.crs.to_epsg() if image.crs else None
    if epsg not in (None, 2154):
        return f"EPSG:{epsg}, not EPSG:2154"
    if any(abs(size - PIXEL) > TOLERANCE / SIDE for size in image.pixel):
        return f"pixels of {image.pixel[0]} x {image.pixel[1]} m, not {PIXEL} m"
    return None


def mask_flaw(mask: Tile, image: Tile) -> str | None:
    """Why a mask does not fit its image, or None. Its CRS is broken in most of FLAIR: not read."""
    if mask.bands.shape != (1, SIDE, SIDE):
        return f"shape {mask.bands.shape}, not (1, {SIDE}, {SIDE})"
    if mask.bands.dtype != "uint8":
        return f"type {mask.bands.dtype}, not uint8"
    if any(abs(a - b) > TOLERANCE for a, b in zip(mask.origin, image.origin, strict=True)):
        return f"lies at {mask.origin}, its image at {image.origin}"
    bad = invalid_ids(mask.bands)
    if bad:
        return f"class id {', '.join(map(str, bad))}, not 1 to {CLASS_COUNT}"
    return None


def assign_splits(rows: list[dict[str, Any]], stage: PatchIndex) -> None:
    """Set each row's split by its domain, never by patch: neighbours look alike."""
    for row in rows:
        if row["domain"] in stage.validation_domains:
            row["split"] = "validation"
        elif row["domain"] in stage.test_domains:
            row["split"] = "test"
        else:
            row["split"] = "train"
    for split in SPLITS:
        if not any(row["split"] == split for row in rows):
            raise UserError(
                f"{RAW}: no good patch for the {split} split; it has the domains"
                f" {', '.join(sorted({row['domain'] for row in rows}))}, and"
                " patch_index.validation_domains and test_domains say which is which"
            )


def add_grid(rows: list[dict[str, Any]]) -> None:
    """Set each row's place in the grid of its zone, row 0 and column 0 in the north-west."""
    corners: dict[tuple[str, str], tuple[float, float]] = {}
    for row in rows:
        zone = (row["domain"], row["zone"])
        west, north = corners.get(zone, (row["origin_x"], row["origin_y"]))
        corners[zone] = min(west, row["origin_x"]), max(north, row["origin_y"])
    for row in rows:
        west, north = corners[row["domain"], row["zone"]]
        row["zone_column"] = round((row["origin_x"] - west) / (SIDE * PIXEL))
        row["zone_row"] = round((north - row["origin_y"]) / (SIDE * PIXEL))


def add_centres(rows: list[dict[str, Any]]) -> None:
    """Set each row's centre, from the transform and never from the metadata's centroid."""
    half = SIDE * PIXEL / 2
    x = [row["origin_x"] + half for row in rows]
    y = [row["origin_y"] - half for row in rows]
    longitudes, latitudes = transform("EPSG:2154", "EPSG:4326", x, y)
    for row, longitude, latitude in zip(rows, longitudes, latitudes, strict=True):
        # A ten-millionth of a degree is a centimetre; beyond it PROJ's versions differ.
        row["longitude"], row["latitude"] = round(longitude, 7), round(latitude, 7)


if __name__ == "__main__":
    run_stage("patch-index", __doc__, main)
