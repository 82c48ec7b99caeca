"""A user's own mask: any raster that GDAL reads, with class ids or in the classes' colours."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import from_gcps

from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.data.tiles import reason_of
from aerialdreams.errors import UserError

NUM_COLOURS = 1 << 24
MAX_LERC_ERROR = 0.5  # above it, rounding gives another id


class UserMask(NamedTuple):
    """A mask as it was read.

    Attributes:
        ids: class ids, uint8, (height, width); arbitrary where `valid` is false.
        valid: which pixels the file declares valid (no nodata, alpha or mask band says otherwise).
        georeference: None if the file has none.
        off_palette: share of the valid pixels whose colour is no class's; they have the nearest.
        notes: what the user should know of how the file was read.
    """

    ids: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    georeference: GeoReference | None
    off_palette: float
    notes: tuple[str, ...]


def read_user_mask(
    path: Path, classes: list[LandCoverClass], max_off_palette: float = 0.01
) -> UserMask:
    """Read a mask, with everything that GDAL knows of it: world files and other side files, nodata,
    alpha and mask bands, palettes, ground control points.

    Args:
        path: one band holds class ids (integers, or floats that are whole); three hold colours. An
            alpha band beside them says which pixels are valid.
        classes: the class table.
        max_off_palette: largest share of pixels whose colour is no class's. They get the nearest
            class's id, which is a guess: 43 % of the colours half-way between two of FLAIR's
            classes are nearest to a third.

    Raises:
        UserError: the file cannot be read, holds other ids, or too many other colours, or was
            compressed with loss.
    """
    try:
        with warnings.catch_warnings(), _open(path) as file:
            bands, valid = file.read(), file.dataset_mask() != 0
            alpha = [c == ColorInterp.alpha for c in file.colorinterp]
            table, lossy = _colour_table(file), _is_lossy(file)
            georeference = _georeference_of(file)
    except (OSError, RasterioError) as error:
        if not path.exists():
            raise UserError(f"{path}: not found") from None
        raise UserError(f"{path}: cannot be read as a mask ({reason_of(error)})") from None
    if len(bands) == 4 and not any(alpha) and np.isin(bands[3], (0, 255)).all():
        alpha[3] = True  # as QGIS exports it: an extra band that no tag calls alpha
        valid &= bands[3] > 0
    bands = bands[[number for number, is_alpha in enumerate(alpha) if not is_alpha]]
    if not valid.any():
        raise UserError(f"{path}: has no valid pixel: all are nodata, transparent or masked")
    if len(bands) == 3:
        ids, off = ids_from_colours(bands, valid, classes)
        notes: tuple[str, ...] = ()
    elif len(bands) == 1:
        if lossy:
            raise UserError(
                f"{path}: holds class ids compressed with loss ({lossy}), which changes them;"
                " export the mask again without loss, as PNG or as GeoTIFF with DEFLATE"
            )
        ids, off, notes = _read_ids(path, bands[0], valid, table, classes, max_off_palette)
    else:
        raise UserError(
            f"{path}: has {len(bands)} bands besides alpha; a mask has 1 (class ids) or 3 (colours)"
        )
    if off > max_off_palette:
        raise UserError(
            f"{path}: {off:.1%} of its pixels have a colour that is no class's, as blurred or JPEG"
            f" masks do; at most {max_off_palette:.1%} get the nearest class (--off-palette)"
        )
    return UserMask(ids, valid, georeference, off, notes)


def _open(path: Path) -> Any:
    """Open a raster; one without georeference is no reason for a warning."""
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    return rasterio.open(path)


def _georeference_of(file: Any) -> GeoReference | None:
    """The position of a file: its transform, or its ground control points'."""
    if file.transform != Affine.identity():
        return GeoReference(file.transform, file.crs)
    points, crs = file.gcps
    if len(points) >= 3:
        return GeoReference(from_gcps(points), crs)
    return None


def _is_lossy(file: Any) -> str:
    """The lossy compression of a file; "" if it is lossless."""
    tags = file.tags(ns="IMAGE_STRUCTURE")
    compression = tags.get("COMPRESSION", "")
    if file.driver == "JPEG" or "JPEG" in compression.replace("JPEG2000", ""):
        return "JPEG"
    if tags.get("COMPRESSION_REVERSIBILITY", "").startswith("LOSSY"):
        return compression or str(file.driver)
    if "LERC" in compression and float(tags.get("MAX_Z_ERROR", 0)) >= MAX_LERC_ERROR:
        return f"LERC with an error of {tags['MAX_Z_ERROR']}"
    return ""


def _colour_table(file: Any) -> dict[int, tuple[int, int, int]] | None:
    """A paletted file's colours by index."""
    try:
        return {index: colour[:3] for index, colour in file.colormap(1).items()}
    except ValueError:
        return None


def _read_ids(
    path: Path,
    band: NDArray[Any],
    valid: NDArray[np.bool_],
    table: dict[int, tuple[int, int, int]] | None,
    classes: list[LandCoverClass],
    max_off_palette: float,
) -> tuple[NDArray[np.uint8], float, tuple[str, ...]]:
    """Class ids of one band, the share of colours that are no class's, and notes."""
    values = band[valid]
    if band.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
        raise UserError(f"{path}: has pixels that are no whole numbers; class ids are integers")
    used = np.unique(values)
    if table:
        by_colour = {rgb: number for number, rgb in enumerate((c.rgb for c in classes), start=1)}
        ids = {int(i): by_colour.get(table.get(int(i), (0, 0, 0)), 0) for i in used}
        matched = np.isin(values, [index for index, number in ids.items() if number]).mean()
        # Black may be a class's colour, but is also that of entries which nobody has set.
        wrong = [i for i, number in ids.items() if number not in (0, i) and any(table[i])]
        if matched >= 1 - max_off_palette and wrong:
            lookup = np.ones(256, np.uint8)
            lookup[list(ids)] = [number or 1 for number in ids.values()]
            index, number = wrong[0], ids[wrong[0]]
            note = (
                f"its palette contradicts its values: {index} is drawn in the colour of"
                f" {classes[number - 1].name}, whose id is {number}; the colours were followed"
            )
            return lookup[band], float(1 - matched), (note,)
    outside = [f"{value:g}" for value in used if not 1 <= value <= len(classes)]
    if outside:
        raise UserError(
            f"{path}: has pixels with the value {', '.join(outside[:5])}; class ids are 1 to"
            f" {len(classes)}"
        )
    return np.where(valid, band, 1).astype(np.uint8), 0.0, ()


def ids_from_colours(
    bands: NDArray[Any], valid: NDArray[np.bool_], classes: list[LandCoverClass]
) -> tuple[NDArray[np.uint8], float]:
    """Class ids of an RGB mask: the nearest class of each pixel by Euclidean distance.

    Args:
        bands: red, green, blue in 0..255, (3, height, width).
        valid: which pixels count, (height, width).
        classes: the class table.

    Returns:
        Class ids, (height, width), and the share of valid pixels that are no class's colour.
    """
    red, green, blue = bands.astype(np.uint32)
    codes = red << 16 | green << 8 | blue
    counts = np.bincount(codes[valid], minlength=1)
    present = np.flatnonzero(counts)
    rgb = np.stack([present >> 16, present >> 8 & 255, present & 255], 1).astype(np.int32)
    table = np.array([land_cover.rgb for land_cover in classes], np.int32)
    distances = ((rgb[:, None] - table[None]) ** 2).sum(2)
    lookup = np.ones(NUM_COLOURS, np.uint8)
    lookup[present] = distances.argmin(1) + 1
    off = counts[present][distances.min(1) > 0].sum() / valid.sum()
    return lookup[codes], float(off)


def resample_mask(mask: UserMask, pixel_size: float, new_pixel_size: float) -> UserMask:
    """A mask at another pixel size, by nearest neighbour, over the same ground.

    Args:
        mask: the mask.
        pixel_size: of the mask, metres.
        new_pixel_size: metres.
    """
    rows, columns = mask.ids.shape
    height, width = (max(1, round(side * pixel_size / new_pixel_size)) for side in mask.ids.shape)
    ids, valid = (
        np.array(
            Image.fromarray(band.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        )
        for band in (mask.ids, mask.valid)
    )
    reference = mask.georeference
    if reference:
        scale = Affine.scale(columns / width, rows / height)
        reference = GeoReference(reference.transform @ scale, reference.crs)
    return mask._replace(ids=ids, valid=valid.astype(bool), georeference=reference)
