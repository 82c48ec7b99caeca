"""How a land-cover mask becomes the conditioning image of a ControlNet."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from aerialdreams.data.land_cover import (
    IGNORED,
    LandCoverClass,
    class_ids,
    class_positions,
    palette,
    with_ids,
)

Encoding = Literal["one_hot", "colours"]


@dataclass(frozen=True)
class MaskConditioning:
    """Turns masks of class ids into a ControlNet's conditioning image.

    It is saved with every ControlNet that the pipeline trains (see `models.model_info`), so that
    whoever loads the model encodes masks as in training.

    Attributes:
        encoding: `one_hot`, one channel per class, 0 or 1; or `colours`, the class table's RGB
            colours, 0..1, which is what diffusers' pipelines make of a picture. Pixels without a
            class are 0 in all channels.
        classes: the class table.
    """

    encoding: Encoding
    classes: tuple[LandCoverClass, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(with_ids(self.classes)))

    @property
    def channels(self) -> int:
        """Channels of the conditioning image: ControlNetModel's `conditioning_channels`."""
        return len(self.classes) if self.encoding == "one_hot" else 3

    def __call__(self, masks: Tensor) -> Tensor:
        """Encode masks.

        Args:
            masks: class ids or IGNORED, uint8, shape (batch, height, width).

        Returns:
            Float32, shape (batch, channels, height, width), on the masks' device. With `one_hot`
            channels are in the class table's order.
        """
        if self.encoding == "one_hot":
            count = len(self.classes)
            positions = torch.from_numpy(class_positions(class_ids(self.classes))).to(masks.device)
            channels = positions[masks.long()].long()
            channels[channels == IGNORED] = count  # a plane that is dropped
            planes = torch.nn.functional.one_hot(channels, count + 1)[..., :count]
            return planes.permute(0, 3, 1, 2).float()
        table = torch.frombuffer(bytearray(palette(self.classes)), dtype=torch.uint8)
        colours = table.reshape(256, 3).to(masks.device)[masks.long()] / 255
        return colours.permute(0, 3, 1, 2).contiguous()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_dict` reads them."""
        table = [land_cover.model_dump(mode="json") for land_cover in self.classes]
        return {"encoding": self.encoding, "classes": table}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MaskConditioning":
        """Read what `to_dict` gives.

        Raises:
            ValueError: the encoding is unknown or a class is malformed.
            KeyError: a value is missing.
        """
        if values["encoding"] not in ("one_hot", "colours"):
            raise ValueError(f"unknown mask encoding {values['encoding']!r}")
        classes = tuple(LandCoverClass.model_validate(row) for row in values["classes"])
        return cls(values["encoding"], classes)
