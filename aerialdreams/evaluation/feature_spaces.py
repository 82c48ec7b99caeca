"""Feature spaces in which image sets are compared: the segmenter's and the FID Inception's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aerialdreams.errors import UserError
from aerialdreams.models.segmenter import load_segmenter
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.paths import SEGMENTER
from aerialdreams.util.download import local_or_downloaded

# RGB and any further bands, (batch, height, width, bands). Networks take the first ones.
Images = NDArray[np.uint8]


class SegmenterFeatures:
    """Feature space of a segmenter, which also predicts land cover.

    Args:
        device: where to run it.
        class_ids: of the class table, in its order.
        folder: of the segmenter.

    Raises:
        UserError: the segmenter is missing or damaged, or was trained on another class table.
    """

    def __init__(
        self, device: torch.device, class_ids: Sequence[int], folder: Path = SEGMENTER
    ) -> None:
        self.model = load_segmenter(folder).to(device)
        if self.model.num_classes != len(class_ids):
            raise UserError(
                f"{folder}: predicts {self.model.num_classes} classes, the class table has"
                f" {len(class_ids)}; run `dvc repro`"
            )
        self.device = device
        self.class_ids = np.array(class_ids, np.uint8)

    def __call__(self, images: Images) -> torch.Tensor:
        """Features of images, (batch, dimensions)."""
        return self.model.features(self._tensor(images))

    def predict(self, images: Images) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Class ids of images and their probabilities, (batch, height, width) each."""
        logits = self.model(self._tensor(images)).float()
        probabilities, positions = logits.softmax(1).max(1)
        return self.class_ids[positions.cpu().numpy()], probabilities.cpu().numpy()

    def _tensor(self, images: Images) -> torch.Tensor:
        return images_to_tensor(images[..., : self.model.bands]).to(self.device)


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
        """Features of images, (batch, 2048)."""
        pixels = torch.from_numpy(images[..., :3]).permute(0, 3, 1, 2).to(self.device)
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
