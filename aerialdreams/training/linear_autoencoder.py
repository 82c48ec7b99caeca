"""The tiny base's autoencoder, in closed form: principal components of blocks of pixels."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerialdreams.models.linear_autoencoder import LinearAutoencoder
from aerialdreams.models.tensors import images_to_tensor

FIT_BATCH = 16  # images
SMALLEST_DEVIATION = 1e-3  # of a component; an eighth of a grey level


@dataclass(frozen=True)
class AutoencoderSettings:
    """The tiny base's autoencoder; params.yaml has the meaning of each value."""

    block: int
    channels: int
    whitening: float
    latent_std: float


@torch.no_grad()
def fit_autoencoder(images: NDArray[np.uint8], settings: AutoencoderSettings) -> LinearAutoencoder:
    """The linear autoencoder with the least squared error on some images (Eckart and Young 1936).

    Its latents are principal components, each divided by a power of its deviation. A diffusion
    model leaves about the same noise in all channels of the latents; without the division, the
    weak components, which are the fine detail, would be lost in it.

    Args:
        images: RGB, (images, size, size, 3).
        settings: see params.yaml.

    Returns:
        The autoencoder, frozen. Its unscaled latents have deviation 1, over all channels.
    """
    colour, covariance = block_statistics(images, settings.block)
    variances, vectors = torch.linalg.eigh(covariance)  # ascending; a column is an eigenvector
    deviations = variances.flip(0)[: settings.channels].clamp(min=SMALLEST_DEVIATION**2).sqrt()
    vectors = vectors.flip(1)[:, : settings.channels].T
    # The sign of an eigenvector is arbitrary: its largest entry is made positive.
    vectors = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    scales = deviations**settings.whitening
    scales = scales * (deviations / scales).square().mean().sqrt()

    halvings = settings.block.bit_length() - 1
    autoencoder = LinearAutoencoder(
        latent_channels=settings.channels,
        block_out_channels=tuple(3 * 4**level for level in range(halvings + 1)),
        scaling_factor=settings.latent_std,
    )
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    encoder.weight.copy_((vectors / scales[:, None]).reshape(encoder.weight.shape))
    encoder.bias.copy_(-encoder.weight.sum((2, 3)) @ colour.float())
    decoder.weight.copy_((vectors * scales[:, None]).reshape(decoder.weight.shape))
    decoder.bias.copy_(colour)
    return autoencoder.requires_grad_(False).eval()


def block_statistics(images: NDArray[np.uint8], block: int) -> tuple[Tensor, Tensor]:
    """Mean colour and covariance of the blocks of some images.

    Args:
        images: RGB, (images, size, size, 3).
        block: height and width of a block, pixels.

    Returns:
        Mean of each colour, -1..1, (3,); covariance about it of a block's values, colour by colour
        and row by row, (3 * block * block, 3 * block * block). Both are float64.
    """
    colour = torch.from_numpy(images.mean((0, 1, 2))) / 127.5 - 1
    products, count = torch.zeros(()), 0
    for first in range(0, len(images), FIT_BATCH):
        batch = images_to_tensor(images[first : first + FIT_BATCH]).double()
        blocks = torch.nn.functional.pixel_unshuffle(batch - colour[:, None, None], block)
        vectors = blocks.movedim(1, -1).flatten(0, 2)
        products, count = products + vectors.T @ vectors, count + len(vectors)
    return colour, products / count
