"""The sample's tiles: zones drawn once, cut into patches and written in FLAIR's layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

from aerialdreams.data.flair import METADATA, PATCH_SIZE, PIXEL_SIZE
from aerialdreams.sample.ground import ZoneGround, write_ground
from aerialdreams.sample.land import PATCH, draw_land
from aerialdreams.sample.photograph import photograph
from aerialdreams.util.files import write_json

SAMPLE_EXTRACT = "sample.osm.pbf"
# What most masks of FLAIR #1 carry: Lambert-93 in name only, without a code.
MASK_CRS = (
    'LOCAL_CS["RGF93 v1 / Lambert-93",UNIT["metre",1,AUTHORITY["EPSG","9001"]],'
    'AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)


@dataclass(frozen=True)
class ZoneTask:
    """A zone to draw: where it is written, where it lies, the number of its first patch."""

    root: Path
    domain: str
    zone: str
    west: float
    north: float
    side: int
    first: int
    seed: list[int]


def write_world(root: Path, zones: list[tuple[ZoneGround, dict[str, Any]]], seed: int) -> int:
    """Write metadata and OpenStreetMap extract of zones that `draw_zone` has drawn.

    Args:
        root: folder of the world, in FLAIR's layout.
        zones: the results of `draw_zone`, in the order of `lay_out`.
        seed: of names and borders.

    Returns:
        The number of patches.
    """
    metadata = {key: entry for _, entries in zones for key, entry in entries.items()}
    write_json(root / METADATA, metadata)
    write_ground(root / SAMPLE_EXTRACT, [ground for ground, _ in zones], seed)
    return len(metadata)


def lay_out(root: Path, zones: dict[str, list[str]], side: int, seed: int) -> list[ZoneTask]:
    """Give each zone its place: domains far apart, a domain's zones in a row to the east."""
    tasks: list[ZoneTask] = []
    for number, (domain, names) in enumerate(zones.items()):
        west, north = 380_000.0 + 70_000 * (number % 7), 6_350_000.0 + 60_000 * (number % 5)
        for place, zone in enumerate(names):
            task = ZoneTask(
                root=root,
                domain=domain,
                zone=zone,
                west=west + 1200.0 * place,
                north=north + 150.0 * (place % 3),
                side=side,
                first=1 + len(tasks) * side * side,
                seed=[seed, number, place],
            )
            tasks.append(task)
    return tasks


def draw_zone(task: ZoneTask) -> tuple[ZoneGround, dict[str, Any]]:
    """Draw a zone once, cut it into patches and write them.

    Returns:
        What OpenStreetMap gets to know of it, and its patches' metadata.
    """
    ground = draw_land(task.zone.split("_")[1], task.side, task.seed)
    bands = photograph(ground, task.seed)
    mask = np.repeat(np.repeat(ground.mask, 2, 0), 2, 1)
    rng = np.random.default_rng([*task.seed, 1])
    folder = task.root / task.domain / task.zone
    (folder / "img").mkdir(parents=True)
    (folder / "msk").mkdir()
    metadata = {}
    for number in range(task.side**2):
        row, column = divmod(number, task.side)
        patch = f"{task.first + number:06d}"
        west, north = task.west + column * PATCH, task.north - row * PATCH
        part = np.s_[
            row * PATCH_SIZE : (row + 1) * PATCH_SIZE,
            column * PATCH_SIZE : (column + 1) * PATCH_SIZE,
        ]
        _write(folder / f"img/IMG_{patch}.tif", bands[:, *part], west, north, "EPSG:2154")
        _write(folder / f"msk/MSK_{patch}.tif", mask[None, *part], west, north, MASK_CRS)
        metadata[f"IMG_{patch}"] = _metadata(task, west + PATCH / 2, north - PATCH / 2, rng)
    roads = [(kind, line * np.array([1, -1])) for kind, line in ground.roads]
    place = ZoneGround(task.domain, task.west, task.north, task.side * PATCH, roads)
    return place, metadata


def _metadata(task: ZoneTask, x: float, y: float, rng: np.random.Generator) -> dict[str, Any]:
    """A patch's entry, with the flaws of the real ones: centroids off, keys missing."""
    off = rng.uniform(-24, 24, 2) if rng.random() < 0.4 else np.zeros(2)
    year, complete = task.domain[-4:], rng.random() < 0.9
    entry = {
        "domain": task.domain,
        "zone": task.zone,
        "patch_centroid_x": round(x + float(off[0]), 2),
        "patch_centroid_y": round(y + float(off[1]), 2),
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
