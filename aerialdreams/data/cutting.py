"""Cuts rasters of any size into patches: an image and a mask on the same grid, as GeoTIFF tiles.

Rasters are read in strips of a patch's height, so memory does not grow with their height.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from aerialdreams.data.grids import LocalGrid, metric_grid, open_on_grid
from aerialdreams.data.land_cover import IGNORED
from aerialdreams.data.mask_files import (
    GDAL_OPTIONS,
    MaskRaster,
    classify,
    colour_table,
    georeference_of,
    lossy_compression,
    require_palette,
)
from aerialdreams.data.pairs import RasterPair
from aerialdreams.data.spec import DatasetSpec
from aerialdreams.data.tiles import gdal_message
from aerialdreams.errors import UserError
from aerialdreams.util.files import atomic_file

STRIP_WIDTH = 32768  # pixels that are read at a time; narrower rasters are read in whole strips
CACHE_MEGABYTES = 64  # of GDAL, per process


class CutSettings(NamedTuple):
    """How rasters are cut.

    Attributes:
        spec: the dataset spec.
        stride: pixels from patch to patch.
        least_valid: smallest share of a patch's pixels, 0 to 1, that have data and a class.
        max_off_palette: largest share of a colour mask's pixels, 0 to 1, with a colour of no class.
        warp: whether to warp rasters that are in degrees, rotated or stretched to UTM.
    """

    spec: DatasetSpec
    stride: int
    least_valid: float
    max_off_palette: float
    warp: bool


class Cut(NamedTuple):
    """What became of a pair of rasters.

    Attributes:
        patches: metadata of each patch by the name of its image.
        skipped: patches with too few valid pixels.
        notes: what was unusual about the files, for the user.
    """

    patches: dict[str, dict[str, Any]]
    skipped: int
    notes: list[str]


def cut_pair(pair: RasterPair, folder: Path, settings: CutSettings) -> Cut:
    """Cut an image and its mask into patches.

    Args:
        pair: the files.
        folder: where to write GROUP/NAME/IMG_NAME_ROW_COLUMN.tif, with the image's bands, and
            MSK_NAME_ROW_COLUMN.tif, with class ids and IGNORED as nodata value.
        settings: see the class.

    Raises:
        UserError: a file cannot be read, the two do not fit each other or the dataset spec.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        stack.enter_context(rasterio.Env(**GDAL_OPTIONS, GDAL_CACHEMAX=CACHE_MEGABYTES))
        image_file = _open(pair.image, stack)
        mask_file = _open(pair.mask, stack)
        if image_file.count < settings.spec.bands.count:
            raise UserError(
                f"{pair.image}: has {image_file.count} bands; dataset_spec.bands names"
                f" {settings.spec.bands.count}"
            )
        grid = metric_grid(pair.image, image_file, settings.spec.crs, settings.warp)
        image = image_file
        if grid and grid.warped:
            image = stack.enter_context(open_on_grid(image_file, grid, Resampling.cubic))
        mask, notes = _mask_on_grid(pair, image_file, mask_file, grid, stack)
        return _cut(pair, folder, settings, image, mask, mask_file, grid, notes)


def _open(path: Path, stack: ExitStack) -> Any:
    try:
        return stack.enter_context(rasterio.open(path))
    except (OSError, RasterioError) as error:
        raise UserError(f"{path}: cannot be read as a raster ({gdal_message(error)})") from None


def _mask_on_grid(
    pair: RasterPair, image: Any, mask: Any, grid: LocalGrid | None, stack: ExitStack
) -> tuple[Any, list[str]]:
    """The mask as a raster on the image's grid, and notes.

    Raises:
        UserError: one of the two has no georeference, and their sizes differ.
    """
    own = georeference_of(mask)
    same_size = mask.shape == image.shape
    if not grid or not own:
        if not same_size:
            raise UserError(
                f"{pair.mask}: is {mask.width} x {mask.height} pixels, its image"
                f" {pair.image} is {image.width} x {image.height}; without a georeference of both"
                " they must be equal"
            )
        if not grid or not grid.warped:
            return mask, []
        source = georeference_of(image)
        assert source
        return stack.enter_context(
            open_on_grid(mask, grid, Resampling.nearest, source.transform, grid.source_crs)
        ), []
    # A local CRS without relation to the Earth, as most of FLAIR's masks have: the image's.
    crs = own.crs if own.crs and (own.crs.is_projected or own.crs.is_geographic) else None
    crs = crs or grid.source_crs
    columns, rows = ~grid.transform @ (own.transform @ (0, 0))
    scale = own.transform.a / grid.transform.a, own.transform.e / grid.transform.e
    same_pixels = all(abs(factor - 1) * max(mask.shape) < 0.5 for factor in scale)
    aligned = crs == grid.crs and same_pixels and same_size and own.transform.b == 0
    if aligned and not grid.warped and max(abs(columns), abs(rows)) <= 0.5:
        return mask, []
    notes = []
    if aligned:
        notes.append(
            f"{pair.mask}: lies {columns:.1f} pixels east and {rows:.1f} south of its image; it is"
            " resampled to the image's pixels"
        )
    return stack.enter_context(
        open_on_grid(mask, grid, Resampling.nearest, own.transform, crs)
    ), notes


def _cut(
    pair: RasterPair,
    folder: Path,
    settings: CutSettings,
    image: Any,
    mask: Any,
    mask_file: Any,
    grid: LocalGrid | None,
    notes: list[str],
) -> Cut:
    size, stride = settings.spec.patch_size, settings.stride
    is_one = max(image.shape) <= size
    patches: dict[str, dict[str, Any]] = {}
    skipped, off_palette, pixels = 0, 0.0, 0
    for number, row in enumerate(_offsets(image.height, size, stride)):
        for columns in _batches(_offsets(image.width, size, stride), size):
            west, east = columns[0][1], min(columns[-1][1] + size, image.width)
            window = Window(west, row, east - west, min(size, image.height - row))
            bands, ids, share = _read_window(pair, settings.spec, image, mask, mask_file, window)
            off_palette, pixels = off_palette + share * ids.size, pixels + ids.size
            for column_number, column in columns:
                part = slice(column - west, column - west + size)
                patch_ids = _pad(ids[None, :, part], size, IGNORED)[0]
                if (patch_ids != IGNORED).mean() < max(settings.least_valid, 1e-9):
                    skipped += 1
                    continue
                suffix = "" if is_one else f"_r{number:03d}_c{column_number:03d}"
                name, target = f"{pair.name}{suffix}", folder / pair.group / pair.name
                reference = grid and (grid.transform @ Affine.translation(column, row), grid.crs)
                patch = _pad(bands[:, :, part], size, 0)
                _write_tile(target / f"IMG_{name}.tif", patch, reference)
                _write_tile(target / f"MSK_{name}.tif", patch_ids[None], reference, IGNORED)
                patches[f"IMG_{name}"] = {
                    **{"group": pair.group, "zone": pair.name, "date": pair.date},
                    **{"row": number, "column": column_number},
                }
    require_palette(
        pair.mask,
        off_palette / pixels,
        settings.max_off_palette,
        "raw_patches.pairs.max_off_palette",
    )
    return Cut(patches, skipped, notes)


def _offsets(length: int, size: int, stride: int) -> list[int]:
    """First pixels of the patches along a side: the last patch ends at the raster's edge."""
    if length <= size:
        return [0]
    return [*range(0, length - size, stride), length - size]


def _batches(offsets: list[int], size: int) -> Iterator[list[tuple[int, int]]]:
    """Numbered offsets in batches whose patches span at most about STRIP_WIDTH pixels."""
    batch: list[tuple[int, int]] = []
    for numbered in enumerate(offsets):
        if batch and numbered[1] + size - batch[0][1] > STRIP_WIDTH:
            yield batch
            batch = []
        batch.append(numbered)
    yield batch


def _read_window(
    pair: RasterPair, spec: DatasetSpec, image: Any, mask: Any, mask_file: Any, window: Window
) -> tuple[NDArray[Any], NDArray[np.uint8], float]:
    """Bands and class ids in a window, and the share of pixels whose colour is no class's.

    Pixels without data in the image have no class.
    """
    path = pair.image
    try:
        kept = [i for i, c in enumerate(image.colorinterp, 1) if c != ColorInterp.alpha]
        bands = image.read(kept, window=window)
        valid = image.dataset_mask(window=window) != 0
        path = pair.mask
        kept = [i for i, c in enumerate(mask.colorinterp, 1) if c != ColorInterp.alpha]
        values = mask.read(kept, window=window)
        has_class = mask.dataset_mask(window=window) != 0
    except (OSError, RasterioError) as error:
        raise UserError(f"{path}: cannot be read ({gdal_message(error)}); fetch it again") from None
    raster = MaskRaster(
        values, has_class, colour_table(mask_file), lossy_compression(mask_file), None
    )
    ids, off_palette, _ = classify(pair.mask, raster, spec.classes, spec.ignored)
    return bands, np.where(valid, ids, np.uint8(IGNORED)), off_palette


def _pad(bands: NDArray[Any], size: int, value: int) -> NDArray[Any]:
    """Extend bands, (bands, height, width), at the bottom and the right to size x size."""
    missing = [(0, 0), *((0, size - side) for side in bands.shape[1:])]
    return np.pad(bands, missing, constant_values=value)


def _write_tile(
    path: Path,
    bands: NDArray[Any],
    reference: tuple[Affine, CRS | None] | None,
    nodata: int | None = None,
) -> None:
    """Write a patch's image or mask as a GeoTIFF."""
    profile: dict[str, Any] = {"driver": "GTiff", "compress": "DEFLATE", "zlevel": 1}
    count, height, width = bands.shape
    profile |= {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    if reference:
        profile |= {"transform": reference[0], "crs": reference[1]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(path) as partial,
        rasterio.open(partial, "w", nodata=nodata, **profile) as file,
    ):
        file.write(bands)
