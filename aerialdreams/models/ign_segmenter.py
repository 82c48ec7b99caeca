"""IGN's published segmenter for FLAIR, reimplemented without its original libraries.

`IGNF/FLAIR-INC_rgb_15cl_resnet34-unet` is a U-Net of segmentation_models.pytorch (MIT licence) on
a ResNet-34 (He et al. 2015, arXiv 1512.03385). That library needs torchvision. Modules
have the same names here, so that the published weights load.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aerialdreams.data.flair import CLASS_NAMES
from aerialdreams.errors import UserError

# Of RGB in 0..255, from the model card.
MEAN = (105.08, 110.87, 101.82)


DEVIATION = (52.17, 45.38, 44.00)


WEIGHTS_FILE = "FLAIR-INC_rgb_15cl_resnet34-unet_weights.pth"  # of IGN's repository


PREFIX = "model.seg_model."  # of weight names in IGN's checkpoint


LEVELS = ((64, 3), (128, 4), (256, 6), (512, 3))  # of a ResNet-34: channels, blocks


DECODER = (256, 128, 64, 32, 16)  # channels of segmentation_models.pytorch's U-Net


class _Residual(nn.Module):
    """A ResNet's basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.downsample(x))


class _Encoder(nn.Module):
    """ResNet-34 up to its last level."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for number, (channels, blocks) in enumerate(LEVELS, 1):
            parts = [_Residual(inputs, channels, 1 if number == 1 else 2)]
            parts += [_Residual(channels, channels, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*parts))
            inputs = channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps at 1/2 to 1/32 of the resolution."""
        levels = [torch.relu(self.bn1(self.conv1(x)))]
        x = nn.functional.max_pool2d(levels[0], 3, 2, 1)
        for number in range(1, len(LEVELS) + 1):
            x = getattr(self, f"layer{number}")(x)
            levels.append(x)
        return levels


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class _Up(nn.Module):
    """A decoder level: doubles the resolution and concatenates the encoder's level."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs + skip, outputs)
        self.conv2 = _convolution(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        x = self.conv1(x if skip is None else torch.cat([x, skip], 1))
        up: Tensor = self.conv2(x)
        return up


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        inputs, skips = (512, *DECODER[:-1]), (256, 128, 64, 64, 0)
        self.blocks = nn.ModuleList(
            _Up(*sizes) for sizes in zip(inputs, skips, DECODER, strict=True)
        )

    def forward(self, levels: list[Tensor]) -> Tensor:
        x, skips = levels[-1], [*levels[-2::-1], None]
        for block, skip in zip(self.blocks, skips, strict=True):
            x = block(x, skip)
        return x


class IgnSegmenter(nn.Module):
    """IGN's U-Net, with the interface of `Segmenter`."""

    bands = 3

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder()
        self.decoder = _Decoder()
        self.segmentation_head = nn.Sequential(
            nn.Conv2d(DECODER[-1], len(CLASS_NAMES), 3, padding=1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classes.

        Args:
            images: RGB in -1..1, shape (batch, 3, height, width), sides divisible by 32.

        Returns:
            Shape (batch, 19, height, width); channel = class id - 1. It was not
            trained on classes 15, 16, 17 and 19 and never predicts them.
        """
        logits: Tensor = self.segmentation_head(self.decoder(self.encoder(_normalised(images))))
        return logits

    @property
    def num_classes(self) -> int:
        """Classes of FLAIR's table."""
        return len(CLASS_NAMES)

    def features(self, images: Tensor) -> Tensor:
        """Features of images: the means of the deepest level, shape (batch, 512)."""
        deepest: Tensor = self.encoder(_normalised(images))[-1]
        return deepest.mean((2, 3))

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors into an existing folder."""
        config = json.dumps({"kind": "ign", "classes": len(CLASS_NAMES)}, indent=2)
        (folder / "config.json").write_text(config + "\n")
        save_file(self.state_dict(), folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> "IgnSegmenter":
        """Load what `save` wrote."""
        model = cls()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()

    @classmethod
    def from_checkpoint(cls, path: Path) -> "IgnSegmenter":
        """Load IGN's published file.

        Raises:
            UserError: the file is damaged or holds other weights.
        """
        model = cls()
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            saved = saved.get("state_dict", saved)
            weights = {k.removeprefix(PREFIX): v for k, v in saved.items() if k.startswith(PREFIX)}
            model.load_state_dict(weights)
        except Exception as error:  # of pickle, zipfile or torch, or wrong types: a wrong file
            message = str(error).strip().splitlines()[0]
            raise UserError(f"{path}: not the weights of IGN's segmenter ({message})") from None
        return model.eval()


def _normalised(images: Tensor) -> Tensor:
    mean, deviation = (
        torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, DEVIATION)
    )
    return ((images + 1) * 127.5 - mean) / deviation
