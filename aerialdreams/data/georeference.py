"""Where a raster is on the ground, and how large its pixels are there."""

import math
import re
from typing import NamedTuple

from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform as transform_points

LAMBERT_93 = CRS.from_epsg(2154)
WGS_84 = CRS.from_epsg(4326)
# WGS 84's ellipsoid: semi-major axis in metres, and squared eccentricity.
SEMI_MAJOR_AXIS, ECCENTRICITY_2 = 6378137.0, 0.00669437999014
TOLERANCE = 0.01  # by which pixels may differ from squares of one size


class GeoReference(NamedTuple):
    """A raster's position.

    Attributes:
        transform: from pixel coordinates (column, row) to the CRS.
        crs: None if the file does not say.
    """

    transform: Affine
    crs: CRS | None


class NotSquareError(ValueError):
    """A raster's pixels are not squares of one size on the ground, north up."""


def ground_pixel_size(reference: GeoReference, width: int, height: int) -> float:
    """Side of a pixel on the ground, metres, measured at the raster's place.

    What a CRS calls a metre may be another length on the ground (EPSG:3857 stretches France by
    half), so sizes are measured as geodesic distances on WGS 84, whatever the CRS. Where they agree
    with the CRS's own within `TOLERANCE`, those are returned: pixels of 0.2 m in Lambert-93 are
    0.2 m. A CRS that does not say where it is, and no CRS at all, are believed.

    Args:
        reference: the raster's position.
        width: columns.
        height: rows.

    Raises:
        NotSquareError: pixels are rotated, mirrored, not square, or of different sizes; the message
            says which, and continues a sentence about the file.
    """
    transform, crs = reference
    if transform.a <= 0 or transform.e >= 0 or _shear(transform, width, height) > 1e-3:
        raise NotSquareError("is rotated or mirrored against its CRS")
    unit = _unit_in_metres(crs) if crs else 1.0
    nominal = [transform.a * unit, -transform.e * unit]
    points = [(0.1, 0.1), (0.9, 0.1), (0.5, 0.5), (0.1, 0.9), (0.9, 0.9)]
    sides = nominal
    if crs:
        try:
            sides = [
                side
                for column, row in points
                for side in _measure(transform, crs, column * width, row * height)
            ]
        except Exception:  # GDAL's many: the CRS is local and does not say where it is
            sides = nominal
    if max(sides) > min(sides) * (1 + TOLERANCE):
        raise NotSquareError(
            f"has pixels of {sides[0]:.3g} x {sides[1]:.3g} m on the ground; they must be squares"
            " of one size"
        )
    mean = sum(sides) / len(sides)
    return nominal[0] if abs(mean / nominal[0] - 1) < TOLERANCE else mean


def _shear(transform: Affine, width: int, height: int) -> float:
    """By how many pixels rows and columns deviate from the axes over the whole raster."""
    return max(abs(transform.b) * height, abs(transform.d) * width) / abs(transform.a)


def _measure(transform: Affine, crs: CRS, column: float, row: float) -> tuple[float, float]:
    """Width and height of a pixel on the ground, metres."""
    here, east, south = (
        transform @ point for point in ((column, row), (column + 1, row), (column, row + 1))
    )
    xs, ys = zip(here, east, south, strict=True)
    longitudes, latitudes = transform_points(crs, WGS_84, xs, ys)
    if not all(map(math.isfinite, (*longitudes, *latitudes))):
        raise ValueError("the CRS does not reach there")
    return (
        _distance(longitudes[0], latitudes[0], longitudes[1], latitudes[1]),
        _distance(longitudes[0], latitudes[0], longitudes[2], latitudes[2]),
    )


def _distance(longitude: float, latitude: float, longitude_2: float, latitude_2: float) -> float:
    """Metres between two points, degrees, that are a few pixels apart.

    By the radii of curvature of the ellipsoid (Snyder 1987, Map Projections, p. 24-25).
    """
    phi = math.radians((latitude + latitude_2) / 2)
    w = math.sqrt(1 - ECCENTRICITY_2 * math.sin(phi) ** 2)
    meridian, normal = SEMI_MAJOR_AXIS * (1 - ECCENTRICITY_2) / w**3, SEMI_MAJOR_AXIS / w
    north = math.radians(latitude_2 - latitude) * meridian
    east = math.radians(longitude_2 - longitude) * normal * math.cos(phi)
    return math.hypot(north, east)


def _unit_in_metres(crs: CRS) -> float:
    """Length of a CRS's unit, metres; 1 if it has none."""
    try:
        return float(crs.linear_units_factor[1])
    except CRSError:  # of local and geographic CRS
        unit = re.search(r'(?:LENGTH)?UNIT\["[^"]*", *([0-9.eE+-]+)', crs.to_wkt())
        return float(unit[1]) if unit and not crs.is_geographic else 1.0
