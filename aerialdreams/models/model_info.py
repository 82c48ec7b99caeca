"""What a ControlNet was told of its masks: it lies with the model, and is never guessed."""

import json
from pathlib import Path
from typing import NamedTuple

from aerialdreams.data.flair import PIXEL, SIDE
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.errors import UserError
from aerialdreams.util.files import write_json

ABOUT = "aerialdreams.json"


class About(NamedTuple):
    """The ground and the classes that a ControlNet was trained on."""

    image_size: int  # pixels a side
    pixel: float  # metres
    classes: list[LandCoverClass]


def write_about(folder: Path, image_size: int, classes: list[LandCoverClass]) -> None:
    """Write it into the model's folder."""
    table = [land_cover.model_dump() for land_cover in classes]
    about = {"image_size": image_size, "pixel_metres": PIXEL * SIDE / image_size, "classes": table}
    write_json(folder / ABOUT, about)


def read_about(folder: Path) -> About:
    """Read it.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        classes = [LandCoverClass.model_validate(row) for row in about["classes"]]
        return About(int(about["image_size"]), float(about["pixel_metres"]), classes)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: {error}; it lies with every ControlNet that we train") from None
