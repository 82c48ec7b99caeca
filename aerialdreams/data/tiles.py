"""FLAIR's GeoTIFF tiles.

A patch's CRS and origin come from its image (IMG_*.tif), never from its mask: most masks have a
local CRS without an EPSG code, which GDAL cannot reproject. stages/patch_index.py takes both from
the `Tile` that `read_tile` returns for the image: `image_flaw` checks the CRS, and `check` writes
the origin to the patch index, from which all later stages read it.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from aerialdreams.data.georeference import shear
from aerialdreams.errors import UserError

# FLAIR's tiles have no side files. Searching their folders for some would take an eighth of the
# time to read a mask.
GDAL_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


class Tile(NamedTuple):
    """A tile's pixels and georeference.

    Attributes:
        bands: (bands, height, width).
        origin: x and y of the north-west corner, in the CRS's units.
        pixel_size: width and height of a pixel, in the CRS's units.
        shear: deviation of rows and columns from the CRS's axes over the whole tile, pixels.
        crs: None if the file has none.
    """

    bands: NDArray[np.uint8]
    origin: tuple[float, float]
    pixel_size: tuple[float, float]
    shear: float
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
                shear=shear(transform, file.width, file.height),
                crs=file.crs,
            )
    except RasterioError as error:
        raise UserError(f"{path}: cannot be read ({gdal_message(error)}); fetch it again") from None


def gdal_message(error: BaseException) -> str:
    """GDAL's message, first line; rasterio keeps it as the cause of its "Read failed"."""
    return str(error.__cause__ or error).splitlines()[0]
