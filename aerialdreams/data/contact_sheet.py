"""Contact sheets: masks in their colours beside real and generated images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.land_cover import LandCoverClass, mask_to_rgb

GAP = 4  # pixels between images

# How further bands are shown: by band, suffix of the sheet's file name and what it shows.
VIEWS = {
    "near_infrared": ("_colour_infrared", "near infrared, red and green as red, green and blue"),
    "height": ("_height", "height above ground"),
}


def band_views(
    images: NDArray[np.uint8], further: Sequence[str], highest: int = 255
) -> dict[str, NDArray[np.uint8]]:
    """Images of three or more bands as RGB images to look at.

    Args:
        images: 0 to 255, (images, height, width, 3 + further bands).
        further: names of the bands after red, green and blue.
        highest: the stored height that is shown in white, 1 to 255.

    Returns:
        By suffix of a file name, (images, height, width, 3): "" are the colours; VIEWS has the
        others. Heights are in grey.
    """
    views = {"": images[..., :3]}
    if "near_infrared" in further:
        views[VIEWS["near_infrared"][0]] = images[..., [3, 0, 1]]
    if "height" in further:
        heights = images[..., 2 + len(further), None].astype(np.float32) / highest
        grey = (heights.clip(0, 1) * 255).round().astype(np.uint8)
        views[VIEWS["height"][0]] = np.repeat(grey, 3, axis=-1)
    return views


def image_grid(
    masks: Sequence[NDArray[np.uint8]],
    columns: Sequence[Sequence[NDArray[np.uint8]]],
    classes: list[LandCoverClass],
) -> NDArray[np.uint8]:
    """A grid with one row per mask: the mask in its colours, then its images.

    Args:
        masks: class ids, each (size, size); at least one.
        columns: for each column after the first, one RGB image (size, size, 3) per mask.
        classes: the class table.

    Returns:
        RGB, 0 to 255, (height, width, 3), with white gaps between the images.
    """
    all_columns = [[mask_to_rgb(mask, classes) for mask in masks], *columns]
    size = masks[0].shape[0]
    step = size + GAP
    sheet = np.full((len(masks) * step - GAP, len(all_columns) * step - GAP, 3), 255, np.uint8)
    for x, column in enumerate(all_columns):
        for y, image in enumerate(column):
            sheet[y * step : y * step + size, x * step : x * step + size] = image
    return sheet
