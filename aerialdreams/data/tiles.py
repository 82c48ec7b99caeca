"""FLAIR's GeoTIFF tiles.

A patch's CRS and position are taken from its image's tile: most masks have a local CRS without an
EPSG code that GDAL cannot reproject.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from aerialdreams.errors import UserError

# Without this GDAL lists a tile's folder, to look for side files, which takes as long as reading a
# mask. FLAIR's tiles have none.
GDAL_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


class Tile(NamedTuple):
    """A GeoTIFF's pixels and georeference."""

    bands: NDArray[np.uint8]  # (bands, height, width)
    origin: tuple[float, float]  # x and y of the north-west corner, in the CRS's units
    pixel_size: tuple[float, float]  # width and height of a pixel, in the CRS's units
    crs: CRS | None


def read_tile(path: Path) -> Tile:
    """Read a whole GeoTIFF, so that damage anywhere in it is found.

    Raises:
        UserError: the file is missing, damaged or not a raster.
    """
    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as file:
            transform = file.transform
            return Tile(
                bands=file.read(),
                origin=(transform.c, transform.f),
                pixel_size=(transform.a, -transform.e),
                crs=file.crs,
            )
    except RasterioError as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)}); fetch it again") from None


def reason_of(error: BaseException) -> str:
    """GDAL's own message: rasterio keeps it as the cause of its "Read failed"."""
    return str(error.__cause__ or error).splitlines()[0]
