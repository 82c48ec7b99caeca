"""Where generated images lie, and what they are."""

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.dataset import count_patches, evenly_spaced
from aerialdreams.data.images import read_image
from aerialdreams.errors import UserError
from aerialdreams.paths import GENERATED

MANIFEST = "manifest.json"


EVALUATED_SPLITS = ("validation", "test")


# Folders of a split that are judged: by the ControlNet, and by the same before its first step.
JUDGED_SETS = ("generated", "untrained")


def chosen_rows(split: str, masks: int) -> list[int]:
    """Numbers of the dataset's rows that images are generated for.

    Args:
        split: validation or test.
        masks: how many, spread evenly over the split; 0 for all.
    """
    return evenly_spaced(masks, count_patches(split))


def extra_rows(rows: list[int], masks: int) -> list[int]:
    """Those of the chosen rows that get further samples, styles and an untrained image.

    Args:
        rows: see `chosen_rows`.
        masks: how many, spread evenly over the rows; 0 for all.
    """
    return [rows[number] for number in evenly_spaced(masks, len(rows))]


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
