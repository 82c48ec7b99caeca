"""Zones as areas in which OpenStreetMap is read, and their map projections."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform, transform_bounds

WGS_84 = CRS.from_epsg(4326)

Bounds = tuple[float, float, float, float]  # west, south, east, north
Points = NDArray[np.float64]  # (n, 2): longitude, latitude in degrees


@dataclass(frozen=True)
class SearchRadius:
    """Maximum distances from a patch's centre to the nearest road and place, in metres."""

    road: float
    place: float


@dataclass(frozen=True)
class Zone:
    """A contiguous block of patches in a group; OpenStreetMap is read once per zone."""

    group: str
    name: str
    bounds: Bounds  # of its patches, in its CRS
    crs: str  # EPSG code or WKT

    @property
    def metre(self) -> float:
        """A metre in the CRS's units."""
        return 1 / float(_parse(self.crs).linear_units_factor[1])

    def degrees(self, margin: float = 0.0) -> Bounds:
        """The bounds in WGS 84, widened by `margin` metres.

        They are rounded to 1e-7 degrees, the precision of OpenStreetMap's coordinates.
        """
        west, south, east, north = self.bounds
        margin *= self.metre
        wide = (west - margin, south - margin, east + margin, north + margin)
        west, south, east, north = transform_bounds(_parse(self.crs), WGS_84, *wide)
        return round(west, 7), round(south, 7), round(east, 7), round(north, 7)

    def quarters(self) -> list["Zone"]:
        """The zone split into its four quarters, for a server that cannot answer for all of it."""
        west, south, east, north = self.bounds
        x, y = (west + east) / 2, (south + north) / 2
        parts = (west, y, x, north), (x, y, east, north), (west, south, x, y), (x, south, east, y)
        return [Zone(self.group, self.name, part, self.crs) for part in parts]

    def project(self, points: Points) -> NDArray[np.float64]:
        """Convert longitudes and latitudes, (n, 2), to the zone's CRS."""
        if not len(points):
            return points
        x, y = transform(WGS_84, _parse(self.crs), points[:, 0], points[:, 1])
        return np.stack([x, y], 1)

    def __str__(self) -> str:
        return f"{self.group}/{self.name}"


@lru_cache(maxsize=64)
def _parse(crs: str) -> CRS:
    return CRS.from_user_input(crs)


def zones_of(index: pd.DataFrame) -> list[tuple[Zone, pd.DataFrame]]:
    """Group the patch index by zone.

    Args:
        index: rows of the patch index.

    Returns:
        Each zone with its rows, in order of the zones' first rows. Patches without a place on the
        Earth are left out.
    """
    zones = []
    placed = index[index["longitude"].notna()]
    for (group, name, crs), patches in placed.groupby(["group", "zone", "crs"], sort=False):
        x, y, extent = patches["origin_x"], patches["origin_y"], patches["extent"]
        west, south = round(float(x.min()), 1), round(float((y - extent).min()), 1)
        east, north = round(float((x + extent).max()), 1), round(float(y.max()), 1)
        zones.append((Zone(group, name, (west, south, east, north), crs), patches))
    return zones
