"""Augmentation of images and masks."""

import numpy as np
import torch
from numpy.typing import NDArray

from aerialdreams.util.seeding import seeded_generator


def jitter_colours(pictures: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    """Images (batch, 3, h, w) with each channel's contrast and brightness a little changed.

    The judge is to tell a field from a road, not one camera's tone from another's.
    """
    draw = seeded_generator(seed, "tint", step)
    gain = 1 + 0.3 * (torch.rand(len(pictures), 3, 1, 1, generator=draw) - 0.5)
    shift = 0.2 * (torch.rand(len(pictures), 3, 1, 1, generator=draw) - 0.5)
    return pictures * gain + shift


def blur_and_add_noise(pictures: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    """Images (batch, 3, h, w) blurred and roughened, each its own amount, some not at all blurred.

    What covers the ground is asked of the judge, not how sharp or grainy its picture is.
    """
    draw = seeded_generator(seed, "wear", step)
    soft = pictures
    for _ in range(2):
        edged = torch.nn.functional.pad(soft, (1, 1, 1, 1), mode="replicate")
        soft = torch.nn.functional.avg_pool2d(edged, 3, 1)
    blur = (1.6 * torch.rand(len(pictures), 1, 1, 1, generator=draw) - 0.6).clamp(min=0)
    grain = 0.15 * torch.rand(len(pictures), 1, 1, 1, generator=draw)
    noise = torch.randn(pictures.shape, generator=draw)
    return pictures + blur * (soft - pictures) + grain * noise


ORIENTATIONS = 8  # a square's turns and mirrorings


def draw_orientations(seed: int, step: int, batch: int) -> list[int]:
    """How each sample of a step is turned, see `turned`: an aerial image has no up."""
    return torch.randint(
        ORIENTATIONS, (batch,), generator=seeded_generator(seed, "turns", step)
    ).tolist()


def orient(picture: NDArray[np.uint8], way: int) -> NDArray[np.uint8]:
    """A square picture or mask, (size, size, ...), in one of its eight positions.

    Args:
        picture: an image or a mask; both of a patch are turned alike.
        way: 0 leaves it; 1 to 3 are quarter turns to the left; 4 to 7 the same, then mirrored.
    """
    picture = np.rot90(picture, way % 4)
    return picture[:, ::-1] if way >= 4 else picture
