"""Georeferences of rasters, and the size of their pixels on the ground."""

import math
import re
from functools import lru_cache
from typing import NamedTuple

from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform as transform_points

# WGS 84's ellipsoid: semi-major axis in metres, and squared eccentricity.
SEMI_MAJOR_AXIS, ECCENTRICITY_2 = 6378137.0, 0.00669437999014
TOLERANCE = 0.01  # relative difference up to which pixel sizes count as equal
METRE_IN_DEGREES = 1e-5
MAX_SHEAR = 1e-3  # pixels; more than the float noise of transforms


class GeoReference(NamedTuple):
    """A raster's georeference.

    Attributes:
        transform: from pixel coordinates (column, row) to coordinates in the CRS.
        crs: None if the file has none.
    """

    transform: Affine
    crs: CRS | None


class NotSquareError(ValueError):
    """A raster's pixels are not north-up squares of one size on the ground."""


def ground_pixel_size(reference: GeoReference, width: int, height: int) -> float:
    """Side of a raster's pixels on the ground, metres.

    A metre of a CRS can be another length on the ground (in EPSG:3857 1.5 times as long at the
    latitude of France), so pixels are measured as geodesic distances on WGS 84. Where these differ
    from the CRS's own by less than `TOLERANCE`, the latter are returned: pixels of 0.2 m in
    Lambert-93 are 0.2 m. Without a CRS, or with a local one that has no relation to WGS 84, pixels
    have the size that the transform gives.

    Args:
        reference: the raster's georeference.
        width: of the raster, pixels.
        height: of the raster, pixels.

    Raises:
        NotSquareError: pixels are rotated, mirrored, not square, or of different sizes. The message
            says which; it has no subject, so that callers can put the file's name before it.
    """
    transform, crs = reference
    if transform.a <= 0 or transform.e >= 0 or shear(transform, width, height) > MAX_SHEAR:
        raise NotSquareError("is rotated or mirrored against its CRS")
    unit = unit_in_metres(crs) if crs else 1.0
    nominal = [transform.a * unit, -transform.e * unit]
    sides = nominal
    if crs:
        points = [(0.1, 0.1), (0.9, 0.1), (0.5, 0.5), (0.1, 0.9), (0.9, 0.9)]
        try:
            sides = [
                side
                for x, y in points
                for side in geodesic_pixel_size(transform, crs, x * width, y * height)
            ]
        except Exception:  # one of many that GDAL raises if a local CRS has no relation to WGS 84
            sides = nominal
    if max(sides) > min(sides) * (1 + TOLERANCE):
        raise NotSquareError(
            f"has pixels of {sides[0]:.3g} x {sides[1]:.3g} m on the ground; they must be squares"
            " of one size"
        )
    mean = sum(sides) / len(sides)
    return nominal[0] if abs(mean / nominal[0] - 1) < TOLERANCE else mean


def shear(transform: Affine, width: int, height: int) -> float:
    """Deviation of rows and columns from the CRS's axes over a whole raster, pixels."""
    return max(abs(transform.b) * height, abs(transform.d) * width) / max(abs(transform.a), 1e-30)


@lru_cache(maxsize=64)
def is_same_plane(crs: CRS, other: CRS, x: float, y: float) -> bool:
    """Whether a CRS's coordinates are those of another CRS, to a metre on the ground.

    So are those of the same projection with heights, or on a newer realisation of its datum.

    Args:
        crs: the CRS. A local one, without relation to the Earth, contradicts nothing.
        other: the other.
        x: first coordinate of the point at which they are compared.
        y: its second coordinate.
    """
    if crs == other or (crs.to_epsg() or -1) == other.to_epsg():
        return True
    if re.match(r"(LOCAL_CS|ENGCRS|ENGINEERINGCRS)", crs.to_wkt()):
        return True
    try:
        ours, others = (transform_points(system, "EPSG:4326", [x], [y]) for system in (crs, other))
    except CRSError:
        return False
    degrees = [abs(a[0] - b[0]) for a, b in zip(ours[:2], others[:2], strict=True)]
    return all(difference < METRE_IN_DEGREES for difference in degrees)  # false for NaN, too


def utm_crs(crs: CRS, x: float, y: float) -> CRS:
    """The UTM zone of a point given in a CRS."""
    (longitude,), (latitude,) = transform_points(crs, "EPSG:4326", [x], [y])
    zone = int((longitude + 180) // 6) % 60 + 1
    return CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)


def geodesic_pixel_size(
    transform: Affine, crs: CRS, column: float, row: float
) -> tuple[float, float]:
    """Width and height of a pixel on the ground, metres."""
    corner, east, south = (
        transform @ point for point in ((column, row), (column + 1, row), (column, row + 1))
    )
    xs, ys = zip(corner, east, south, strict=True)
    longitudes, latitudes = transform_points(crs, "EPSG:4326", xs, ys)
    if not all(map(math.isfinite, (*longitudes, *latitudes))):
        raise ValueError("outside the CRS's area of use")
    return (
        _distance(longitudes[0], latitudes[0], longitudes[1], latitudes[1]),
        _distance(longitudes[0], latitudes[0], longitudes[2], latitudes[2]),
    )


def _distance(longitude: float, latitude: float, longitude_2: float, latitude_2: float) -> float:
    """Distance in metres between two points that are a few pixels apart, given in degrees.

    Uses the ellipsoid's radii of curvature (Snyder 1987, Map Projections, p. 24-25).
    """
    phi = math.radians((latitude + latitude_2) / 2)
    w = math.sqrt(1 - ECCENTRICITY_2 * math.sin(phi) ** 2)
    meridian, normal = SEMI_MAJOR_AXIS * (1 - ECCENTRICITY_2) / w**3, SEMI_MAJOR_AXIS / w
    north = math.radians(latitude_2 - latitude) * meridian
    east = math.radians(longitude_2 - longitude) * normal * math.cos(phi)
    return math.hypot(north, east)


def unit_in_metres(crs: CRS) -> float:
    """Length of a CRS's unit, metres; 1 for degrees and for units without a length."""
    try:
        return float(crs.linear_units_factor[1])
    except CRSError:  # raised for local and geographic CRS
        unit = re.search(r'(?:LENGTH)?UNIT\["[^"]*", *([0-9.eE+-]+)', crs.to_wkt())
        return float(unit[1]) if unit and not crs.is_geographic else 1.0
