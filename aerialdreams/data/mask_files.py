"""A user's own mask: any raster that GDAL reads, of class ids or of the classes' colours."""

import warnings
from collections.abc import Sequence
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
from aerialdreams.data.land_cover import IGNORED, LandCoverClass, MaskValue, rgb_of
from aerialdreams.data.mask_values import allowed_values, ids_from_values
from aerialdreams.data.tiles import gdal_message
from aerialdreams.errors import UserError

BLACK = (0, 0, 0)
MIN_MATCHED = 0.99  # share of pixels with classes' colours from which a palette is believed
MAX_LERC_ERROR = 0.5  # from this error on, rounding can give another id
# GDAL reads world files (.pgw, .tfw, .wld, ...) and .aux.xml by default. Many users of cloud
# storage turn that off in their environment.
GDAL_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE", "GDAL_PAM_ENABLED": "YES"}
VECTORS = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".kml", ".gml", ".osm", ".pbf")


class UserMask(NamedTuple):
    """A user's mask.

    Attributes:
        class_ids: uint8, (height, width); IGNORED where `valid` is false.
        valid: bool, (height, width); false where a nodata value, an alpha band or a mask band
            declares the pixel invalid, or its value or colour stands for no class.
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


class MaskRaster(NamedTuple):
    """Everything that decides the class ids of a file, or of a window of it."""

    bands: NDArray[Any]  # without alpha, (bands, height, width)
    valid: NDArray[np.bool_]  # (height, width)
    colour_table: dict[int, tuple[int, int, int]] | None
    lossy_compression: str  # "" if there is none
    georeference: GeoReference | None


def read_user_mask(
    path: Path,
    classes: Sequence[LandCoverClass],
    max_off_palette: float = 0.01,
    ignored: Sequence[MaskValue] = (),
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
        ignored: pixel values and colours that stand for no class.

    Raises:
        UserError: the file is missing or damaged, has no valid pixel, another number of bands,
            values that are no class ids, class ids under lossy compression, or too many pixels of
            other colours.
    """
    raster = _read_raster(path)
    if not raster.valid.any():
        raise UserError(f"{path}: has no valid pixel: all are nodata, transparent or masked")
    class_ids, off_palette, notes = classify(path, raster, classes, ignored)
    require_palette(path, off_palette, max_off_palette, "--off-palette")
    valid = raster.valid & (class_ids != IGNORED)
    if not valid.any():
        raise UserError(f"{path}: has no pixel with a class: all have values that are ignored")
    return UserMask(class_ids, valid, raster.georeference, off_palette, notes)


def require_palette(path: Path, off_palette: float, most: float, key: str) -> None:
    """Raise a UserError if more than a share of a mask's pixels have a colour of no class."""
    if off_palette > most:
        raise UserError(
            f"{path}: {off_palette:.1%} of its pixels have a colour that is no class's, as blurred"
            f" or JPEG masks do; at most {most:.1%} may get the nearest class ({key})"
        )


def classify(
    path: Path,
    raster: MaskRaster,
    classes: Sequence[LandCoverClass],
    ignored: Sequence[MaskValue] = (),
) -> tuple[NDArray[np.uint8], float, tuple[str, ...]]:
    """Class ids of a mask's pixels; see `UserMask`.

    Returns:
        class_ids, off_palette and notes.

    Raises:
        UserError: another number of bands, values that are no class ids, or class ids under lossy
            compression.
    """
    bands = raster.bands
    if len(bands) == 3:
        return *ids_from_colours(bands, raster.valid, classes, ignored), ()
    if len(bands) != 1:
        raise UserError(
            f"{path}: has {len(bands)} bands besides alpha; a mask has 1 (class ids) or 3 (colours)"
        )
    if raster.lossy_compression:
        raise UserError(
            f"{path}: holds class ids compressed with loss ({raster.lossy_compression}), which"
            " changes them; export the mask again without loss, as PNG or as GeoTIFF with DEFLATE"
        )
    band, values = bands[0], bands[0][raster.valid]
    if band.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
        raise UserError(f"{path}: has pixels that are no whole numbers; class ids are integers")
    class_ids, unknown = ids_from_values(band, raster.valid, classes, ignored)
    if raster.colour_table and raster.valid.any():
        by_colour = _ids_by_palette(raster, class_ids, bool(unknown), classes, ignored)
        if by_colour:
            return by_colour
    if unknown:
        raise UserError(
            f"{path}: has pixels with the value {', '.join(unknown)}; class ids are"
            f" {allowed_values(classes)}"
        )
    return class_ids, 0.0, ()


def _read_raster(path: Path) -> MaskRaster:
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
                palette, loss = colour_table(file), lossy_compression(file)
                georeference = georeference_of(file)
    except (OSError, RasterioError, UnicodeDecodeError) as error:
        if not path.exists():
            raise UserError(f"{path}: not found") from None
        vector = " (for vector data, add --mapping)" if path.suffix.lower() in VECTORS else ""
        raise UserError(
            f"{path}: cannot be read as a mask ({gdal_message(error)}){vector}"
        ) from None
    if len(bands) == 4 and not any(is_alpha) and np.isin(bands[3], (0, 255)).all():
        is_alpha[3] = True  # QGIS exports alpha as a fourth band without the tag
        valid &= bands[3] > 0
    bands = bands[[not alpha for alpha in is_alpha]]
    return MaskRaster(bands, valid, palette, loss, georeference)


def georeference_of(file: Any) -> GeoReference | None:
    """A file's georeference: its transform, or one fitted to its ground control points."""
    if file.transform != Affine.identity():
        return GeoReference(file.transform, file.crs)
    points, crs = file.gcps
    if len(points) >= 3:
        return GeoReference(from_gcps(points), crs)
    return None


def lossy_compression(file: Any) -> str:
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


def colour_table(file: Any) -> dict[int, tuple[int, int, int]] | None:
    """The palette of a file's first band, RGB by pixel value; None if it has none."""
    try:
        return {value: colour[:3] for value, colour in file.colormap(1).items()}
    except ValueError:
        return None


def _ids_by_palette(
    raster: MaskRaster,
    by_value: NDArray[np.uint8],
    has_unknown: bool,
    classes: Sequence[LandCoverClass],
    ignored: Sequence[MaskValue],
) -> tuple[NDArray[np.uint8], float, tuple[str, ...]] | None:
    """Class ids by the colours of a mask's palette, where these contradict its values.

    Args:
        raster: the mask.
        by_value: its class ids by its values.
        has_unknown: whether some of its values stand for no class.
        classes: the class table.
        ignored: pixel values and colours that stand for no class.

    Returns:
        As `classify`; None if the palette's colours are not the classes', or agree with the values.
    """
    assert raster.colour_table
    band = raster.bands[0]
    id_of_colour = _ids_of_colours(classes, ignored)
    present = np.unique(band[raster.valid])
    colours = [raster.colour_table.get(int(value), BLACK) for value in present]
    matched = [colour in id_of_colour for colour in colours]
    if np.isin(band[raster.valid], present[matched]).mean() < MIN_MATCHED:
        return None
    lookup = np.full(int(present.max()) + 1, IGNORED, np.uint8)
    contradiction, has_unset = None, False
    for value, colour in zip(present, colours, strict=True):
        lookup[value] = id_of_colour.get(colour, IGNORED)
        other = by_value[(band == value) & raster.valid][0]
        # Black may be a class's colour, and is the colour of palette entries that nobody has set.
        is_set = any(colour) or id_of_colour.get(colour) == IGNORED
        if colour in id_of_colour and lookup[value] != other and is_set:
            contradiction = contradiction or (int(value), int(lookup[value]))
        has_unset = has_unset or not is_set
    if not contradiction and (has_unset or not has_unknown):
        return None
    notes: tuple[str, ...] = ()
    if contradiction:
        value, class_id = contradiction
        name = next((row.name for row in classes if row.id == class_id), "ignored pixels")
        notes = (
            f"its palette contradicts its values: {value} is drawn in the colour of {name}, whose"
            f" id is {class_id}; the colours were followed",
        )
    ids = np.full(band.shape, IGNORED, np.uint8)
    ids[raster.valid] = lookup[band[raster.valid]]
    off_palette = float((ids[raster.valid] == IGNORED).mean()) if not all(matched) else 0.0
    return ids, off_palette, notes


def _ids_of_colours(
    classes: Sequence[LandCoverClass], ignored: Sequence[MaskValue]
) -> dict[tuple[int, int, int], int]:
    """Class id by colour, of all colours that stand for a class or for none."""
    table = {row.rgb: row.id for row in classes}
    table |= {rgb_of(c): row.id for row in classes for c in row.values if isinstance(c, str)}
    return table | {rgb_of(colour): IGNORED for colour in ignored if isinstance(colour, str)}


def ids_from_colours(
    bands: NDArray[Any],
    valid: NDArray[np.bool_],
    classes: Sequence[LandCoverClass],
    ignored: Sequence[MaskValue] = (),
) -> tuple[NDArray[np.uint8], float]:
    """Class ids of a mask in colours: the class with the nearest colour, by Euclidean distance.

    Args:
        bands: red, green and blue, 0 to 255, (3, height, width).
        valid: the pixels that count, (height, width).
        classes: the class table.
        ignored: colours that stand for no class.

    Returns:
        Class ids, (height, width), IGNORED where a pixel has no class; and the share of valid
        pixels, 0 to 1, whose colour is no class's.
    """
    ids_of_colours = _ids_of_colours(classes, ignored)
    red, green, blue = bands.astype(np.uint32)
    packed = red << 16 | green << 8 | blue
    present, counts = np.unique(packed[valid], return_counts=True)
    rgb = np.stack([present >> 16, present >> 8 & 255, present & 255], 1).astype(np.int32)
    table = np.array(list(ids_of_colours), np.int32)
    distances = ((rgb[:, None] - table[None]) ** 2).sum(2)
    nearest = np.array(list(ids_of_colours.values()), np.uint8)[distances.argmin(1)]
    result = np.full(packed.shape, IGNORED, np.uint8)
    result[valid] = nearest[np.searchsorted(present, packed[valid])]
    off_palette = counts[distances.min(1) > 0].sum() / max(valid.sum(), 1)
    return result, float(off_palette)


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
