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

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from aerialdreams.data.flair import PATCH_FOLDERS, PATCH_FOLDERS_HINT, PATCH_NAME
from aerialdreams.data.georeference import (
    MAX_SHEAR,
    NotSquareError,
    ground_pixel_size,
    is_same_plane,
)
from aerialdreams.data.index import SPLITS, index_schema
from aerialdreams.data.land_cover import class_ids, class_pixel_counts
from aerialdreams.data.mask_values import allowed_values
from aerialdreams.data.metadata import CUT_METADATA, read_metadata
from aerialdreams.data.spec import DatasetSpec
from aerialdreams.data.splits import assign_splits, neighbours_across_splits
from aerialdreams.data.tiles import Tile, read_tile, tile_class_ids
from aerialdreams.errors import UserError
from aerialdreams.params import Params
from aerialdreams.paths import INDEX, RAW, REJECTED
from aerialdreams.pipeline.parallel import parallel_map
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.util.files import atomic_file, file_md5
from aerialdreams.util.tables import write_table

NAME = re.compile(r"(IMG|MSK)_(.+)\.tif")
TOLERANCE = 0.1  # pixels; the float noise of transforms is far below
MAX_SCALE_ERROR = 0.01  # relative difference from dataset_spec.pixel_size


@dataclass(frozen=True)
class Pair:
    """The files with one patch id below `root`, and the patch's entry in the metadata.

    A valid patch has exactly one image and one mask; `check` rejects others.
    """

    spec: DatasetSpec
    root: Path
    patch_id: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    metadata: dict[str, Any]  # empty if there is no entry


def main(params: Params) -> str:
    stage, spec = params.patch_index, params.dataset_spec
    cut, path = RAW / CUT_METADATA, Path(stage.metadata)
    path = cut if cut.exists() else path
    metadata = read_metadata(path) if path.exists() else {}
    pairs = find_pairs(RAW, metadata, spec)
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
    assign_splits(rows, stage.validation_groups, stage.test_groups, stage.drawn.model_dump())
    add_centres(rows)
    add_grid(rows)
    write_table(INDEX, rows, index_schema(len(spec.classes)), spec.credit)
    counts = ", ".join(f"{sum(r['split'] == s for r in rows)} {s}" for s in SPLITS)
    notes = "" if path.exists() else f"; {path} not found, so dates are unknown"
    if neighbours := neighbours_across_splits(rows, spec.patch_size):
        notes += f"; {len(neighbours)} patches touch one of another split: {neighbours[0]}"
    return f"{len(rows)} patches ({counts}), {len(rejected)} rejected{notes}"


def find_pairs(root: Path, metadata: dict[str, Any], spec: DatasetSpec) -> list[Pair]:
    """Group the tiles below a folder by patch, in order of patch id.

    Tiles have FLAIR's file names, or names that the metadata has.

    Raises:
        UserError: there are no tiles.
    """
    files: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(root.rglob("*.tif")):
        name = NAME.fullmatch(path.name)
        if name and (PATCH_NAME.fullmatch(path.name) or f"IMG_{name[2]}" in metadata):
            files.setdefault(name[2], {"IMG": [], "MSK": []})[name[1]].append(path)
    if not files:
        raise UserError(f"{root}: has no IMG_nnnnnn.tif or MSK_nnnnnn.tif in its folders")
    return [
        Pair(
            spec,
            root,
            patch_id,
            tuple(tiles["IMG"]),
            tuple(tiles["MSK"]),
            metadata.get(f"IMG_{patch_id}", {}),
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
    group, zone = pair.metadata.get("group"), pair.metadata.get("zone")
    if not (group and zone):
        folders = domain_and_zone(image_path, pair.root)
        if not folders:
            return pair.patch_id, str(image_path), f"not in folders named {PATCH_FOLDERS_HINT}"
        if domain_and_zone(mask_path, pair.root) != folders:
            reason = f"not in the same domain and zone as its image, {'/'.join(folders)}"
            return pair.patch_id, str(mask_path), reason
        group, zone = folders
    try:
        image, mask = read_tile(image_path), read_tile(mask_path)
    except UserError as error:
        file, _, reason = str(error).partition(": ")
        return pair.patch_id, file, reason
    spec = pair.spec
    for path, flaw in (
        (image_path, image_flaw(image, spec)),
        (mask_path, mask_flaw(mask, image, spec)),
    ):
        if flaw:
            return pair.patch_id, str(path), flaw
    ids, _ = tile_class_ids(mask, spec)
    return {
        "patch_id": pair.patch_id,
        "group": group,
        "zone": zone,
        "image_path": image_path.relative_to(pair.root).as_posix(),
        "mask_path": mask_path.relative_to(pair.root).as_posix(),
        "image_md5": file_md5(image_path),
        "mask_md5": file_md5(mask_path),
        "bands": spec.bands.names,
        "pixels": class_pixel_counts(ids, class_ids(spec.classes)).tolist(),
        "zone_row": pair.metadata.get("row"),
        "zone_column": pair.metadata.get("column"),
        **georeference(image, spec),  # the mask's is equal within TOLERANCE
        "date": pair.metadata.get("date"),
        "time": pair.metadata.get("time"),
        "camera": pair.metadata.get("camera"),
    }


def georeference(image: Tile, spec: DatasetSpec) -> dict[str, Any]:
    """The columns of the index that say where a valid image lies."""
    if not image.has_georeference:
        return {"pixel_size": spec.pixel_size}
    crs: CRS | None = CRS.from_user_input(spec.crs) if spec.crs else image.crs
    reference, side = image.reference(crs), image.bands.shape[1]
    epsg = crs.to_epsg() if crs else None
    # Float noise is not copied: 1e-6 units are a micrometre.
    return {
        "crs": f"EPSG:{epsg}" if epsg else (crs.to_wkt() if crs else None),
        "origin_x": round(image.origin[0], 6),
        "origin_y": round(image.origin[1], 6),
        "extent": round(image.pixel_size[0] * side, 6),
        "pixel_size": spec.pixel_size or round(ground_pixel_size(reference, side, side), 6),
    }


def crs_name(crs: CRS) -> str:
    """The name at the beginning of a CRS's WKT."""
    match = re.search(r'"([^"]*)"', crs.to_wkt())
    return match[1] if match else "without a name"


def domain_and_zone(path: Path, root: Path) -> tuple[str, str] | None:
    """Domain and zone of a tile, from the names of its folders; None if they name none."""
    folders = PATCH_FOLDERS.fullmatch(path.relative_to(root).as_posix())
    return (folders[1], folders[2]) if folders else None


def image_flaw(image: Tile, spec: DatasetSpec) -> str | None:
    """Why an image does not fit the dataset spec, or None if it does.

    Where the spec has a CRS, the image's must be that one, or none, or a local one without
    relation to the Earth, as the one named "Lambert-93" that some of FLAIR's tiles have.
    """
    size, (count, height, width) = spec.patch_size, image.bands.shape
    if (height, width) != (size, size) or count < spec.bands.count:
        return f"shape {image.bands.shape}, not ({spec.bands.count}, {size}, {size})"
    if image.bands.dtype != np.uint8 and spec.is_8_bit:
        return f"type {image.bands.dtype}, not uint8; dataset_spec.value_range gives its range"
    if not image.has_georeference:
        if spec.pixel_size is None:
            return "has no georeference; set dataset_spec.pixel_size to the size of its pixels"
        return None
    if spec.crs and image.crs:
        crs = CRS.from_user_input(spec.crs)
        if not is_same_plane(image.crs, crs, *image.origin):
            epsg = image.crs.to_epsg()
            name = f"EPSG:{epsg}" if epsg else f"CRS {crs_name(image.crs)!r}"
            return f"{name}, not {spec.crs}"
    if image.shear > MAX_SHEAR:
        return "rotated against its CRS"
    reference = image.reference(CRS.from_user_input(spec.crs) if spec.crs else image.crs)
    try:
        pixel_size = ground_pixel_size(reference, width, height)
    except NotSquareError as error:
        return str(error)
    if spec.pixel_size and abs(pixel_size / spec.pixel_size - 1) > MAX_SCALE_ERROR:
        return (
            f"pixels of {image.pixel_size[0]} x {image.pixel_size[1]} in its CRS, {pixel_size:.4g}"
            f" m on the ground, not {spec.pixel_size} m"
        )
    return None


def mask_flaw(mask: Tile, image: Tile, spec: DatasetSpec) -> str | None:
    """Why a mask does not fit its image and the dataset spec, or None if it does.

    The mask's CRS is not checked, because most of FLAIR's are damaged: the patch has its image's.
    """
    size = spec.patch_size
    if mask.bands.shape != (1, size, size):
        return f"shape {mask.bands.shape}, not (1, {size}, {size})"
    if mask.bands.dtype.kind not in "iu":
        return f"type {mask.bands.dtype}, not integers"
    if mask.shear > MAX_SHEAR:
        return "rotated against its CRS"
    if mask.has_georeference and image.has_georeference:
        tolerance = TOLERANCE * image.pixel_size[0]
        sides = list(zip(mask.pixel_size, image.pixel_size, strict=True))
        if any(abs(ours - its) > tolerance / size for ours, its in sides):
            width, height = mask.pixel_size
            return (
                f"pixels of {width:g} x {height:g} m, its image's are of {image.pixel_size[0]:g} m"
            )
        if any(abs(a - b) > tolerance for a, b in zip(mask.origin, image.origin, strict=True)):
            return f"north-west corner at {mask.origin}, its image's is at {image.origin}"
    ids, unknown = tile_class_ids(mask, spec)
    if unknown:
        return f"class id {', '.join(unknown)}, not {allowed_values(spec.classes)}"
    if not class_pixel_counts(ids, class_ids(spec.classes)).any():
        return "no pixel with a class"
    return None


def add_grid(rows: list[dict[str, Any]]) -> None:
    """Set each row's position in the grid of its zone; 0, 0 is the north-west corner.

    The metadata of patches that were cut from a raster have it already.
    """
    origins: dict[tuple[str, str], tuple[float, float]] = {}
    placed = [row for row in rows if row["zone_row"] is None and row.get("extent")]
    for row in placed:
        zone = (row["group"], row["zone"])
        west, north = origins.get(zone, (row["origin_x"], row["origin_y"]))
        origins[zone] = min(west, row["origin_x"]), max(north, row["origin_y"])
    for row in placed:
        west, north = origins[row["group"], row["zone"]]
        row["zone_column"] = round((row["origin_x"] - west) / row["extent"])
        row["zone_row"] = round((north - row["origin_y"]) / row["extent"])


def add_centres(rows: list[dict[str, Any]]) -> None:
    """Set each row's centre from its origin: FLAIR's metadata's centroids are up to 24 m off."""
    by_crs: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("crs"):
            by_crs.setdefault(row["crs"], []).append(row)
    for crs, placed in by_crs.items():
        x = [row["origin_x"] + row["extent"] / 2 for row in placed]
        y = [row["origin_y"] - row["extent"] / 2 for row in placed]
        try:
            longitudes, latitudes = transform(crs, "EPSG:4326", x, y)
        except (CRSError, RasterioError):  # a local CRS, without relation to the Earth
            continue
        for row, longitude, latitude in zip(placed, longitudes, latitudes, strict=True):
            # 1e-7 degrees are a centimetre; further digits differ between versions of PROJ.
            row["longitude"], row["latitude"] = round(longitude, 7), round(latitude, 7)


if __name__ == "__main__":
    run_stage("patch-index", __doc__, main)
