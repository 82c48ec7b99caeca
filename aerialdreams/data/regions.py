"""A photograph and a region to repaint, on the pixels of a mask."""

from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely
from numpy.typing import NDArray
from PIL import Image
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.features import geometry_mask
from rasterio.vrt import WarpedVRT

from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.images import resize_bands
from aerialdreams.data.mask_files import GDAL_OPTIONS, VECTORS, georeference_of
from aerialdreams.data.tiles import gdal_message
from aerialdreams.data.vectors import warp_geometries
from aerialdreams.errors import UserError

Shape = tuple[int, int]  # height and width, pixels


def read_photograph(
    path: Path, grid: GeoReference | None, shape: Shape, bands: int = 3
) -> NDArray[np.uint8]:
    """Read a photograph on the pixels of a mask.

    Args:
        path: a raster of 8 bits whose first bands are red, green, blue and any further ones.
        grid: the mask's georeference. If both have one, the photograph is warped onto it, by area
            average where its pixels are smaller; else it is resized.
        shape: of the mask.
        bands: how many bands to read.

    Returns:
        0 to 255, (height, width, bands); the photograph's own values if it is on the mask's
        pixels.

    Raises:
        UserError: the file is missing or damaged, has other bands, or does not cover the mask.
    """
    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as file:
            if file.count < bands or file.dtypes[0] != "uint8":
                further = f" and the model's {bands - 3} further bands," if bands > 3 else ""
                raise UserError(
                    f"{path}: has {file.count} bands of {file.dtypes[0]}; a photograph has red,"
                    f" green and blue{further} of 8 bits (`gdal_translate -ot Byte -scale`)"
                )
            own = georeference_of(file)
            if grid and own and grid.crs and own.crs:
                return _warped(path, file, grid, shape, bands)
            if abs(file.width / file.height - shape[1] / shape[0]) > 0.5 / min(shape):
                raise UserError(
                    f"{path}: has {file.width} x {file.height} pixels, the mask {shape[1]} x"
                    f" {shape[0]}; both must show the same ground"
                )
            image = file.read(list(range(1, bands + 1))).transpose(1, 2, 0)
    except (OSError, RasterioError) as error:
        problem = "not found" if not path.exists() else f"cannot be read ({gdal_message(error)})"
        raise UserError(f"{path}: {problem}") from None
    if image.shape[:2] == shape:
        return np.ascontiguousarray(image)
    return resize_bands(image, shape, Image.Resampling.BOX)


def _warped(
    path: Path, file: Any, grid: GeoReference, shape: Shape, bands: int
) -> NDArray[np.uint8]:
    """The photograph on the mask's grid."""
    is_finer = abs(file.transform.a) < abs(grid.transform.a) * 0.99
    resampling = Resampling.average if is_finer else Resampling.bilinear
    if file.crs == grid.crs and file.transform.almost_equals(grid.transform, 1e-6):
        resampling = Resampling.nearest
    with WarpedVRT(
        file,
        crs=grid.crs,
        transform=grid.transform,
        height=shape[0],
        width=shape[1],
        resampling=resampling,
        add_alpha=ColorInterp.alpha not in file.colorinterp and file.nodata is None,
    ) as warped:
        image = warped.read(list(range(1, bands + 1))).transpose(1, 2, 0)
        valid = warped.dataset_mask() > 0
    if not valid.all():
        raise UserError(
            f"{path}: does not cover {1 - valid.mean():.1%} of the mask; cut the mask to it"
        )
    return np.ascontiguousarray(image)


def read_region(path: Path, grid: GeoReference | None, shape: Shape) -> NDArray[np.bool_]:
    """Read a region on the pixels of a mask.

    Args:
        path: polygons in a vector format of GDAL, or a raster of the mask's size that is not 0
            inside.
        grid: the mask's georeference; polygons need one.
        shape: of the mask.

    Returns:
        Bool, (height, width).

    Raises:
        UserError: the file is missing or damaged, or the region lies elsewhere.
    """
    inside = (
        _polygons(path, grid, shape) if path.suffix.lower() in VECTORS else _raster(path, shape)
    )
    if not inside.any():
        raise UserError(f"{path}: no pixel of the mask lies in the region")
    return inside


def _raster(path: Path, shape: Shape) -> NDArray[np.bool_]:
    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as file:
            band, valid = file.read(1), file.dataset_mask() > 0
    except (OSError, RasterioError) as error:
        problem = "not found" if not path.exists() else f"cannot be read ({gdal_message(error)})"
        raise UserError(f"{path}: {problem}") from None
    inside = Image.fromarray(((band != 0) & valid).astype(np.uint8))
    if abs(inside.width / inside.height - shape[1] / shape[0]) > 0.5 / min(shape):
        raise UserError(
            f"{path}: has {inside.width} x {inside.height} pixels, the mask {shape[1]} x {shape[0]}"
        )
    return np.array(inside.resize(shape[::-1], Image.Resampling.NEAREST)) > 0


def _polygons(path: Path, grid: GeoReference | None, shape: Shape) -> NDArray[np.bool_]:
    if not grid or not grid.crs:
        raise UserError(f"{path}: the mask has no CRS, so polygons cannot be placed on it")
    target = grid.crs
    try:
        meta, _, wkb, _ = pyogrio.raw.read(path, columns=[])
        source = CRS.from_user_input(meta["crs"])
    except (DataSourceError, DataLayerError, CRSError) as error:
        problem = "not found" if not path.exists() else f"cannot be read ({error})"
        raise UserError(f"{path}: {problem}") from None
    shapes = warp_geometries(shapely.from_wkb(wkb), source, target)
    shapes = [one for one in shapes if one is not None and not one.is_empty]
    if not shapes:
        raise UserError(f"{path}: has no polygon")
    inside: NDArray[np.bool_] = geometry_mask(
        shapes, shape, grid.transform, all_touched=True, invert=True
    )
    return inside
