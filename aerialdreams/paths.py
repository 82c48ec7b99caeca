"""Where each stage writes its outputs, relative to the project's root.

dvc.yaml names the same paths as `outs`, `metrics` and `plots`; tests/pipeline/test_pipeline.py
compares the two.
"""

from pathlib import Path

# raw-patches
RAW = Path("data/raw")
# patch-index
INDEX = Path("data/patches.parquet")
REJECTED = Path("data/rejected.csv")
# tiff-to-png
IMAGES = Path("data/images")
# lut-masks
MASKS = Path("data/masks")
# class-percentages
PERCENTAGES = Path("data/class_percentages.parquet")
FREQUENCIES = Path("metrics/class_frequencies.csv")
# osm-metadata
OSM_METADATA = Path("data/osm_metadata.parquet")
OSM_ANSWERS = Path("data/osm_answers")
# captions
CAPTIONS = Path("data/captions.parquet")
CAPTIONS_TABLE = Path("data/captions.csv")
ZONES_PAGE = Path("data/zones.html")
# dataset
DATASET = Path("data/dataset")
CONTACT_SHEET = Path("data/contact_sheet.png")
# base-model
BASE = Path("models/base")
VAE_LOSSES = Path("metrics/vae.csv")
UNET_LOSSES = Path("metrics/unet.csv")
# encode-latents
LATENTS = Path("data/latents")
EMPTY_CAPTION = "empty.safetensors"  # in it: `text`, the empty caption's embedding
# train-segmenter
SEGMENTER = Path("models/segmenter")
SEGMENTER_LOSSES = Path("metrics/segmenter.csv")
# train-controlnet
CONTROLNET = Path("models/controlnet")
CONTROLNET_LOSSES = Path("metrics/controlnet.csv")
CONTROLNET_VALIDATION_LOSSES = Path("metrics/controlnet_validation.csv")
# generate-validation
GENERATED = Path("data/generated")
# evaluate-FID
AGREEMENT = Path("data/agreement.parquet")
EVALUATION = Path("metrics/evaluation.json")
IOU_TABLES = {
    "validation": Path("metrics/iou_validation.csv"),
    "test": Path("metrics/iou_test.csv"),
}
# evaluate-utility
UTILITY = Path("metrics/utility.json")
# report
REPORT = Path("data/report.html")
