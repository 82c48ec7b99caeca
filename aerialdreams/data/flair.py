"""FLAIR #1's numbers and names (https://ignf.github.io/FLAIR/); no other module repeats them."""

import re

CLASS_COUNT = 19  # class ids are 1 to 19; masks with other values are rejected
PATCH_SIZE = 512  # height and width of a patch, pixels
PIXEL_SIZE = 0.2  # metres
PATCH_EXTENT = PATCH_SIZE * PIXEL_SIZE  # height and width of a patch, metres
BANDS = 5  # red, green, blue, near infrared, height above ground
EPSG = 2154  # RGF93 v1 / Lambert-93; axes in metres

# Percent of the pixels of the train split, by class id, as published by IGN.
TRAIN_PERCENTAGES = (
    *(8.14, 8.25, 13.72, 3.47, 4.88, 2.74, 15.38, 6.95, 3.13, 17.84),
    *(10.98, 3.88, 0.03, 0.15, 0.15, 0.05, 0.01, 0.12, 0.14),
)

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


def image_stem(patch_id: str) -> str:
    """File name of a patch's image, without suffix; also its key in the metadata."""
    return f"IMG_{patch_id}"


def mask_stem(patch_id: str) -> str:
    """File name of a patch's mask, without suffix."""
    return f"MSK_{patch_id}"
