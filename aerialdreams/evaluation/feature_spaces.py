"""What looks at images: the judge, and the Inception that FID is defined by."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aerialdreams.models.segmenter import load_segmenter
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.util.download import local_or_downloaded

Images = NDArray[np.uint8]  # RGB, (batch, height, width, 3)


class Judge:
    """The segmenter as a judge of images."""

    def __init__(self, device: torch.device) -> None:
        self.model = load_segmenter().to(device)
        self.device = device

    def __call__(self, images: Images) -> torch.Tensor:
        """Features (batch, dimensions) of RGB images (batch, height, width, 3)."""
        return self.model.features(images_to_tensor(images).to(self.device))

    def read(self, images: Images) -> NDArray[np.uint8]:
        """Class ids (batch, height, width)."""
        ids = self.model(images_to_tensor(images).to(self.device)).argmax(1) + 1
        return ids.cpu().numpy().astype(np.uint8)


class Inception:
    """The FID Inception of 2015 as TorchScript; its own bilinear resize to 299 pixels."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.model = torch.jit.load(path, map_location=device).eval()
        self.device = device

    def __call__(self, images: Images) -> torch.Tensor:
        """Features (batch, 2048) of RGB images (batch, height, width, 3)."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        features: torch.Tensor = self.model(pixels, return_features=True)
        return features


def load_inception(
    weights: str, sha256: str, downloads: Path, device: torch.device
) -> Inception | None:
    """The FID Inception.

    Args:
        weights: its file or its address; "" for none.
        sha256: of the file.
        downloads: where a downloaded file is kept.
        device: where to load it.

    Returns:
        The network, or None if `weights` is "".

    Raises:
        UserError: the file is missing or has another hash. Other weights, even random ones, give
            numbers that look right.
        WorkError: it cannot be downloaded.
    """
    if not weights:
        return None
    path = local_or_downloaded(weights, downloads, sha256)
    return Inception(path, device)
