"""Read FLAIR's GeoTIFF tiles."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from aerialdreams.errors import UserError

if TYPE_CHECKING:  # see tables
    pass


class Tile(NamedTuple):
    """A raster as it lies on disk."""

    bands: NDArray[np.uint8]  # (bands, height, width)
    origin: tuple[float, float]  # x, y of the north-west corner, in metres
    pixel: tuple[float, float]  # width, height of a pixel in metres
    crs: CRS | None


def read_tile(path: Path) -> Tile:
    """Read a GeoTIFF, every pixel of it, so that a damaged one is found.

    Raises:
        UserError: missing, no raster, or truncated; the message names the file.
    """
    try:
        with rasterio.open(path) as file:
            transform = file.transform
            return Tile(
                bands=file.read(),
                origin=(transform.c, transform.f),
                pixel=(transform.a, -transform.e),
                crs=file.crs,
            )
    except RasterioError as error:
        raise UserError(f"{path}: cannot be read ({_cause(error)}); fetch it again") from None


def _cause(error: BaseException) -> str:
    """GDAL's own words: rasterio keeps them as the cause of "Read failed"."""
    return str(error.__cause__ or error).splitlines()[0]
