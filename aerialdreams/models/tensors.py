"""Images, and what part of them is shown, as the tensors that networks take."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def images_to_tensor(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Images as a float tensor.

    Args:
        images: in 0..255, uint8, shape (batch, height, width, bands).

    Returns:
        -1..1, float32, shape (batch, bands, height, width).
    """
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def image_windows(size: int, corners: list[tuple[int, int]], side: int) -> Tensor:
    """Which square window of its image each sample is, as SDXL's `time_ids` say it.

    Args:
        size: height and width of the whole images, pixels.
        corners: top and left of each window, pixels.
        side: height and width of the windows, pixels.

    Returns:
        Int64, (samples, 6): height and width of the image, top and left, height and width of the
        window.
    """
    return torch.tensor([[size, size, top, left, side, side] for top, left in corners])
