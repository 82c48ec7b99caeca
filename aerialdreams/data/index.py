"""The patch index: one row per patch. It is the only list of patches that later stages read."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from aerialdreams.paths import INDEX
from aerialdreams.util.tables import read_table

if TYPE_CHECKING:  # importing pandas takes half of a worker's start-up time
    import pandas as pd

SPLITS = ("train", "validation", "test")


def index_schema(num_classes: int) -> pa.Schema:
    """Columns of the patch index."""
    return pa.schema(
        [
            ("patch_id", pa.string()),  # of the file names; six digits in FLAIR
            ("group", pa.string()),  # what splits are made of; a domain in FLAIR
            ("zone", pa.string()),  # contiguous patches on one grid
            ("split", pa.string()),
            ("image_path", pa.string()),  # relative to data/raw
            ("mask_path", pa.string()),
            ("image_md5", pa.string()),
            ("mask_md5", pa.string()),
            ("bands", pa.list_(pa.string())),  # that the dataset has; see `data.spec.Bands`
            ("pixels", pa.list_(pa.int32(), num_classes)),  # of each class, in the table's order
            ("zone_row", pa.int32()),  # position in the zone's grid of patches; 0, 0 is north-west
            ("zone_column", pa.int32()),
            # From the image's georeference (see `data.tiles`); null without one.
            ("crs", pa.string()),  # EPSG code or WKT
            ("origin_x", pa.float64()),  # north-west corner, in the CRS's units
            ("origin_y", pa.float64()),
            ("extent", pa.float64()),  # height and width, in the CRS's units
            ("pixel_size", pa.float64()),  # on the ground, metres
            ("longitude", pa.float64()),  # centre, degrees, WGS 84
            ("latitude", pa.float64()),
            ("date", pa.string()),  # of the photograph, YYYY-MM-DD; null if unknown
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
