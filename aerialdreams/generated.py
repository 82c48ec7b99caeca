"""Where generated images lie, and what they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerialdreams.errors import UserError
from aerialdreams.patches import read_image

GENERATED = Path("data/generated")
MANIFEST = "manifest.json"
AGREEMENT = Path("data/agreement.parquet")  # of each image with its mask
EVALUATION = Path("metrics/evaluation.json")
UTILITY = Path("metrics/utility.json")
HELD_OUT = ("validation", "test")
# Folders of a split that are judged: by the ControlNet, and by the same before its first step.
SOURCES = ("generated", "untrained")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that another stage wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; `dvc repro` makes it") from None
    return values


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
