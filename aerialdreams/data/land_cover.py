"""The class table: names and colours of the land-cover classes.

Masks hold class ids. Colours are for display only.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from aerialdreams.data.flair import CLASS_COUNT


class LandCoverClass(BaseModel):
    """A row of the class table; its position, counted from 1, is the class id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    colour: str = Field(pattern=r"^#[0-9a-f]{6}$")

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as red, green, blue, 0 to 255."""
        return (int(self.colour[1:3], 16), int(self.colour[3:5], 16), int(self.colour[5:7], 16))


def palette(classes: list[LandCoverClass]) -> bytes:
    """Palette of a paletted PNG: 256 RGB triples, entry = class id, unused entries black."""
    table = np.zeros((256, 3), np.uint8)
    for class_id, land_cover in enumerate(classes, start=1):
        table[class_id] = land_cover.rgb
    return table.tobytes()


def mask_to_rgb(mask: NDArray[np.uint8], classes: list[LandCoverClass]) -> NDArray[np.uint8]:
    """A mask in the classes' colours.

    Args:
        mask: class ids, (height, width).
        classes: the class table.

    Returns:
        RGB, 0 to 255, (height, width, 3).
    """
    return np.frombuffer(palette(classes), np.uint8).reshape(256, 3)[mask]


def class_pixel_counts(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels per class in one or several masks.

    Args:
        mask: class ids, any shape; values that are no class ids are not counted.

    Returns:
        (classes,), index = class id - 1.
    """
    return np.bincount(mask.ravel(), minlength=CLASS_COUNT + 1)[1 : CLASS_COUNT + 1]


def invalid_ids(mask: NDArray[np.uint8]) -> list[int]:
    """The values in a mask that are not class ids, in ascending order."""
    counts = np.bincount(mask.ravel(), minlength=256)
    return [int(i) for i in np.flatnonzero(counts) if not 1 <= i <= CLASS_COUNT]
