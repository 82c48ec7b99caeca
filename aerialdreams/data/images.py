"""Images and masks as PNG files, and resizing of both.

A mask on disk is a paletted PNG: pixels are class ids, and the palette has the classes' colours.
An image is an RGB PNG; near infrared and height, where they are kept, are grey PNGs beside it.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from aerialdreams.data.land_cover import LandCoverClass, palette
from aerialdreams.errors import UserError
from aerialdreams.paths import IMAGES, MASKS
from aerialdreams.util.files import atomic_file


def image_path(patch_id: str, folder: Path = IMAGES) -> Path:
    """A patch's image; tiff-to-png writes them all."""
    return folder / f"IMG_{patch_id}.png"


def mask_path(patch_id: str, folder: Path = MASKS) -> Path:
    """A patch's mask; lut-masks writes them all."""
    return folder / f"MSK_{patch_id}.png"


def band_path(image: Path, band: str) -> Path:
    """The PNG of a further band of an image, beside it, such as IMG_000001_height.png."""
    return image.with_name(f"{image.stem}_{band}.png")


def write_image(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write an image as PNG.

    zlib's strategy Z_RLE (run lengths and Huffman codes only) is four times as fast as its level 6
    on photographs, and gives smaller files (benchmarks/tiff_to_png.py).

    Args:
        path: the file.
        rgb: RGB, (height, width, 3); RGB and alpha, (height, width, 4); or grey, (height, width).
    """
    with atomic_file(path) as partial:
        Image.fromarray(rgb).save(partial, "PNG", compress_type=zlib.Z_RLE)


def write_bands(path: Path, image: NDArray[np.uint8], further: Sequence[str]) -> None:
    """Write an image of three or more bands as PNGs, the one of its colours last.

    Args:
        path: of the colours; see `band_path` for the others.
        image: RGB, further bands and, if there is one, alpha: (height, width, bands).
        further: names of the bands after red, green and blue.
    """
    for number, band in enumerate(further, start=3):
        write_image(band_path(path, band), image[..., number])
    write_image(path, np.delete(image, range(3, 3 + len(further)), axis=2))


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
    """Read an RGB PNG.

    Returns:
        RGB, 0 to 255, (height, width, 3).

    Raises:
        UserError: the file is missing, damaged, or not RGB.
    """
    return _read_png(path, "RGB")


def read_bands(path: Path, further: Sequence[str]) -> NDArray[np.uint8]:
    """Read what `write_bands` wrote.

    Args:
        path: of the colours.
        further: names of the bands to read after red, green and blue.

    Returns:
        0 to 255, (height, width, 3 + further bands).

    Raises:
        UserError: a file is missing, damaged, or of another kind or size.
    """
    image = read_image(path)
    bands = [_read_png(band_path(path, band), "L") for band in further]
    for name, band in zip(further, bands, strict=True):
        if band.shape != image.shape[:2]:
            raise UserError(
                f"{band_path(path, name)}: is {band.shape[1]} x {band.shape[0]} pixels, its colours"
                f" are {image.shape[1]} x {image.shape[0]}; remove it and run `dvc repro`"
            )
    return np.dstack([image, *bands]) if bands else image


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask that `write_mask` wrote.

    Returns:
        Class ids, (height, width).

    Raises:
        UserError: the file is missing, damaged, or not a paletted PNG.
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


def resize_image(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize a square image, by area average (Pillow's BOX) when shrinking, else bicubic.

    Args:
        image: RGB and any further bands, 0 to 255, (height, width, bands).
        size: new height and width, pixels.
    """
    shrinks = size <= image.shape[0]
    resampling = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return resize_bands(image, (size, size), resampling)


def resize_bands(
    image: NDArray[np.uint8], shape: tuple[int, int], resampling: Image.Resampling
) -> NDArray[np.uint8]:
    """Resize an image of three or more bands.

    Args:
        image: RGB and any further bands, 0 to 255, (height, width, bands).
        shape: new height and width, pixels.
        resampling: Pillow's method.
    """
    # Pillow has no images of five bands.
    parts = [image[..., :3], *np.moveaxis(image[..., 3:], -1, 0)]
    resized = [Image.fromarray(part).resize(shape[::-1], resampling) for part in parts]
    return np.dstack([np.asarray(part) for part in resized])


def resize_mask(mask: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize a square mask by nearest neighbour: any other method would invent class ids.

    Args:
        mask: class ids, (height, width).
        size: new height and width, pixels.
    """
    return np.array(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
