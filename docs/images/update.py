"""Copies a sheet of generated images into the docs, with one column for each patch.

Usage: python docs/images/update.py [SHEET PICTURE], from the project's root, after `dvc repro`.
Without arguments: the default run's validation sheet.
"""

import sys

import numpy as np
from PIL import Image

from aerialdreams.data.contact_sheet import GAP

COLUMNS = 3  # of the sheet: mask, real image, generated image
DEFAULT = ["data/generated/validation.png", "docs/images/validation.png"]

source, target = sys.argv[1:] or DEFAULT
sheet = np.array(Image.open(source))
step = (sheet.shape[1] + GAP) // COLUMNS
rows = (sheet.shape[0] + GAP) // step
padded = np.pad(sheet, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
tiles = padded.reshape(rows, step, COLUMNS, step, 3)
turned = tiles.transpose(2, 1, 0, 3, 4).reshape(COLUMNS * step, rows * step, 3)
Image.fromarray(turned[:-GAP, :-GAP]).save(target, optimize=True)
