"""FLAIR #1's numbers and names (https://ignf.github.io/FLAIR/), for its sources and the sample."""

import re

PATCH_SIZE = 512  # height and width of a patch, pixels
PIXEL_SIZE = 0.2  # metres
PATCH_EXTENT = PATCH_SIZE * PIXEL_SIZE  # height and width of a patch, metres
CLASS_NAMES = (
    *("building", "pervious surface", "impervious surface", "bare soil", "water", "coniferous"),
    *("deciduous", "brushwood", "vineyard", "herbaceous vegetation", "agricultural land"),
    *("plowed land", "swimming pool", "snow", "clear cut", "mixed", "ligneous", "greenhouse"),
    "other",
)  # in order of their ids, from 1

METADATA = "flair-1_metadata_aerial.json"

# A tile's file name: kind and patch id. The same id in an image and a mask means the same patch.
PATCH_NAME = re.compile(r"(IMG|MSK)_(\d{6})\.tif")
PATCH_NAME_HINT = "IMG_nnnnnn.tif or MSK_nnnnnn.tif"
# Domain (département and year) and zone (number and main land covers) are names of folders. Other
# folders may lie between them: IGN's storage and the Hugging Face release use different layouts.
DOMAIN = r"D\d{3}_\d{4}"
ZONE = r"Z\d+_[UANFH]{2}"
PATCH_FOLDERS = re.compile(rf"(?:.*/)?({DOMAIN})/(?:.*/)?({ZONE})/(?:.*/)?[^/]+")
PATCH_FOLDERS_HINT = "Dxxx_yyyy and Zn_LL"
