"""Images and masks as PNG files and arrays."""

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from aerialdreams.data.land_cover import LandCoverClass, palette
from aerialdreams.errors import UserError
from aerialdreams.util.files import atomic_file

if TYPE_CHECKING:  # see tables
    pass
import torch
from torch import Tensor


def write_image(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write an RGB picture, shape (height, width, 3), as PNG.

    Filtered photographs have runs, but hardly a phrase twice: coding runs and letters alone is
    four times as fast as zlib's search at level 6, and smaller (benchmarks/tiff_to_png.py).
    """
    with atomic_file(path) as partial:
        Image.fromarray(rgb).save(partial, "PNG", compress_type=zlib.Z_RLE)


def write_mask(path: Path, mask: NDArray[np.uint8], classes: list[LandCoverClass]) -> None:
    """Write a mask of class ids, shape (height, width), as a paletted PNG."""
    with atomic_file(path) as partial:
        image = Image.fromarray(mask)
        image.putpalette(palette(classes))
        image.save(partial, "PNG", compress_type=zlib.Z_RLE)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an RGB PNG: shape (height, width, 3).

    Raises:
        UserError: missing, damaged, or not RGB.
    """
    return _read_png(path, "RGB")


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask PNG: class ids, shape (height, width).

    Raises:
        UserError: missing, damaged, or not paletted (then its ids are lost).
    """
    return _read_png(path, "P")


def _read_png(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            if image.mode != mode:
                raise UserError(f"{path}: is a {image.mode} image, not {mode}; make it again")
            return np.array(image)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it and `dvc repro`") from None


def resize_image(rgb: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square picture at another size, by area average (Pillow's BOX); a larger one bicubic."""
    way = Image.Resampling.BOX if size <= rgb.shape[0] else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(rgb).resize((size, size), way))


def resize_mask(mask: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square mask at another size, by nearest neighbour: ids are never mixed."""
    return np.array(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))


def images_to_tensor(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Images as networks take them.

    Args:
        images: RGB in 0..255, uint8, shape (batch, height, width, 3), of numpy or torch.

    Returns:
        -1..1, shape (batch, 3, height, width).
    """
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1
