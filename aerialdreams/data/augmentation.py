"""Augmentation: orientations of images and masks; colours, blur and noise of images."""

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerialdreams.util.seeding import seeded_generator

Value = TypeVar("Value", np.uint8, np.bool_)

ORIENTATIONS = 8  # of a square: four rotations, each also mirrored


def draw_orientations(seed: int, step: int, batch_size: int) -> list[int]:
    """A random orientation, 0 to 7, for each sample of a training step; see `orient`."""
    generator = seeded_generator(seed, "turns", step)
    return torch.randint(ORIENTATIONS, (batch_size,), generator=generator).tolist()


def orient(image: NDArray[Value], orientation: int) -> NDArray[Value]:
    """Rotate and mirror a square image or mask.

    Args:
        image: shape (size, size, ...).
        orientation: 0 to 3 are so many quarter turns to the left; 4 to 7 are the same, then
            mirrored left to right. An image and its mask need the same orientation.
    """
    image = np.rot90(image, orientation % 4)
    return image[:, ::-1] if orientation >= 4 else image


def jitter_colours(images: Tensor, seed: int, step: int) -> Tensor:
    """Change contrast and brightness of each band of each image at random.

    It makes a segmenter robust to cameras' colours.

    Args:
        images: -1 to 1, (batch, bands, height, width).
        seed: of the training.
        step: number of the training step.

    Returns:
        The same shape, with contrast multiplied by 0.85 to 1.15 and brightness shifted by up to
        0.1; not clipped.
    """
    generator = seeded_generator(seed, "tint", step)
    shape = (*images.shape[:2], 1, 1)
    gain = 1 + 0.3 * (torch.rand(shape, generator=generator) - 0.5)
    shift = 0.2 * (torch.rand(shape, generator=generator) - 0.5)
    return images * gain + shift


def blur_and_add_noise(images: Tensor, seed: int, step: int) -> Tensor:
    """Blur each image and add noise, both by random amounts.

    It makes a segmenter robust to the sharpness and the grain of images. Three of eight images are
    not blurred.

    Args:
        images: -1 to 1, (batch, bands, height, width).
        seed: of the training.
        step: number of the training step.

    Returns:
        The same shape, with Gaussian noise of standard deviation 0 to 0.15; not clipped.
    """
    generator = seeded_generator(seed, "wear", step)
    blurred = images
    for _ in range(2):
        padded = torch.nn.functional.pad(blurred, (1, 1, 1, 1), mode="replicate")
        blurred = torch.nn.functional.avg_pool2d(padded, 3, 1)
    amount = (1.6 * torch.rand(len(images), 1, 1, 1, generator=generator) - 0.6).clamp(min=0)
    std = 0.15 * torch.rand(len(images), 1, 1, 1, generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    return images + amount * (blurred - images) + std * noise
