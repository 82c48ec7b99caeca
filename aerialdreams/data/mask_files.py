"""A user's own mask: any raster that GDAL reads, of class ids or of the classes' colours."""

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
from aerialdreams.data.tiles import gdal_message
from aerialdreams.errors import UserError

NUM_COLOURS = 1 << 24
BLACK = (0, 0, 0)
MAX_LERC_ERROR = 0.5  # from this error on, rounding can give another id
# GDAL reads world files (.pgw, .tfw, .wld, ...) and .aux.xml by default. Many users of cloud
# storage turn that off in their environment.
GDAL_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE", "GDAL_PAM_ENABLED": "YES"}


class UserMask(NamedTuple):
    """A user's mask.

    Attributes:
        class_ids: uint8, (height, width); arbitrary where `valid` is false.
        valid: bool, (height, width); false where a nodata value, an alpha band or a mask band
            declares the pixel invalid.
        georeference: None if neither the file nor a side file has one.
        off_palette: share of the valid pixels, 0 to 1, whose colour is no class's; these have the
            id of the class with the nearest colour.
        notes: what was unusual about the file, for the user.
    """

    class_ids: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    georeference: GeoReference | None
    off_palette: float
    notes: tuple[str, ...]


class _Raster(NamedTuple):
    """Everything that `read_user_mask` needs of a file."""

    bands: NDArray[Any]  # without alpha, (bands, height, width)
    valid: NDArray[np.bool_]  # (height, width)
    colour_table: dict[int, tuple[int, int, int]] | None
    lossy_compression: str  # "" if there is none
    georeference: GeoReference | None


def read_user_mask(
    path: Path, classes: list[LandCoverClass], max_off_palette: float = 0.01
) -> UserMask:
    """Read a mask in any raster format of GDAL.

    Honours nodata values, alpha and mask bands, palettes, ground control points, and the
    georeference in world files (such as .pgw, .tfw or .wld) and .aux.xml files beside the mask.

    Args:
        path: one band of class ids (whole numbers of any type), or three of colours; in either case
            an alpha band may follow.
        classes: the class table.
        max_off_palette: largest share of valid pixels, 0 to 1, that may have a colour of no class.
            They get the id of the class with the nearest colour, which is a guess: 43 % of the
            colours half-way between two of FLAIR's classes are nearest to a third.

    Raises:
        UserError: the file is missing or damaged, has no valid pixel, another number of bands,
            values that are no class ids, class ids under lossy compression, or too many pixels of
            other colours.
    """
    raster = _read_raster(path)
    if not raster.valid.any():
        raise UserError(f"{path}: has no valid pixel: all are nodata, transparent or masked")
    notes: tuple[str, ...] = ()
    if len(raster.bands) == 3:
        class_ids, off_palette = ids_from_colours(raster.bands, raster.valid, classes)
    elif len(raster.bands) == 1:
        class_ids, off_palette, notes = _read_ids(path, raster, classes, max_off_palette)
    else:
        raise UserError(
            f"{path}: has {len(raster.bands)} bands besides alpha; a mask has 1 (class ids) or 3"
            " (colours)"
        )
    if off_palette > max_off_palette:
        raise UserError(
            f"{path}: {off_palette:.1%} of its pixels have a colour that is no class's, as blurred"
            f" or JPEG masks do; at most {max_off_palette:.1%} may get the nearest class"
            " (--off-palette)"
        )
    return UserMask(class_ids, raster.valid, raster.georeference, off_palette, notes)


def _read_raster(path: Path) -> _Raster:
    """Read a file with all that GDAL knows about it.

    Raises:
        UserError: the file is missing, damaged or not a raster.
    """
    try:
        with warnings.catch_warnings(), rasterio.Env(**GDAL_OPTIONS):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # the caller reports that
            with rasterio.open(path) as file:
                bands, valid = file.read(), file.dataset_mask() != 0
                is_alpha = [colour == ColorInterp.alpha for colour in file.colorinterp]
                colour_table = _colour_table(file)
                lossy_compression = _lossy_compression(file)
                georeference = _georeference(file)
    except (OSError, RasterioError) as error:
        if not path.exists():
            raise UserError(f"{path}: not found") from None
        raise UserError(f"{path}: cannot be read as a mask ({gdal_message(error)})") from None
    if len(bands) == 4 and not any(is_alpha) and np.isin(bands[3], (0, 255)).all():
        is_alpha[3] = True  # QGIS exports alpha as a fourth band without the tag
        valid &= bands[3] > 0
    bands = bands[[not alpha for alpha in is_alpha]]
    return _Raster(bands, valid, colour_table, lossy_compression, georeference)


def _georeference(file: Any) -> GeoReference | None:
    """A file's georeference: its transform, or one fitted to its ground control points."""
    if file.transform != Affine.identity():
        return GeoReference(file.transform, file.crs)
    points, crs = file.gcps
    if len(points) >= 3:
        return GeoReference(from_gcps(points), crs)
    return None


def _lossy_compression(file: Any) -> str:
    """Name of a file's lossy compression; "" if it is lossless."""
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
    """The palette of a file's first band, RGB by pixel value; None if it has none."""
    try:
        return {value: colour[:3] for value, colour in file.colormap(1).items()}
    except ValueError:
        return None


def _read_ids(
    path: Path, raster: _Raster, classes: list[LandCoverClass], max_off_palette: float
) -> tuple[NDArray[np.uint8], float, tuple[str, ...]]:
    """Class ids of a raster's single band; see `UserMask`.

    Returns:
        class_ids, off_palette and notes.

    Raises:
        UserError: values are no class ids, or were compressed with loss.
    """
    if raster.lossy_compression:
        raise UserError(
            f"{path}: holds class ids compressed with loss ({raster.lossy_compression}), which"
            " changes them; export the mask again without loss, as PNG or as GeoTIFF with DEFLATE"
        )
    band, values = raster.bands[0], raster.bands[0][raster.valid]
    if band.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
        raise UserError(f"{path}: has pixels that are no whole numbers; class ids are integers")
    present = np.unique(values)
    if raster.colour_table:
        ids = _ids_by_palette(raster.colour_table, present, classes)
        matched = np.isin(values, [value for value, class_id in ids.items() if class_id]).mean()
        # Black is a class's colour, and also the colour of palette entries that nobody has set.
        contradictions = [
            value
            for value, class_id in ids.items()
            if class_id not in (0, value) and any(raster.colour_table.get(value, BLACK))
        ]
        if matched >= 1 - max_off_palette and contradictions:
            lookup = np.ones(int(band.max()) + 1, np.uint8)
            lookup[list(ids)] = [class_id or 1 for class_id in ids.values()]
            value = contradictions[0]
            note = (
                f"its palette contradicts its values: {value} is drawn in the colour of"
                f" {classes[ids[value] - 1].name}, whose id is {ids[value]}; the colours were"
                " followed"
            )
            return lookup[band], float(1 - matched), (note,)
    invalid = [f"{value:g}" for value in present if not 1 <= value <= len(classes)]
    if invalid:
        raise UserError(
            f"{path}: has pixels with the value {', '.join(invalid[:5])}; class ids are 1 to"
            f" {len(classes)}"
        )
    return np.where(raster.valid, band, 1).astype(np.uint8), 0.0, ()


def _ids_by_palette(
    colour_table: dict[int, tuple[int, int, int]],
    present: NDArray[Any],
    classes: list[LandCoverClass],
) -> dict[int, int]:
    """The class id whose colour each pixel value has in the palette; 0 if it is no class's."""
    id_of_colour = {land_cover.rgb: class_id for class_id, land_cover in enumerate(classes, 1)}
    return {int(v): id_of_colour.get(colour_table.get(int(v), BLACK), 0) for v in present}


def ids_from_colours(
    bands: NDArray[Any], valid: NDArray[np.bool_], classes: list[LandCoverClass]
) -> tuple[NDArray[np.uint8], float]:
    """Class ids of a mask in colours: the class with the nearest colour, by Euclidean distance.

    Args:
        bands: red, green and blue, 0 to 255, (3, height, width).
        valid: the pixels that count, (height, width).
        classes: the class table.

    Returns:
        Class ids, (height, width), arbitrary where `valid` is false; and the share of valid pixels,
        0 to 1, whose colour is no class's.
    """
    red, green, blue = bands.astype(np.uint32)
    packed = red << 16 | green << 8 | blue
    counts = np.bincount(packed[valid], minlength=1)
    present = np.flatnonzero(counts)
    rgb = np.stack([present >> 16, present >> 8 & 255, present & 255], 1).astype(np.int32)
    table = np.array([land_cover.rgb for land_cover in classes], np.int32)
    distances = ((rgb[:, None] - table[None]) ** 2).sum(2)
    lookup = np.ones(NUM_COLOURS, np.uint8)
    lookup[present] = distances.argmin(1) + 1
    off_palette = counts[present][distances.min(1) > 0].sum() / valid.sum()
    return lookup[packed], float(off_palette)


def resample_mask(mask: UserMask, pixel_size: float, new_pixel_size: float) -> UserMask:
    """Resample a mask to another pixel size by nearest neighbour; it covers the same ground.

    Args:
        mask: the mask.
        pixel_size: its pixel size, metres.
        new_pixel_size: metres.
    """
    rows, columns = mask.class_ids.shape
    height, width = (max(1, round(side * pixel_size / new_pixel_size)) for side in (rows, columns))
    class_ids, valid = (
        np.array(
            Image.fromarray(band.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        )
        for band in (mask.class_ids, mask.valid)
    )
    reference = mask.georeference
    if reference:
        to_old_pixels = Affine.scale(columns / width, rows / height)
        reference = GeoReference(reference.transform @ to_old_pixels, reference.crs)
    return mask._replace(class_ids=class_ids, valid=valid.astype(bool), georeference=reference)
