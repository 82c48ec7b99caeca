"""From the pixel values of source masks to class ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.land_cover import IGNORED, LandCoverClass, MaskValue

UNKNOWN = -1


def ids_from_values(
    band: NDArray[Any],
    valid: NDArray[np.bool_],
    classes: Sequence[LandCoverClass],
    ignored: Sequence[MaskValue] = (),
) -> tuple[NDArray[np.uint8], list[str]]:
    """Class ids of a mask that holds numbers.

    Args:
        band: pixel values of any integer type, or floats, (height, width).
        valid: false where a pixel has no value, (height, width).
        classes: the class table; a class's values are its id and the numbers in its `values`.
        ignored: values that stand for no class.

    Returns:
        Class ids, (height, width), IGNORED where a pixel has no class; and the values, at most
        five, that stand for neither. Their pixels are IGNORED, too.
    """
    present, inverse = np.unique(np.where(valid, band, band.dtype.type(0)), return_inverse=True)
    table = {row.id: row.id for row in classes}
    table |= {value: row.id for row in classes for value in row.values if isinstance(value, int)}
    table |= {value: IGNORED for value in ignored if isinstance(value, int)}
    ids = np.array([table.get(value.item(), UNKNOWN) for value in present])
    used = np.zeros(len(present), bool)
    used[inverse.ravel()[valid.ravel()]] = True
    unknown = [f"{value:g}" for value in present[(ids == UNKNOWN) & used][:5]]
    ids[ids == UNKNOWN] = IGNORED
    result = ids.astype(np.uint8)[inverse].reshape(band.shape)
    return np.where(valid, result, np.uint8(IGNORED)), unknown


def allowed_values(classes: Sequence[LandCoverClass]) -> str:
    """The class ids as text: "1 to 19", or all of them if some between are missing."""
    ids = sorted(row.id for row in classes)
    if ids == list(range(ids[0], ids[-1] + 1)):
        return f"{ids[0]} to {ids[-1]}"
    return ", ".join(map(str, ids))
