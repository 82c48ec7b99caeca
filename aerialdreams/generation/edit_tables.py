"""Edits by a table: what becomes what, and where."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import ndimage

from aerialdreams.data.land_cover import IGNORED, LandCoverClass
from aerialdreams.errors import UserError
from aerialdreams.util.seeding import seeded_generator


class EditRow(BaseModel):
    """A row of a table of edits.

    Attributes:
        from_class: only pixels of this class change (`from` in the table); None for any.
        to_class: what they become (`to`).
        shape: what is changed: the connected area of `from_class` around the place (parcel), within
            `size` of it; a square; a disc; or a straight line across the mask.
        size: side of the square and of the parcel's limits, diameter of the disc, width of the
            line; metres.
        x: of the place, metres from the mask's left edge; None draws it from the pixels of
            `from_class`.
        y: metres from its upper edge.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_class: str | None = Field(default=None, alias="from")
    to_class: str = Field(alias="to")
    shape: Literal["parcel", "rectangle", "disc", "line"] = "parcel"
    size: float = Field(default=20.0, gt=0)
    x: float | None = Field(default=None, ge=0)
    y: float | None = Field(default=None, ge=0)


def read_edits(path: Path, classes: Sequence[LandCoverClass]) -> list[EditRow]:
    """Read a table of edits, CSV.

    Raises:
        UserError: the file is missing, has no row or an unknown column, or a row names an unknown
            class or has a value out of range.
    """
    try:
        table = pd.read_csv(path, dtype=str, skipinitialspace=True, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None
    names, rows = {row.name for row in classes}, []
    for number, record in enumerate(table.to_dict("records"), start=2):
        values = {key: value for key, value in record.items() if isinstance(value, str)}
        try:
            row = EditRow.model_validate(values)
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"]))
            raise UserError(f"{path}: line {number}: {key}: {problem['msg']}") from None
        unknown = {row.to_class, row.from_class or row.to_class} - names
        if unknown:
            raise UserError(
                f"{path}: line {number}: {', '.join(sorted(unknown))}: no class of the model; it"
                f" has {', '.join(name.name for name in classes)}"
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: has no row; its columns are from, to, shape, size, x and y")
    return rows


def apply_edit(
    mask: NDArray[np.uint8],
    row: EditRow,
    classes: Sequence[LandCoverClass],
    pixel_size: float,
    seed: int,
    key: str,
) -> NDArray[np.uint8] | None:
    """A mask after an edit.

    Args:
        mask: class ids, (height, width).
        row: the edit.
        classes: the class table.
        pixel_size: of the mask, metres.
        seed: of the places and directions that the row leaves open.
        key: tells this edit from others with the same seed.

    Returns:
        Class ids; None if the mask has no place for the edit, or nothing would change.
    """
    ids = {land_cover.name: land_cover.id for land_cover in classes}
    target = ids[row.to_class]
    source = mask == ids[row.from_class] if row.from_class else mask != IGNORED
    candidates = source & (mask != target)
    random = np.random.default_rng(int(seeded_generator(seed, "edit", key).initial_seed()))
    if row.x is not None and row.y is not None:
        y, x = int(row.y / pixel_size), int(row.x / pixel_size)
        if y >= mask.shape[0] or x >= mask.shape[1]:
            return None
    elif candidates.any():
        y, x = random.choice(np.argwhere(candidates))
    else:
        return None
    size = max(1.0, row.size / pixel_size)
    inside = _shape(row.shape, mask, (int(y), int(x)), size, random.uniform(0, np.pi))
    changed = inside & candidates
    if not changed.any():
        return None
    return np.where(changed, np.uint8(target), mask)


def _shape(
    shape: str, mask: NDArray[np.uint8], place: tuple[int, int], size: float, angle: float
) -> NDArray[np.bool_]:
    """The pixels of a shape around a place."""
    rows, columns = np.indices(mask.shape)
    down, right = rows - place[0], columns - place[1]
    square = np.maximum(abs(down), abs(right)) <= size / 2
    match shape:
        case "rectangle":
            return np.asarray(square)
        case "disc":
            return np.asarray(np.hypot(down, right) <= size / 2)
        case "line":
            return np.asarray(abs(right * np.sin(angle) + down * np.cos(angle)) <= size / 2)
    labels, _ = ndimage.label((mask == mask[place]) & square)
    return np.asarray(labels == labels[place])
