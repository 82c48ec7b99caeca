"""FLAIR's zones as areas in which OpenStreetMap is read, and the map projection of both."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform, transform_bounds

from aerialdreams.data.flair import EPSG, PATCH_EXTENT

LAMBERT_93, WGS_84 = CRS.from_epsg(EPSG), CRS.from_epsg(4326)

Bounds = tuple[float, float, float, float]  # west, south, east, north
Points = NDArray[np.float64]  # (n, 2): longitude, latitude in degrees


@dataclass(frozen=True)
class SearchRadius:
    """Maximum distances from a patch's centre to the nearest road and place, in metres."""

    road: float
    place: float


@dataclass(frozen=True)
class Zone:
    """A contiguous block of patches in a domain; OpenStreetMap is read once per zone."""

    domain: str
    name: str
    bounds: Bounds  # of its patches, metres in Lambert-93

    def degrees(self, margin: float = 0.0) -> Bounds:
        """The bounds in WGS 84, widened by `margin` metres.

        They are rounded to 1e-7 degrees, the precision of OpenStreetMap's coordinates.
        """
        west, south, east, north = self.bounds
        wide = (west - margin, south - margin, east + margin, north + margin)
        west, south, east, north = transform_bounds(LAMBERT_93, WGS_84, *wide)
        return round(west, 7), round(south, 7), round(east, 7), round(north, 7)

    def quarters(self) -> list["Zone"]:
        """The zone split into its four quarters, for a server that cannot answer for all of it."""
        west, south, east, north = self.bounds
        x, y = (west + east) / 2, (south + north) / 2
        parts = (west, y, x, north), (x, y, east, north), (west, south, x, y), (x, south, east, y)
        return [Zone(self.domain, self.name, part) for part in parts]

    def __str__(self) -> str:
        return f"{self.domain}/{self.name}"


def zones_of(index: pd.DataFrame) -> list[tuple[Zone, pd.DataFrame]]:
    """Group the patch index by zone.

    Args:
        index: rows of the patch index, with domain, zone, origin_x and origin_y.

    Returns:
        Each zone with its rows, in order of the zones' first rows.
    """
    zones = []
    for (domain, name), patches in index.groupby(["domain", "zone"], sort=False):
        x, y = patches["origin_x"], patches["origin_y"]
        west, south = round(float(x.min()), 1), round(float(y.min()) - PATCH_EXTENT, 1)
        east, north = round(float(x.max()) + PATCH_EXTENT, 1), round(float(y.max()), 1)
        zones.append((Zone(domain, name, (west, south, east, north)), patches))
    return zones


def project(points: Points) -> NDArray[np.float64]:
    """Convert longitudes and latitudes, (n, 2), to metres in Lambert-93."""
    if not len(points):
        return points
    x, y = transform(WGS_84, LAMBERT_93, points[:, 0], points[:, 1])
    return np.stack([x, y], 1)
