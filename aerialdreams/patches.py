"""Patches: the index that names them, and their tiles, pictures and masks on disk.

A mask on disk is a paletted PNG: the pixel is the FLAIR class id, the palette its colour. It is
never resized but with nearest neighbour.
"""

import os
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import rasterio
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from aerialdreams.classes import CLASS_COUNT, LandCoverClass, palette
from aerialdreams.errors import UserError
from aerialdreams.files import whole_file
from aerialdreams.tables import read_table

if TYPE_CHECKING:  # see tables
    import pandas as pd

# GDAL would look for side files in a tile's whole folder, which takes as long as reading a mask.
os.environ.setdefault("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")

SIDE = 512  # pixels
PIXEL = 0.2  # metres
SPLITS = ("train", "validation", "test")

RAW = Path("data/raw")
METADATA = "flair-1_metadata_aerial.json"
PATCH_NAME = re.compile(r"(IMG|MSK)_(\d{6})\.tif")

INDEX = Path("data/patches.parquet")
IMAGES = Path("data/images")
MASKS = Path("data/masks")
PERCENTAGES = Path("data/class_percentages.parquet")
FREQUENCIES = Path("metrics/class_frequencies.csv")
OSM_METADATA = Path("data/osm_metadata.parquet")
CAPTIONS = Path("data/captions.parquet")

IGN_CREDIT = "FLAIR #1 © IGN, Licence Ouverte 2.0 (Etalab)"
OSM_CREDIT = "© OpenStreetMap contributors, ODbL 1.0"

INDEX_SCHEMA = pa.schema(
    [
        ("patch_id", pa.string()),  # the six digits in the file's name
        ("domain", pa.string()),
        ("zone", pa.string()),
        ("split", pa.string()),
        ("image_path", pa.string()),  # relative to data/raw
        ("mask_path", pa.string()),
        ("image_md5", pa.string()),
        ("mask_md5", pa.string()),
        ("pixels", pa.list_(pa.int32(), CLASS_COUNT)),  # of each class, in the order of the ids
        ("zone_row", pa.int32()),  # place in the zone's grid of patches, from its north-west
        ("zone_column", pa.int32()),
        ("origin_x", pa.float64()),  # north-west corner, EPSG:2154, from the image's transform
        ("origin_y", pa.float64()),
        ("longitude", pa.float64()),  # centre, degrees WGS 84
        ("latitude", pa.float64()),
        ("date", pa.string()),
        ("time", pa.string()),
        ("camera", pa.string()),
    ]
)


class Tile(NamedTuple):
    """A raster as it lies on disk."""

    bands: NDArray[np.uint8]  # (bands, height, width)
    origin: tuple[float, float]  # x, y of the north-west corner, in metres
    pixel: tuple[float, float]  # width, height of a pixel in metres
    crs: CRS | None


def read_index(columns: list[str] | None = None) -> "pd.DataFrame":
    """The patch index, the only list of patches, in order of patch_id; all columns or some."""
    return read_table(INDEX, columns)


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


def write_image(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write an RGB picture, shape (height, width, 3), as PNG.

    Filtered photographs have runs, but hardly a phrase twice: coding runs and letters alone is
    four times as fast as zlib's search at level 6, and smaller (benchmarks/tiff_to_png.py).
    """
    with whole_file(path) as partial:
        Image.fromarray(rgb).save(partial, "PNG", compress_type=zlib.Z_RLE)


def write_mask(path: Path, mask: NDArray[np.uint8], classes: list[LandCoverClass]) -> None:
    """Write a mask of class ids, shape (height, width), as a paletted PNG."""
    with whole_file(path) as partial:
        image = Image.fromarray(mask)
        image.putpalette(palette(classes))
        image.save(partial, "PNG", compress_type=zlib.Z_RLE)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an RGB PNG: shape (height, width, 3).

    Raises:
        UserError: missing, damaged, or not RGB.
    """
    return _read_png(path, "RGB")


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask PNG: class ids, shape (height, width).

    Raises:
        UserError: missing, damaged, or not paletted (then its ids are lost).
    """
    return _read_png(path, "P")


def _read_png(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            if image.mode != mode:
                raise UserError(f"{path}: is a {image.mode} image, not {mode}; make it again")
            return np.array(image)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it and `dvc repro`") from None


def resize_image(rgb: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square picture at another size, by area average (Pillow's BOX); a larger one bicubic."""
    way = Image.Resampling.BOX if size <= rgb.shape[0] else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(rgb).resize((size, size), way))


def resize_mask(mask: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square mask at another size, by nearest neighbour: ids are never mixed."""
    return np.array(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
