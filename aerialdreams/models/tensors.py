"""Images as the tensors that networks take."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def images_to_tensor(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Images as a float tensor.

    Args:
        images: RGB in 0..255, uint8, shape (batch, height, width, 3).

    Returns:
        -1..1, float32, shape (batch, 3, height, width).
    """
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1
