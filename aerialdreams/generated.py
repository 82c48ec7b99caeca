"""Where generated images lie, and what they are."""

from pathlib import Path

GENERATED = Path("data/generated")
MANIFEST = "manifest.json"
AGREEMENT = Path("data/agreement.parquet")  # of each image with its mask
HELD_OUT = ("validation", "test")
# Folders of a split that are judged: by the ControlNet, and by the same before its first step.
SOURCES = ("generated", "untrained")
