"""patch-index: check every patch and write the patch index, the only list of patches.

Reads   data/raw/, including its metadata JSON
Writes  data/patches.parquet, one row per valid patch
        data/rejected.csv, one row per rejected patch, with the reason

A patch's CRS and origin come from its image, never from its mask; see aerialdreams/data/tiles.py.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rasterio.crs import CRS
from rasterio.warp import transform

from aerialdreams.data.credits import IGN_CREDIT
from aerialdreams.data.flair import (
    BANDS,
    CLASS_COUNT,
    EPSG,
    PATCH_EXTENT,
    PATCH_FOLDERS,
    PATCH_FOLDERS_HINT,
    PATCH_NAME,
    PATCH_NAME_HINT,
    PATCH_SIZE,
    PIXEL_SIZE,
    image_stem,
)
from aerialdreams.data.georeference import MAX_SHEAR, is_same_plane
from aerialdreams.data.index import INDEX_SCHEMA, SPLITS
from aerialdreams.data.land_cover import class_pixel_counts, invalid_ids
from aerialdreams.data.metadata import read_metadata
from aerialdreams.data.tiles import Tile, read_tile
from aerialdreams.errors import UserError
from aerialdreams.param_groups import PatchIndex
from aerialdreams.params import Params
from aerialdreams.paths import INDEX, RAW, REJECTED
from aerialdreams.pipeline.parallel import parallel_map
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.util.files import atomic_file, file_md5
from aerialdreams.util.tables import write_table

# Metres. The float noise of FLAIR's transforms is far below a tenth of a pixel.
TOLERANCE = PIXEL_SIZE / 10
REFERENCE_POINT = (700_000.0, 6_600_000.0)  # in the middle of France, where CRS are compared


@dataclass(frozen=True)
class Pair:
    """The files with one patch id below `root`, and the patch's entry in FLAIR's metadata.

    A valid patch has exactly one image and one mask; `check` rejects others.
    """

    root: Path
    patch_id: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    metadata: dict[str, Any]  # empty if there is no entry


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
            f" ({stage.max_rejected:.2%}) allows; {REJECTED} lists all, the first are {first}"
        )
    assign_splits(rows, stage)
    add_centres(rows)
    add_grid(rows)
    write_table(INDEX, rows, INDEX_SCHEMA, IGN_CREDIT)
    counts = ", ".join(f"{sum(r['split'] == s for r in rows)} {s}" for s in SPLITS)
    return f"{len(rows)} patches ({counts}), {len(rejected)} rejected"


def find_pairs(root: Path, metadata: dict[str, Any]) -> list[Pair]:
    """Group the tiles below a folder by patch, in order of patch id.

    Raises:
        UserError: there are no tiles.
    """
    files: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(root.rglob("*.tif")):
        name = PATCH_NAME.fullmatch(path.name)
        if name:
            files.setdefault(name[2], {"IMG": [], "MSK": []})[name[1]].append(path)
    if not files:
        raise UserError(f"{root}: has no {PATCH_NAME_HINT} in its folders")
    return [
        Pair(
            root,
            patch_id,
            tuple(tiles["IMG"]),
            tuple(tiles["MSK"]),
            metadata.get(image_stem(patch_id), {}),
        )
        for patch_id, tiles in sorted(files.items())
    ]


def check(pair: Pair) -> dict[str, Any] | tuple[str, str, str]:
    """Check a patch.

    Returns:
        For a valid patch its row of the index, still without split, centre and grid position; for a
        bad patch (patch_id, file, reason).
    """
    for kind, files, others in (
        ("image", pair.images, pair.masks),
        ("mask", pair.masks, pair.images),
    ):
        if not files:
            return pair.patch_id, str(others[0]), f"no {kind} with this number"
        if len(files) > 1:
            return pair.patch_id, str(files[1]), f"a second {kind} with this number"
    (image_path,), (mask_path,) = pair.images, pair.masks
    folders = domain_and_zone(image_path, pair.root)
    if not folders:
        return pair.patch_id, str(image_path), f"not in folders named {PATCH_FOLDERS_HINT}"
    if domain_and_zone(mask_path, pair.root) != folders:
        reason = f"not in the same domain and zone as its image, {'/'.join(folders)}"
        return pair.patch_id, str(mask_path), reason
    try:
        image, mask = read_tile(image_path), read_tile(mask_path)
    except UserError as error:
        file, _, reason = str(error).partition(": ")
        return pair.patch_id, file, reason
    for path, flaw in ((image_path, image_flaw(image)), (mask_path, mask_flaw(mask, image))):
        if flaw:
            return pair.patch_id, str(path), flaw
    origin_x, origin_y = image.origin  # the mask's is equal within TOLERANCE
    return {
        "patch_id": pair.patch_id,
        "domain": folders[0],
        "zone": folders[1],
        "image_path": image_path.relative_to(pair.root).as_posix(),
        "mask_path": mask_path.relative_to(pair.root).as_posix(),
        "image_md5": file_md5(image_path),
        "mask_md5": file_md5(mask_path),
        "pixels": class_pixel_counts(mask.bands).tolist(),
        "origin_x": round(origin_x, 1),
        "origin_y": round(origin_y, 1),
        "date": pair.metadata.get("date"),
        "time": pair.metadata.get("time"),
        "camera": pair.metadata.get("camera"),
    }


def crs_name(crs: CRS) -> str:
    """The name at the beginning of a CRS's WKT."""
    match = re.search(r'"([^"]*)"', crs.to_wkt())
    return match[1] if match else "without a name"


def domain_and_zone(path: Path, root: Path) -> tuple[str, str] | None:
    """Domain and zone of a tile, from the names of its folders; None if they name none."""
    folders = PATCH_FOLDERS.fullmatch(path.relative_to(root).as_posix())
    return (folders[1], folders[2]) if folders else None


def image_flaw(image: Tile) -> str | None:
    """Why an image is not in FLAIR's format, or None if it is.

    The patch's CRS is checked here: the image's must have FLAIR's EPSG code, or none, as the local
    CRS named "Lambert-93" that some of FLAIR's tiles have.
    """
    if image.bands.shape != (BANDS, PATCH_SIZE, PATCH_SIZE):
        return f"shape {image.bands.shape}, not ({BANDS}, {PATCH_SIZE}, {PATCH_SIZE})"
    if image.bands.dtype != "uint8":
        return f"type {image.bands.dtype}, not uint8"
    if image.crs and not is_same_plane(image.crs, EPSG, *REFERENCE_POINT):
        epsg = image.crs.to_epsg()
        name = f"EPSG:{epsg}" if epsg else f"CRS {crs_name(image.crs)!r}"
        return f"{name}, not EPSG:{EPSG}"
    if image.shear > MAX_SHEAR:
        return "rotated against its CRS"
    if any(abs(size - PIXEL_SIZE) > TOLERANCE / PATCH_SIZE for size in image.pixel_size):
        width, height = image.pixel_size
        return f"pixels of {width} x {height} m, not {PIXEL_SIZE} m"
    return None


def mask_flaw(mask: Tile, image: Tile) -> str | None:
    """Why a mask does not fit its image, or None if it does.

    The mask's CRS is not checked, because most are damaged: the patch has its image's.
    """
    if mask.bands.shape != (1, PATCH_SIZE, PATCH_SIZE):
        return f"shape {mask.bands.shape}, not (1, {PATCH_SIZE}, {PATCH_SIZE})"
    if mask.bands.dtype != "uint8":
        return f"type {mask.bands.dtype}, not uint8"
    if mask.shear > MAX_SHEAR:
        return "rotated against its CRS"
    if any(abs(size - PIXEL_SIZE) > TOLERANCE / PATCH_SIZE for size in mask.pixel_size):
        width, height = mask.pixel_size
        return f"pixels of {width} x {height} m, its image's are of {PIXEL_SIZE} m"
    if any(abs(a - b) > TOLERANCE for a, b in zip(mask.origin, image.origin, strict=True)):
        return f"north-west corner at {mask.origin}, its image's is at {image.origin}"
    invalid = invalid_ids(mask.bands)
    if invalid:
        return f"class id {', '.join(map(str, invalid))}, not 1 to {CLASS_COUNT}"
    return None


def assign_splits(rows: list[dict[str, Any]], stage: PatchIndex) -> None:
    """Set each row's split by its domain, so that no patch has a neighbour in another split.

    Raises:
        UserError: a split is empty.
    """
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
                f"{RAW}: has no valid patch for the {split} split; its domains are"
                f" {', '.join(sorted({row['domain'] for row in rows}))};"
                " patch_index.validation_domains and test_domains assign them"
            )


def add_grid(rows: list[dict[str, Any]]) -> None:
    """Set each row's position in the grid of its zone; 0, 0 is the north-west corner."""
    origins: dict[tuple[str, str], tuple[float, float]] = {}
    for row in rows:
        zone = (row["domain"], row["zone"])
        west, north = origins.get(zone, (row["origin_x"], row["origin_y"]))
        origins[zone] = min(west, row["origin_x"]), max(north, row["origin_y"])
    for row in rows:
        west, north = origins[row["domain"], row["zone"]]
        row["zone_column"] = round((row["origin_x"] - west) / PATCH_EXTENT)
        row["zone_row"] = round((north - row["origin_y"]) / PATCH_EXTENT)


def add_centres(rows: list[dict[str, Any]]) -> None:
    """Set each row's centre from its origin: the metadata's centroids are up to 24 m off."""
    x = [row["origin_x"] + PATCH_EXTENT / 2 for row in rows]
    y = [row["origin_y"] - PATCH_EXTENT / 2 for row in rows]
    longitudes, latitudes = transform(f"EPSG:{EPSG}", "EPSG:4326", x, y)
    for row, longitude, latitude in zip(rows, longitudes, latitudes, strict=True):
        # 1e-7 degrees are a centimetre; further digits differ between versions of PROJ.
        row["longitude"], row["latitude"] = round(longitude, 7), round(latitude, 7)


if __name__ == "__main__":
    run_stage("patch-index", __doc__, main)
