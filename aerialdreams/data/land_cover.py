"""The class table: names, colours and ids of the land-cover classes.

Masks hold class ids, from 0 to 254, and IGNORED where a pixel has no class. Colours are for display
only. Networks and matrices number the classes by their position in the table, from 0.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

IGNORED = 255  # in masks: a pixel without a class

Colour = Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
MaskValue = int | Colour  # in source masks: a pixel value or a colour


class LandCoverClass(BaseModel):
    """A row of the class table.

    Attributes:
        name: unique in the table.
        colour: unique in the table, such as "#db0e9a".
        values: pixel values and colours that stand for the class in source masks. Empty: its id
            in masks of ids, and its colour in masks of colours.
        id: in the pipeline's masks, 0 to 254; `with_ids` sets it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    colour: Colour
    values: tuple[MaskValue, ...] = ()
    id: int = Field(default=0, ge=0, le=254, exclude=True)

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as red, green, blue, 0 to 255."""
        return rgb_of(self.colour)


def rgb_of(colour: str) -> tuple[int, int, int]:
    """A colour such as "#db0e9a" as red, green, blue, 0 to 255."""
    return (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16))


def with_ids(classes: Sequence[LandCoverClass]) -> list[LandCoverClass]:
    """Set the ids of a class table.

    A class's id is the first of its `values` that is a number from 0 to 254, so that source masks
    keep their numbers; without such a value, its position, counted from 1.

    Raises:
        ValueError: two classes have the same name, colour, id or value. The message has no subject.
    """
    table = []
    for position, row in enumerate(classes, start=1):
        numbers = [value for value in row.values if isinstance(value, int) and 0 <= value < IGNORED]
        table.append(row.model_copy(update={"id": numbers[0] if numbers else position}))
    for field in ("name", "colour", "id"):
        _require_unique([(getattr(row, field), row.name) for row in table], field)
    _require_unique([(value, row.name) for row in table for value in row.values], "value")
    # Ids by position must not be values of other classes: masks of ids would be ambiguous.
    _require_unique(
        [(value, row.name) for row in table for value in {row.id, *row.values}], "value"
    )
    return table


def _require_unique(pairs: list[tuple[Any, str]], field: str) -> None:
    first: dict[Any, str] = {}
    for value, name in pairs:
        if value in first:
            raise ValueError(
                f"{field} {value!r} is used twice, by {first[value]} and {name}; each class needs"
                " its own"
            )
        first[value] = name


def class_ids(classes: Sequence[LandCoverClass]) -> list[int]:
    """The ids of a class table, in its order."""
    return [row.id for row in classes]


def class_positions(class_ids: Sequence[int]) -> NDArray[np.uint8]:
    """Position of each id in the class table, (256,); IGNORED for values that are no id."""
    positions = np.full(256, IGNORED, np.uint8)
    positions[list(class_ids)] = np.arange(len(class_ids))
    return positions


def palette(classes: Sequence[LandCoverClass]) -> bytes:
    """Palette of a paletted PNG: 256 RGB triples, entry = class id, unused entries black."""
    table = np.zeros((256, 3), np.uint8)
    for row in classes:
        table[row.id] = row.rgb
    return table.tobytes()


def mask_to_rgb(mask: NDArray[np.uint8], classes: Sequence[LandCoverClass]) -> NDArray[np.uint8]:
    """A mask in the classes' colours; ignored pixels are black.

    Args:
        mask: class ids, (height, width).
        classes: the class table.

    Returns:
        RGB, 0 to 255, (height, width, 3).
    """
    return np.frombuffer(palette(classes), np.uint8).reshape(256, 3)[mask]


def class_pixel_counts(mask: NDArray[np.uint8], class_ids: Sequence[int]) -> NDArray[np.int64]:
    """Pixels per class in one or several masks.

    Args:
        mask: class ids, any shape; values that are no class ids are not counted.
        class_ids: of the class table, in its order.

    Returns:
        (classes,), in the table's order.
    """
    return np.bincount(mask.ravel(), minlength=256)[list(class_ids)]
