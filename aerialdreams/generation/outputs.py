"""Where generated images lie, and what they are."""

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.images import read_image
from aerialdreams.errors import UserError
from aerialdreams.paths import GENERATED

MANIFEST = "manifest.json"


EVALUATED_SPLITS = ("validation", "test")


# Folders of a split that are judged: by the ControlNet, and by the same before its first step.
JUDGED_SETS = ("generated", "untrained")


def read_generated(split: str, folder: str, patch_id: str, size: int) -> NDArray[np.uint8]:
    """A generated image, RGB (size, size, 3).

    Args:
        split: validation or test.
        folder: which of the patch's images: generated, sample-2, untrained, ...
        patch_id: of the patch whose mask it was made for.
        size: pixels a side.

    Raises:
        UserError: it is missing, damaged, or of another size.
    """
    path = GENERATED / split / folder / f"IMG_{patch_id}.png"
    image = read_image(path)
    if image.shape != (size, size, 3):
        raise UserError(
            f"{path}: is {image.shape[1]} x {image.shape[0]}, image_size asks for {size} x {size};"
            " `dvc repro -f generate-validation`"
        )
    return image
