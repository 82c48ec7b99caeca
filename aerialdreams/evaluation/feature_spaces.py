"""Feature spaces in which image sets are compared: the segmenter's and the FID Inception's."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aerialdreams.models.segmenter import load_segmenter
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.util.download import local_or_downloaded

Images = NDArray[np.uint8]  # RGB, (batch, height, width, 3)


class SegmenterFeatures:
    """Feature space of the segmenter in models/segmenter, which also predicts land cover.

    Args:
        device: where to run it.

    Raises:
        UserError: the segmenter is missing or damaged.
    """

    def __init__(self, device: torch.device) -> None:
        self.model = load_segmenter().to(device)
        self.device = device

    def __call__(self, images: Images) -> torch.Tensor:
        """Features of RGB images, (batch, dimensions)."""
        return self.model.features(images_to_tensor(images).to(self.device))

    def predict(self, images: Images) -> NDArray[np.uint8]:
        """Class ids of RGB images, (batch, height, width), from 1."""
        ids = self.model(images_to_tensor(images).to(self.device)).argmax(1) + 1
        return ids.cpu().numpy().astype(np.uint8)


class InceptionFeatures:
    """Feature space of the FID Inception of 2015, a TorchScript file.

    The network itself resizes images to 299 pixels, bilinearly.

    Args:
        path: the file.
        device: where to run it.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.model = torch.jit.load(path, map_location=device).eval()
        self.device = device

    def __call__(self, images: Images) -> torch.Tensor:
        """Features of RGB images, (batch, 2048)."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        features: torch.Tensor = self.model(pixels, return_features=True)
        return features


def load_inception(
    weights: str, sha256: str, downloads: Path, device: torch.device
) -> InceptionFeatures | None:
    """Load the FID Inception, from a file or a URL.

    Its hash is checked because other weights, even random ones, give plausible numbers.

    Args:
        weights: path or URL of the file; "" for none.
        sha256: hash of the file, hexadecimal.
        downloads: folder that keeps a downloaded file.
        device: where to run the network.

    Returns:
        The network, or None if `weights` is "".

    Raises:
        UserError: the file is missing or its hash differs.
        WorkError: the download failed.
    """
    if not weights:
        return None
    path = local_or_downloaded(weights, downloads, sha256)
    return InceptionFeatures(path, device)
