"""Where each stage's outputs are, relative to the project's root."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # see tables
    pass

DATASET = Path("data/dataset")


SEGMENTER = Path("models/segmenter")


LATENTS = Path("data/latents")


GENERATED = Path("data/generated")


AGREEMENT = Path("data/agreement.parquet")  # of each image with its mask


EVALUATION = Path("metrics/evaluation.json")


UTILITY = Path("metrics/utility.json")


RAW = Path("data/raw")


INDEX = Path("data/patches.parquet")


IMAGES = Path("data/images")


MASKS = Path("data/masks")


PERCENTAGES = Path("data/class_percentages.parquet")


FREQUENCIES = Path("metrics/class_frequencies.csv")


OSM_METADATA = Path("data/osm_metadata.parquet")


CAPTIONS = Path("data/captions.parquet")


BASE = Path("models/base")


CONTROLNET = Path("models/controlnet")
