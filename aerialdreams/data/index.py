"""The patch index: the only list of patches."""

from typing import TYPE_CHECKING

import pyarrow as pa

from aerialdreams.data.flair import CLASS_COUNT
from aerialdreams.util.tables import read_table

if TYPE_CHECKING:  # see tables
    import pandas as pd
from aerialdreams.paths import INDEX

SPLITS = ("train", "validation", "test")


INDEX_SCHEMA = pa.schema(
    [
        ("patch_id", pa.string()),  # the six digits in the file's name
        ("domain", pa.string()),
        ("zone", pa.string()),
        ("split", pa.string()),
        ("image_path", pa.string()),  # relative to data/raw
        ("mask_path", pa.string()),
        ("image_md5", pa.string()),
        ("mask_md5", pa.string()),
        ("pixels", pa.list_(pa.int32(), CLASS_COUNT)),  # of each class, in the order of the ids
        ("zone_row", pa.int32()),  # place in the zone's grid of patches, from its north-west
        ("zone_column", pa.int32()),
        ("origin_x", pa.float64()),  # north-west corner, EPSG:2154, from the image's transform
        ("origin_y", pa.float64()),
        ("longitude", pa.float64()),  # centre, degrees WGS 84
        ("latitude", pa.float64()),
        ("date", pa.string()),
        ("time", pa.string()),
        ("camera", pa.string()),
    ]
)


def read_index(columns: list[str] | None = None) -> "pd.DataFrame":
    """The patch index, the only list of patches, in order of patch_id; all columns or some."""
    return read_table(INDEX, columns)
