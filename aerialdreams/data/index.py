"""The patch index: one row per patch. It is the only list of patches that later stages read."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from aerialdreams.data.flair import CLASS_COUNT
from aerialdreams.paths import INDEX
from aerialdreams.util.tables import read_table

if TYPE_CHECKING:  # importing pandas takes half of a worker's start-up time
    import pandas as pd

SPLITS = ("train", "validation", "test")

INDEX_SCHEMA = pa.schema(
    [
        ("patch_id", pa.string()),  # the six digits in the file name
        ("domain", pa.string()),
        ("zone", pa.string()),
        ("split", pa.string()),
        ("image_path", pa.string()),  # relative to data/raw
        ("mask_path", pa.string()),
        ("image_md5", pa.string()),
        ("mask_md5", pa.string()),
        ("pixels", pa.list_(pa.int32(), CLASS_COUNT)),  # count per class, entry = class id - 1
        ("zone_row", pa.int32()),  # position in the zone's grid of patches; 0, 0 is north-west
        ("zone_column", pa.int32()),
        # North-west corner from the image's transform, metres in flair.EPSG; see `data.tiles`.
        ("origin_x", pa.float64()),
        ("origin_y", pa.float64()),
        ("longitude", pa.float64()),  # centre, degrees, WGS 84
        ("latitude", pa.float64()),
        ("date", pa.string()),  # of the photograph, YYYY-MM-DD; null if the metadata lack it
        ("time", pa.string()),
        ("camera", pa.string()),
    ]
)


def read_index(columns: list[str] | None = None, path: Path = INDEX) -> "pd.DataFrame":
    """Read the patch index, in order of patch_id.

    Args:
        columns: names of the columns to read; None reads all.
        path: the index.

    Raises:
        UserError: the index is missing or damaged.
    """
    return read_table(path, columns)
