"""Where generated images lie, and what they are."""

import json
from pathlib import Path
from typing import Any

from aerialdreams.errors import UserError

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
