"""Paths of all stages' outputs, by stage, relative to the project's root.

They are the `outs`, `metrics` and `plots` of dvc.yaml; tests/pipeline/test_paths.py compares them.
"""

from pathlib import Path

# raw-patches: FLAIR's tiles, their metadata and sources.json; with source `sample` sample.osm.pbf
RAW = Path("data/raw")

# patch-index
INDEX = Path("data/patches.parquet")  # one row per valid patch
REJECTED = Path("data/rejected.csv")  # one row per rejected patch, with the reason

# tiff-to-png: see data.images.image_path
IMAGES = Path("data/images")

# lut-masks: see data.images.mask_path
MASKS = Path("data/masks")

# class-percentages
PERCENTAGES = Path("data/class_percentages.parquet")  # by patch
FREQUENCIES = Path("metrics/class_frequencies.csv")  # by split

# compose-masks: see data.images.mask_path
COMPOSED = Path("data/composed")
COMPOSED_TABLE = "masks.csv"  # in COMPOSED: patch_id, started_from, caption

# osm-metadata
OSM_METADATA = Path("data/osm_metadata.parquet")  # place names by patch
OSM_ANSWERS = Path("data/osm_answers")  # raw responses of Overpass

# captions
CAPTIONS = Path("data/captions.parquet")
CAPTIONS_TABLE = Path("data/captions.csv")  # the same, to read
ZONES_PAGE = Path("data/zones.html")

# dataset
DATASET = Path("data/dataset")  # Parquet shards and their card
CONTACT_SHEET = Path("data/contact_sheet.png")

# base-model
BASE = Path("models/base")
UNET_LOSSES = Path("metrics/unet.csv")

# adapt-base
ADAPTED_BASE = Path("models/adapted_base")
ADAPTATION_LOSSES = Path("metrics/adaptation.csv")
AUTOENCODER_LOSSES = Path("metrics/adaptation_autoencoder.csv")

# encode-latents
LATENTS = Path("data/latents")
EMPTY_CAPTION = "empty.safetensors"  # in LATENTS; `text` in it is the empty caption's embedding

# train-segmenter
SEGMENTER = Path("models/segmenter")
ALL_BANDS = "all_bands"  # in SEGMENTER: a segmenter of all bands, if there are further ones
SEGMENTER_LOSSES = Path("metrics/segmenter.csv")

# train-controlnet
CONTROLNET = Path("models/controlnet")
CONTROLNET_LOSSES = Path("metrics/controlnet.csv")
CONTROLNET_VALIDATION_LOSSES = Path("metrics/controlnet_validation.csv")

# generate-validation
GENERATED = Path("data/generated")

# evaluate-FID
AGREEMENT = Path("data/agreement.parquet")  # of generated images with their masks, by patch
EVALUATION = Path("metrics/evaluation.json")
CONFUSION = Path("metrics/confusion.json")  # pixels by true and predicted class
IOU_TABLES = {
    "validation": Path("metrics/iou_validation.csv"),
    "test": Path("metrics/iou_test.csv"),
}

# evaluate-utility
UTILITY = Path("metrics/utility.json")

# report
REPORT = Path("data/report.html")
