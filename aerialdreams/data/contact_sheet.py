"""Pictures for people: masks in their colours, real and generated images side by side."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.land_cover import LandCoverClass, mask_to_rgb

GAP = 4  # pixels between tiles


def image_grid(
    masks: Sequence[NDArray[np.uint8]],
    pictures: Sequence[Sequence[NDArray[np.uint8]]],
    classes: list[LandCoverClass],
) -> NDArray[np.uint8]:
    """One row for each mask: the mask in its colours, then its pictures.

    Args:
        masks: class ids, each (size, size).
        pictures: for each column after the first, one RGB image (size, size, 3) a mask.
        classes: the class table.

    Returns:
        RGB, with white gaps.
    """
    columns = [[mask_to_rgb(mask, classes) for mask in masks], *pictures]
    size = masks[0].shape[0]
    step = size + GAP
    sheet = np.full((len(masks) * step - GAP, len(columns) * step - GAP, 3), 255, np.uint8)
    for x, column in enumerate(columns):
        for y, picture in enumerate(column):
            sheet[y * step : y * step + size, x * step : x * step + size] = picture
    return sheet
