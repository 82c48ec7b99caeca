"""How a mask becomes a ControlNet's conditioning."""

import torch
from torch import Tensor

from aerialdreams.data.flair import CLASS_COUNT
from aerialdreams.data.land_cover import LandCoverClass, palette


def condition_of(masks: Tensor, planes: int, classes: list[LandCoverClass]) -> Tensor:
    """Masks as a ControlNet takes them.

    Args:
        masks: class ids, uint8, shape (batch, height, width).
        planes: the ControlNet's `conditioning_channels`: 19 for one-hot masks, 3 for colours.
        classes: the class table, for their colours.

    Returns:
        Shape (batch, planes, height, width), on the masks' device: 0 or 1, channel = class id - 1;
        or red, green, blue in 0..1, as diffusers' pipelines make them of a picture.
    """
    if planes == CLASS_COUNT:
        hot = torch.nn.functional.one_hot(masks.long() - 1, CLASS_COUNT)
        return hot.permute(0, 3, 1, 2).float()
    table = torch.frombuffer(bytearray(palette(classes)), dtype=torch.uint8).reshape(256, 3)
    return (table.to(masks.device)[masks.long()] / 255).permute(0, 3, 1, 2).contiguous()
