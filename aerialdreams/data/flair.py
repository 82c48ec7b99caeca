"""What is special to FLAIR #1: sizes, names, class count (https://ignf.github.io/FLAIR/)."""

import re

CLASS_COUNT = 19  # class ids are 1 to 19; other values are errors
PATCH_SIZE = 512  # height and width of a patch, pixels
PIXEL_SIZE = 0.2  # metres
PATCH_EXTENT = PATCH_SIZE * PIXEL_SIZE  # metres
BANDS = 5  # red, green, blue, near infrared, height above ground
EPSG = 2154  # RGF93 v1 / Lambert-93

# Percent of the pixels of the train split, by class id, as published by IGN.
TRAIN_PERCENTAGES = (
    *(8.14, 8.25, 13.72, 3.47, 4.88, 2.74, 15.38, 6.95, 3.13, 17.84),
    *(10.98, 3.88, 0.03, 0.15, 0.15, 0.05, 0.01, 0.12, 0.14),
)

METADATA = "flair-1_metadata_aerial.json"
PATCH_NAME = re.compile(r"(IMG|MSK)_(\d{6})\.tif")
# Domain and zone are folder names, in IGN's storage and in the Hugging Face release alike.
PATCH_FOLDERS = re.compile(r"(?:.*/)?(D\d{3}_\d{4})/(?:.*/)?(Z\d+_[UANFH]{2})/(?:.*/)?[^/]+")
