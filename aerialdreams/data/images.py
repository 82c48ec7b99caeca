"""Images and masks as PNG files, and at other sizes.

A mask on disk is a paletted PNG: the pixel is the class id, the palette the class table's colours.
"""

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from aerialdreams.data.land_cover import LandCoverClass, palette
from aerialdreams.errors import UserError
from aerialdreams.util.files import atomic_file


def write_image(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write an RGB image as PNG.

    Photographs compress by run lengths and Huffman codes alone: Z_RLE is four times as fast as
    zlib's level 6 and gives smaller files (benchmarks/tiff_to_png.py).

    Args:
        path: the file.
        rgb: uint8, (height, width, 3).
    """
    with atomic_file(path) as partial:
        Image.fromarray(rgb).save(partial, "PNG", compress_type=zlib.Z_RLE)


def write_mask(path: Path, mask: NDArray[np.uint8], classes: list[LandCoverClass]) -> None:
    """Write a mask as a paletted PNG.

    Args:
        path: the file.
        mask: class ids, (height, width).
        classes: the class table.
    """
    with atomic_file(path) as partial:
        image = Image.fromarray(mask)
        image.putpalette(palette(classes))
        image.save(partial, "PNG", compress_type=zlib.Z_RLE)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an RGB PNG: uint8, (height, width, 3).

    Raises:
        UserError: the file is missing, damaged, or not RGB.
    """
    return _read_png(path, "RGB")


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask PNG: class ids, (height, width).

    Raises:
        UserError: the file is missing, damaged, or not paletted (its ids are lost then).
    """
    return _read_png(path, "P")


def _read_png(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            if image.mode != mode:
                raise UserError(
                    f"{path}: is a {image.mode} image, not {mode}; remove it and run `dvc repro`"
                )
            return np.array(image)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro`") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); remove it and run `dvc repro`"
        ) from None


def resize_image(rgb: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize a square image: by area average (Pillow's BOX) when shrinking, else bicubic.

    Args:
        rgb: (height, width, 3).
        size: new height and width, pixels.
    """
    shrinks = size <= rgb.shape[0]
    resampling = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(rgb).resize((size, size), resampling))


def resize_mask(mask: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize a square mask by nearest neighbour, which never mixes ids.

    Args:
        mask: class ids, (height, width).
        size: new height and width, pixels.
    """
    return np.array(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
