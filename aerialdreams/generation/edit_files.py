"""The files of an edit: images and masks before and after, and where they differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.images import write_image, write_mask
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.data.rasters import write_geotiff


class EditImages(NamedTuple):
    """An edit, all of one height and width.

    Attributes:
        before: RGB, 0 to 255, (height, width, 3).
        after: RGB after the change.
        mask_before: class ids, (height, width).
        mask_after: class ids after the change.
        changed: bool, where the class changes or a region is repainted.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    mask_before: NDArray[np.uint8]
    mask_after: NDArray[np.uint8]
    changed: NDArray[np.bool_]


def write_edit(
    folder: Path,
    images: EditImages,
    reference: GeoReference | None,
    classes: list[LandCoverClass],
    tags: Mapping[str, str],
    real_before: bool = False,
    names: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write before, after, mask-before, mask-after and change.

    Args:
        folder: created if it does not exist.
        images: the edit.
        reference: georeference of all of them; None writes PNGs.
        classes: the class table.
        tags: GDAL metadata of generated images.
        real_before: whether the image before is a photograph; it is then not tagged as synthetic.
        names: other file names, without suffix, by those above.

    Returns:
        The files.
    """
    suffix, files = ".tif" if reference else ".png", []
    change = images.changed.astype(np.uint8) * 255
    for name, array in {
        "before": images.before,
        "after": images.after,
        "mask-before": images.mask_before,
        "mask-after": images.mask_after,
        "change": change,
    }.items():
        path = folder / f"{(names or {}).get(name, name)}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        is_mask = name.startswith("mask")
        if reference:
            own = dict(tags) if name == "after" or (name == "before" and not real_before) else {}
            write_geotiff(path, array, reference, own, classes if is_mask else None)
        elif is_mask:
            write_mask(path, array, classes)
        else:
            write_image(path, array)
        files.append(path)
    return files
