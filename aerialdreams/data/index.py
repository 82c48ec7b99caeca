"""The patch index: one row per patch. It is the only list of patches that later stages read."""

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
        ("origin_x", pa.float64()),  # north-west corner, EPSG:2154, from the image's transform
        ("origin_y", pa.float64()),
        ("longitude", pa.float64()),  # centre, degrees, WGS 84
        ("latitude", pa.float64()),
        ("date", pa.string()),
        ("time", pa.string()),
        ("camera", pa.string()),
    ]
)


def read_index(columns: list[str] | None = None) -> "pd.DataFrame":
    """Read the patch index, in order of patch_id.

    Args:
        columns: those to read; None for all.

    Raises:
        UserError: the index is missing or damaged.
    """
    return read_table(INDEX, columns)
