"""IGN's metadata of FLAIR's patches, a JSON file keyed by image name."""

import json
from datetime import date
from pathlib import Path
from typing import Any

from aerialdreams.errors import UserError

CUT_METADATA = "metadata.json"  # of patches that were cut from rasters


def read_metadata(path: Path) -> dict[str, Any]:
    """FLAIR's metadata by image name. It may lack patches, or have some that are not on disk.

    Raises:
        UserError: the file is missing, or not a JSON object of objects.
    """
    try:
        metadata = json.loads(path.read_text(encoding="utf-8-sig"))  # with or without a BOM
    except FileNotFoundError:
        raise UserError(
            f"{path}: not found; IGN's metadata of the patches comes in the archive of the images;"
            " set patch_index.metadata to the file"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); fetch it again") from None
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: must be a JSON object keyed by image name; fetch it again")
    for name, entry in metadata.items():
        if not isinstance(entry, dict):
            raise UserError(f"{path}: {name}: is {entry!r}, not an object; correct the entry")
        for field in ("date", "time", "camera"):
            if not isinstance(entry.get(field), (str, type(None))):
                raise UserError(
                    f"{path}: {name}: {field} is {entry[field]!r}, not text; correct the entry"
                )
        if entry.get("date"):
            try:
                date.fromisoformat(entry["date"])
            except ValueError:
                raise UserError(
                    f"{path}: {name}: date is {entry['date']!r}, not a day as 2021-07-30; correct"
                    " the entry"
                ) from None
    return metadata
