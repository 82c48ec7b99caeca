"""Segmenters: U-Nets that predict land cover from an image. One is the judge of an evaluation."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aerialdreams.errors import UserError
from aerialdreams.models.ign_segmenter import IgnSegmenter
from aerialdreams.paths import SEGMENTER


class Segmenter(nn.Module):
    """A U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with batch normalisation.

    Batch normalisation, unlike group or instance normalisation, keeps colours comparable between
    images.

    Args:
        channels: width of each level; each level has half the resolution of the one above.
        num_classes: classes of the land-cover table.
        bands: of the images.
    """

    def __init__(self, channels: list[int], num_classes: int, bands: int = 3) -> None:
        super().__init__()
        self.channels, self.num_classes, self.bands = list(channels), num_classes, bands
        pairs = list(zip([bands, *channels], channels, strict=False))
        self.down = nn.ModuleList(_block(inputs, outputs) for inputs, outputs in pairs)
        self.up = nn.ModuleList(
            _block(below + here, here)
            for below, here in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classes.

        Args:
            images: -1..1, shape (batch, bands, height, width), sides divisible by
                2 ** (levels - 1).

        Returns:
            Shape (batch, classes, height, width); channel = class id - 1.
        """
        *skips, x = self._levels(images)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, skip], 1))
        logits: Tensor = self.head(x)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Features of images: the means of the deepest level, shape (batch, channels[-1])."""
        return self._levels(images)[-1].mean((2, 3))

    def _levels(self, images: Tensor) -> list[Tensor]:
        """Outputs of the encoder's levels, from full to lowest resolution."""
        levels, x = [], images
        for number, block in enumerate(self.down):
            x = block(nn.functional.avg_pool2d(x, 2) if number else x)
            levels.append(x)
        return levels

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors into an existing folder."""
        config = {"channels": self.channels, "classes": self.num_classes}
        if self.bands != 3:
            config["bands"] = self.bands
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(self.state_dict(), folder / "model.safetensors")


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, each with batch normalisation and SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


def load_segmenter(folder: Path = SEGMENTER) -> Segmenter | IgnSegmenter:
    """Load a segmenter that was saved, in evaluation mode.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        if config.get("kind") == "ign":
            return IgnSegmenter.load(folder)
        model = Segmenter(config["channels"], config["classes"], config.get("bands", 3))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{folder}: no segmenter ({message}); `dvc checkout` it") from None
    return model.eval()
