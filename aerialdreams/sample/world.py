"""Writes the sample data's tiles: each zone is drawn whole and cut into patches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

from aerialdreams.data.flair import METADATA, PATCH_EXTENT, PATCH_SIZE, PIXEL_SIZE
from aerialdreams.sample.land import draw_land
from aerialdreams.sample.openstreetmap import ZoneRoads, write_extract
from aerialdreams.sample.photograph import photograph
from aerialdreams.util.files import write_json

SAMPLE_EXTRACT = "sample.osm.pbf"
# The CRS of most masks of FLAIR #1: the name of Lambert-93, without its EPSG code or projection.
MASK_CRS = (
    'LOCAL_CS["RGF93 v1 / Lambert-93",UNIT["metre",1,AUTHORITY["EPSG","9001"]],'
    'AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)


@dataclass(frozen=True)
class ZoneTask:
    """A zone to draw."""

    root: Path  # folder of the sample data
    domain: str
    zone: str
    west: float  # north-west corner, metres in EPSG:2154
    north: float
    side: int  # patches
    first_patch: int  # number of its first patch
    seed: list[int]


def write_world(root: Path, zones: list[tuple[ZoneRoads, dict[str, Any]]], seed: int) -> int:
    """Write the metadata and the OpenStreetMap extract, after `draw_zone` has written the tiles.

    Args:
        root: folder of the sample data.
        zones: the results of `draw_zone`, in the order of `lay_out`.
        seed: seed for names and borders.

    Returns:
        The number of patches.
    """
    metadata = {key: entry for _, entries in zones for key, entry in entries.items()}
    write_json(root / METADATA, metadata)
    write_extract(root / SAMPLE_EXTRACT, [roads for roads, _ in zones], seed)
    return len(metadata)


def lay_out(root: Path, zones: dict[str, list[str]], side: int, seed: int) -> list[ZoneTask]:
    """Position the zones: domains far apart, the zones of a domain in a row from west to east.

    Args:
        root: folder of the sample data.
        zones: names of zones by domain.
        side: patches along a zone's side.
        seed: seed of the sample data.
    """
    tasks: list[ZoneTask] = []
    for number, (domain, names) in enumerate(zones.items()):
        west, north = 380_000.0 + 70_000 * (number % 7), 6_350_000.0 + 60_000 * (number % 5)
        for position, zone in enumerate(names):
            task = ZoneTask(
                root=root,
                domain=domain,
                zone=zone,
                west=west + 1200.0 * position,
                north=north + 150.0 * (position % 3),
                side=side,
                first_patch=1 + len(tasks) * side * side,
                seed=[seed, number, position],
            )
            tasks.append(task)
    return tasks


def draw_zone(task: ZoneTask) -> tuple[ZoneRoads, dict[str, Any]]:
    """Draw a zone, cut it into patches and write them.

    Returns:
        The zone's roads for the OpenStreetMap extract, and its patches' metadata.
    """
    land = draw_land(task.zone.split("_")[1], task.side, task.seed)
    bands = photograph(land, task.seed)
    mask = np.repeat(np.repeat(land.mask, 2, 0), 2, 1)
    rng = np.random.default_rng([*task.seed, 1])
    folder = task.root / task.domain / task.zone
    (folder / "img").mkdir(parents=True)
    (folder / "msk").mkdir()
    metadata = {}
    for number in range(task.side**2):
        row, column = divmod(number, task.side)
        patch = f"{task.first_patch + number:06d}"
        west, north = task.west + column * PATCH_EXTENT, task.north - row * PATCH_EXTENT
        window = np.s_[
            row * PATCH_SIZE : (row + 1) * PATCH_SIZE,
            column * PATCH_SIZE : (column + 1) * PATCH_SIZE,
        ]
        _write(folder / f"img/IMG_{patch}.tif", bands[:, *window], west, north, "EPSG:2154")
        _write(folder / f"msk/MSK_{patch}.tif", mask[None, *window], west, north, MASK_CRS)
        metadata[f"IMG_{patch}"] = _metadata(
            task, west + PATCH_EXTENT / 2, north - PATCH_EXTENT / 2, rng
        )
    roads = [(kind, line * np.array([1, -1])) for kind, line in land.roads]
    zone_roads = ZoneRoads(task.domain, task.west, task.north, task.side * PATCH_EXTENT, roads)
    return zone_roads, metadata


def _metadata(task: ZoneTask, x: float, y: float, rng: np.random.Generator) -> dict[str, Any]:
    """A patch's metadata, with flaws of the real ones: shifted centroids and missing keys."""
    shift = rng.uniform(-24, 24, 2) if rng.random() < 0.4 else np.zeros(2)
    year, complete = task.domain[-4:], rng.random() < 0.9
    entry = {
        "domain": task.domain,
        "zone": task.zone,
        "patch_centroid_x": round(x + float(shift[0]), 2),
        "patch_centroid_y": round(y + float(shift[1]), 2),
        "patch_centroid_z": round(float(rng.uniform(20, 600)), 2),
        "date": f"{year}-{task.seed[1] % 4 + 5:02d}-{task.seed[2] + 10:02d}",
        "time": f"{rng.integers(9, 16):02d}h{rng.integers(60):02d}",
        "camera": "SAMPLE-CAMERA",
    }
    if not complete:
        del entry["time"], entry["patch_centroid_z"]
    return entry


def _write(path: Path, bands: NDArray[np.uint8], west: float, north: float, crs: str) -> None:
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "width": PATCH_SIZE,
        "height": PATCH_SIZE,
        "crs": crs,
    }
    profile |= {"count": len(bands), "transform": from_origin(west, north, PIXEL_SIZE, PIXEL_SIZE)}
    with rasterio.open(path, "w", **profile, compress="zstd", zstd_level=3, predictor=2) as file:
        file.write(bands)
