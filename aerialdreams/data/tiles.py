"""Source tiles: GeoTIFFs of one patch each, as data/raw/ holds them.

A patch's CRS and origin come from its image (IMG_*.tif), never from its mask: most of FLAIR's masks
have a local CRS without an EPSG code, which GDAL cannot reproject. stages/patch_index.py writes
both to the patch index, from which all later stages read them.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from aerialdreams.data.georeference import GeoReference, shear
from aerialdreams.data.mask_values import ids_from_values
from aerialdreams.data.spec import Bands, DatasetSpec, FurtherBand
from aerialdreams.errors import UserError

# Tiles have no side files. Searching their folders for some would take an eighth of the time to
# read a mask.
GDAL_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


class Tile(NamedTuple):
    """A tile's pixels and georeference.

    Attributes:
        bands: of any type, (bands, height, width).
        origin: x and y of the north-west corner, in the CRS's units.
        pixel_size: width and height of a pixel, in the CRS's units.
        shear: deviation of rows and columns from the CRS's axes over the whole tile, pixels.
        crs: None if the file has none.
        nodata: the value of pixels without data; None if the file names none.
    """

    bands: NDArray[Any]
    origin: tuple[float, float]
    pixel_size: tuple[float, float]
    shear: float
    crs: CRS | None
    nodata: float | None

    @property
    def has_georeference(self) -> bool:
        """Whether the file has a transform."""
        return (*self.origin, *self.pixel_size) != (0.0, 0.0, 1.0, -1.0)

    def reference(self, crs: CRS | None) -> GeoReference:
        """The tile's georeference with a CRS."""
        (x, y), (width, height) = self.origin, self.pixel_size
        return GeoReference(rasterio.Affine(width, 0, x, 0, -height, y), crs)


def read_tile(path: Path) -> Tile:
    """Read a whole GeoTIFF, so that damage anywhere in it is found.

    Raises:
        UserError: the file is missing, damaged or not a raster.
    """
    try:
        with warnings.catch_warnings(), rasterio.Env(**GDAL_OPTIONS):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                transform = file.transform
                return Tile(
                    bands=file.read(),
                    origin=(transform.c, transform.f),
                    pixel_size=(transform.a, -transform.e),
                    shear=shear(transform, file.width, file.height),
                    crs=file.crs,
                    nodata=file.nodata,
                )
    except (RasterioError, UnicodeDecodeError) as error:  # the latter of damaged tags
        raise UserError(f"{path}: cannot be read ({gdal_message(error)}); fetch it again") from None


def tile_class_ids(tile: Tile, spec: DatasetSpec) -> tuple[NDArray[np.uint8], list[str]]:
    """Class ids of a mask's tile, (height, width), and values that stand for no class."""
    band = tile.bands[0]
    valid = np.full(band.shape, True) if tile.nodata is None else band != tile.nodata
    return ids_from_values(band, valid, spec.classes, spec.ignored)


def tile_rgb(tile: Tile, bands: Bands, value_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Red, green and blue of an image's tile, 0 to 255, (height, width, 3).

    Args:
        tile: the tile.
        bands: numbers of its bands.
        value_range: the values that become 0 and 255; those beyond are clipped.
    """
    rgb = tile.bands[[number - 1 for number in bands.rgb]].transpose(1, 2, 0)
    return _scaled(rgb, value_range)


def tile_band(tile: Tile, name: FurtherBand, spec: DatasetSpec) -> NDArray[np.uint8]:
    """Near infrared or height of an image's tile, 0 to 255, (height, width).

    Args:
        tile: the tile.
        name: of the band; the spec must have its number.
        spec: the dataset spec, whose `value_range` or `height_metres` become 0 and 255.
    """
    number = getattr(spec.bands, name)
    value_range = spec.value_range
    if name == "height":
        low, high = spec.height_metres
        value_range = low / spec.height_unit, high / spec.height_unit
    return _scaled(tile.bands[number - 1], value_range)


def _scaled(values: NDArray[Any], value_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Values of a range as 0 to 255; those beyond are clipped, and those that are NaN become 0."""
    low, high = value_range
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    scaled = (np.nan_to_num(values.astype(np.float64), nan=low) - low) / (high - low)
    return (scaled.clip(0, 1) * 255).round().astype(np.uint8)


def gdal_message(error: BaseException) -> str:
    """GDAL's message, first line; rasterio keeps it as the cause of its "Read failed"."""
    return str(error.__cause__ or error).splitlines()[0]
