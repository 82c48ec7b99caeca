"""FLAIR #1's constants."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # see tables
    pass

# FLAIR #1 labels every pixel with an id from 1 to 19; 0 and 20 and above are errors.
CLASS_COUNT = 19


# Percent of the pixels of FLAIR #1's train set, by id, as IGN publishes them
# (https://ignf.github.io/FLAIR/).
FLAIR_SHARES = (
    *(8.14, 8.25, 13.72, 3.47, 4.88, 2.74, 15.38, 6.95, 3.13, 17.84),
    *(10.98, 3.88, 0.03, 0.15, 0.15, 0.05, 0.01, 0.12, 0.14),
)


SIDE = 512  # pixels


PIXEL = 0.2  # metres


METADATA = "flair-1_metadata_aerial.json"


PATCH_NAME = re.compile(r"(IMG|MSK)_(\d{6})\.tif")
