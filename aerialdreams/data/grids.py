"""Grids of square pixels of one size on the ground, and rasters resampled to them."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform, reproject
from rasterio.warp import transform as transform_points

from aerialdreams.data.georeference import (
    TOLERANCE,
    GeoReference,
    NotSquareError,
    geodesic_pixel_size,
    ground_pixel_size,
    unit_in_metres,
    utm_crs,
)
from aerialdreams.data.land_cover import IGNORED
from aerialdreams.data.mask_files import UserMask, georeference_of, resample_mask
from aerialdreams.errors import UserError

MAX_PIXELS = 400_000_000  # of a mask that is warped or drawn: 20,000 x 20,000


class LocalGrid(NamedTuple):
    """The grid on which an image is cut.

    Attributes:
        transform: from columns and rows to coordinates in `crs`.
        crs: None if the image has a transform, but no CRS.
        width: pixels.
        height: pixels.
        source_crs: of the image's file.
        source_transform: of the image's file.
        warped: whether the image must be resampled to it.
    """

    transform: Affine
    crs: CRS | None
    width: int
    height: int
    source_crs: CRS | None
    source_transform: Affine
    warped: bool


def metric_grid(path: Path, file: Any, crs: str | None, warp: bool) -> LocalGrid | None:
    """The grid on which an image is cut; None if it has no georeference.

    Args:
        path: the image, for messages.
        file: the image, open.
        crs: the dataset's CRS, which overrides the file's; None for the file's.
        warp: whether an image whose own grid is no grid of squares of one size on the ground may be
            warped to the UTM zone of its centre.

    Raises:
        UserError: the image needs a warp that is not allowed.
    """
    own = georeference_of(file)
    if not own:
        return None
    reference = GeoReference(own.transform, CRS.from_user_input(crs) if crs else own.crs)
    problem = _problem(reference, file.width, file.height)
    if not problem:
        return LocalGrid(
            *reference, file.width, file.height, reference.crs, reference.transform, False
        )
    if not reference.crs:
        raise UserError(f"{path}: {problem}, and has no CRS; add one with `gdal_edit.py -a_srs`")
    target, size = utm_zone(reference, file.width, file.height)
    if not warp:
        raise UserError(
            f"{path}: {problem}; set raw_patches.pairs.warp to true, or warp image and mask with"
            f" `gdalwarp -t_srs {target.to_string()} -tr {size:.4g} {size:.4g}`, masks with -r near"
        )
    transform, width, height = calculate_default_transform(
        reference.crs,
        target,
        file.width,
        file.height,
        *_bounds(reference.transform, file.width, file.height),
        resolution=size,
    )
    return LocalGrid(
        transform, target, int(width), int(height), reference.crs, reference.transform, True
    )


def _problem(reference: GeoReference, width: int, height: int) -> str | None:
    """Why a grid has no squares of one size on the ground, in line with its CRS; None if it has."""
    transform, crs = reference
    if crs and crs.is_geographic:
        return "is in degrees"
    try:
        size = ground_pixel_size(reference, width, height)
    except NotSquareError as error:
        return str(error)
    nominal = transform.a * (unit_in_metres(crs) if crs else 1.0)
    if abs(size / nominal - 1) > TOLERANCE:
        return f"is in a stretched projection: {nominal:.4g} m of its CRS are {size:.4g} m"
    return None


def utm_zone(reference: GeoReference, width: int, height: int) -> tuple[CRS, float]:
    """The UTM zone of a raster's centre, and the size of its pixels on the ground, metres."""
    assert reference.crs
    x, y = reference.transform @ (width / 2, height / 2)
    sides = geodesic_pixel_size(reference.transform, reference.crs, width / 2, height / 2)
    size = min(sides)
    digits = 2 - math.floor(math.log10(size))  # three significant digits
    return utm_crs(reference.crs, x, y), round(size, digits)


def on_square_grid(
    mask: UserMask, pixel_size: float, new_pixel_size: float
) -> tuple[UserMask, str]:
    """A mask on north-up squares of a size, by nearest neighbour.

    Masks in degrees and in stretched projections are warped to the UTM zone of their centre;
    rotated and mirrored ones, and those whose pixels are no squares, to north-up squares in their
    own CRS.

    Args:
        mask: the mask.
        pixel_size: of its pixels if it has no georeference, metres.
        new_pixel_size: metres.

    Returns:
        The mask, and what had to be done to it, for the user; "" if it was resampled only.

    Raises:
        UserError: the result would be too large, or the mask lies outside its CRS's area of use.
    """
    reference, (height, width) = mask.georeference, mask.class_ids.shape
    if not reference:
        return resample_mask(mask, pixel_size, new_pixel_size), ""
    try:
        return (
            resample_mask(mask, ground_pixel_size(reference, width, height), new_pixel_size),
            "",
        )
    except NotSquareError as error:
        target = _square_crs(reference, width, height)
        warped = _warp_mask(mask, target, new_pixel_size)
        name = target.to_string() if target else "a north-up grid"
        return warped, f"{error}; it was warped to {name} by nearest neighbour"


def _square_crs(reference: GeoReference, width: int, height: int) -> CRS | None:
    """A CRS in which squares are squares on the ground: the raster's own, or a UTM zone."""
    transform, crs = reference
    if not crs:
        return None
    if not crs.is_projected:
        return utm_zone(reference, width, height)[0] if crs.is_geographic else crs
    unit = unit_in_metres(crs)
    planar = (
        math.hypot(transform.a, transform.d) * unit,
        math.hypot(transform.b, transform.e) * unit,
    )
    ground = geodesic_pixel_size(transform, crs, width / 2, height / 2)
    is_true = all(abs(g / p - 1) < TOLERANCE for g, p in zip(ground, planar, strict=True))
    return crs if is_true else utm_zone(reference, width, height)[0]


def _warp_mask(mask: UserMask, target: CRS | None, pixel_size: float) -> UserMask:
    assert mask.georeference
    transform, crs = mask.georeference
    height, width = mask.class_ids.shape
    steps = np.linspace(0, 1, 21)
    edges = [(x, y) for x in (0, 1) for y in steps] + [(x, y) for x in steps for y in (0, 1)]
    points = [transform @ (x * width, y * height) for x, y in edges]
    xs, ys = zip(*points, strict=True)
    if target and target != crs:
        xs, ys = transform_points(crs, target, xs, ys)
    if not np.isfinite([*xs, *ys]).all():
        raise UserError("the mask lies outside its CRS's area of use")
    size = pixel_size / (unit_in_metres(target) if target else 1.0)
    columns, rows = (max(1, round((max(v) - min(v)) / size)) for v in (xs, ys))
    if columns * rows > MAX_PIXELS:
        raise UserError(f"the mask would be {columns} x {rows} pixels of {pixel_size:.2f} m")
    grid = Affine(size, 0, min(xs), 0, -size, max(ys))
    warped = np.full((rows, columns), IGNORED, np.uint8)
    plane = CRS.from_epsg(3857)  # any: without a CRS both are the same plane
    reproject(
        mask.class_ids,
        warped,
        src_transform=transform,
        src_crs=crs or plane,
        dst_transform=grid,
        dst_crs=target or plane,
        src_nodata=IGNORED,
        dst_nodata=IGNORED,
        resampling=Resampling.nearest,
    )
    return mask._replace(
        class_ids=warped, valid=warped != IGNORED, georeference=GeoReference(grid, target)
    )


def _bounds(transform: Affine, width: int, height: int) -> tuple[float, float, float, float]:
    corners = [transform @ point for point in ((0, 0), (width, 0), (0, height), (width, height))]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def open_on_grid(
    file: Any,
    grid: LocalGrid,
    resampling: Resampling,
    transform: Affine | None = None,
    crs: CRS | None = None,
) -> WarpedVRT:
    """A raster resampled to a grid, with an alpha band for what it does not cover.

    Args:
        file: the raster, open.
        grid: the grid.
        resampling: the method.
        transform: of the raster; by default that of the grid's image.
        crs: of the raster; by default that of the grid's image.
    """
    return WarpedVRT(
        file,
        src_crs=crs or grid.source_crs,
        src_transform=transform or grid.source_transform,
        crs=grid.crs or grid.source_crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        resampling=resampling,
        add_alpha=ColorInterp.alpha not in file.colorinterp,
    )
