"""The files of an edit: images and masks before and after, and where they differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.images import write_bands, write_image, write_mask
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.data.rasters import write_geotiff
from aerialdreams.data.spec import RGB_ONLY, FurtherBands


class EditImages(NamedTuple):
    """An edit, all of one height and width.

    Attributes:
        before: 0 to 255, (height, width, bands).
        after: the same after the change.
        mask_before: class ids, (height, width).
        mask_after: class ids after the change.
        changed: bool, where the class changes or a region is repainted.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    mask_before: NDArray[np.uint8]
    mask_after: NDArray[np.uint8]
    changed: NDArray[np.bool_]


def write_result(
    path: Path,
    array: NDArray[np.uint8],
    reference: GeoReference | None,
    tags: Mapping[str, str],
    classes: list[LandCoverClass] | None = None,
    further: FurtherBands = RGB_ONLY,
) -> Path:
    """Write an image or a mask as GeoTIFF where there is a georeference, else as PNG.

    Args:
        path: of the file, without suffix; its folder is created if it does not exist.
        array: RGB, further bands and, if there is one, alpha, (height, width, bands); or one band,
            (height, width).
        reference: its georeference; None writes a PNG.
        tags: GDAL metadata of the GeoTIFF.
        classes: for a mask, the class table.
        further: the bands after red, green and blue; without georeference they are PNGs of their
            own, see `data.images.band_path`.

    Returns:
        The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f"{path.name}{'.tif' if reference else '.png'}")
    if reference:
        write_geotiff(file, array, reference, tags, classes, further)
    elif classes:
        write_mask(file, array, classes)
    elif array.ndim == 3:
        write_bands(file, array, further.names)
    else:
        write_image(file, array)
    return file


def write_edit(
    folder: Path,
    images: EditImages,
    reference: GeoReference | None,
    classes: list[LandCoverClass],
    tags: Mapping[str, str],
    real_before: bool = False,
    pair: str = "",
    further: FurtherBands = RGB_ONLY,
) -> None:
    """Write before, after, mask-before, mask-after and, last, change.

    Args:
        folder: created if it does not exist.
        images: the edit.
        reference: georeference of all of them; None writes PNGs.
        classes: the class table.
        tags: GDAL metadata of generated images.
        real_before: whether the image before is a photograph; it is then not tagged as synthetic.
        pair: of many in the folder: its name in folders before, after, ...; "" for a single edit.
        further: the images' bands after red, green and blue.
    """
    before_tags = {} if real_before else tags
    change = images.changed.astype(np.uint8) * 255
    write_result(folder / "before" / pair, images.before, reference, before_tags, further=further)
    write_result(folder / "after" / pair, images.after, reference, tags, further=further)
    write_result(folder / "mask-before" / pair, images.mask_before, reference, {}, classes)
    write_result(folder / "mask-after" / pair, images.mask_after, reference, {}, classes)
    write_result(folder / "change" / pair, change, reference, {})
