"""A user's own mask: GeoTIFF or PNG, of class ids or in the classes' colours."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from aerialdreams.data.land_cover import LandCoverClass, invalid_ids
from aerialdreams.data.rasters import GeoReference
from aerialdreams.errors import UserError

GEOTIFF = (".tif", ".tiff", ".vrt")


WEB_MERCATOR = 3857


class UserMask(NamedTuple):
    """A mask as it was read."""

    ids: NDArray[np.uint8]  # class ids, (height, width)
    placed: GeoReference | None  # None where the file does not say where it lies
    off_palette: float  # share of pixels whose colour is no class's, and was taken for the nearest


def read_user_mask(path: Path, classes: list[LandCoverClass], most_off: float) -> UserMask:
    """Read a mask.

    Args:
        path: one band or a paletted PNG holds class ids; three or four bands hold colours.
        classes: the class table.
        most_off: the largest share of pixels off the palette that is taken: 43 % of half-way
            blends between two of FLAIR's colours are nearest to a third class.

    Raises:
        UserError: it cannot be read, has ids that are no class, or too many other colours.
    """
    bands, placed = _read_bands(path)
    if len(bands) in (3, 4):
        ids, off = nearest_class_ids(bands[:3].transpose(1, 2, 0), classes)
        if off > most_off:
            raise UserError(
                f"{path}: {off:.1%} of its pixels have a colour that is no class's, as blurred or"
                f" JPEG masks do; up to {most_off:.1%} are taken for the nearest (--off-palette)"
            )
        return UserMask(ids, placed, off)
    if len(bands) != 1:
        raise UserError(f"{path}: has {len(bands)} bands; a mask has 1 (class ids) or 3 (colours)")
    if bad := invalid_ids(bands[0]):
        raise UserError(
            f"{path}: has pixels of {', '.join(map(str, bad[:5]))}, which is no class id; ids are"
            f" 1 to {len(classes)}"
        )
    return UserMask(bands[0], placed, 0.0)


def _read_bands(path: Path) -> tuple[NDArray[np.uint8], GeoReference | None]:
    try:
        if path.suffix.lower() not in GEOTIFF:
            with Image.open(path) as image:
                picture = np.array(image if image.mode in ("P", "L") else image.convert("RGB"))
            return picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1), None
        with rasterio.open(path) as file:
            bands, transform, crs = file.read(), file.transform, file.crs
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except (OSError, RasterioError) as error:
        message = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as a mask ({message})") from None
    if bands.dtype != np.uint8:
        raise UserError(f"{path}: is {bands.dtype}; a mask is uint8")
    if transform == Affine.identity():
        return bands, None
    if reason := _not_in_metres(transform, crs):
        raise UserError(f"{path}: {reason}; warp it first, as by `gdalwarp -t_srs EPSG:2154`")
    return bands, GeoReference(transform, crs)


def _not_in_metres(transform: Affine, crs: CRS | None) -> str:
    """Why a mask's pixels are no squares of metres on the ground, north up; "" where they are."""
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        return "is turned or mirrored against its CRS"
    if crs and crs.is_geographic:
        return "its CRS is in degrees"
    if crs and crs.is_projected and crs.linear_units_factor[1] != 1:
        return f"its CRS is in {crs.linear_units_factor[0]}"
    if crs and crs.to_epsg() == WEB_MERCATOR:
        return f"EPSG:{WEB_MERCATOR} stretches the ground, in France by half"
    if not np.isclose(transform.a, -transform.e, rtol=1e-3):
        return f"its pixels are {transform.a:g} x {-transform.e:g}"
    return ""


def nearest_class_ids(
    rgb: NDArray[np.uint8], classes: list[LandCoverClass]
) -> tuple[NDArray[np.uint8], float]:
    """Class ids of a colour picture: each pixel's nearest class, and the share of inexact ones.

    Args:
        rgb: (height, width, 3).
        classes: the class table.
    """
    table = np.array([land_cover.rgb for land_cover in classes], np.int32)
    colours, inverse = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    distances = ((colours[:, None].astype(np.int32) - table[None]) ** 2).sum(2)
    ids = (distances.argmin(1) + 1).astype(np.uint8)
    off = (distances.min(1) > 0)[inverse.reshape(-1)].mean()
    return ids[inverse.reshape(-1)].reshape(rgb.shape[:2]), float(off)


def resample_mask(own: UserMask, pixel: float, own_pixel: float) -> UserMask:
    """The mask at another pixel size, by nearest neighbour, over the same ground.

    Args:
        own: the mask.
        pixel: metres, wanted.
        own_pixel: metres, of the mask.
    """
    height, width = (max(1, round(side * own_pixel / pixel)) for side in own.ids.shape)
    resized = Image.fromarray(own.ids).resize((width, height), Image.Resampling.NEAREST)
    placed = own.placed
    if placed:
        scale = Affine.scale(own.ids.shape[1] / width, own.ids.shape[0] / height)
        placed = GeoReference(placed.transform @ scale, placed.crs)
    return own._replace(ids=np.array(resized), placed=placed)
