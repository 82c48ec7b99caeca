"""The tiny base's autoencoder: principal components of blocks of pixels, and their refinement."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerialdreams.models.linear_autoencoder import LinearAutoencoder
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.training.batches import batch_indices
from aerialdreams.training.schedule import learning_rate_at, set_learning_rate
from aerialdreams.util.progress import progress
from aerialdreams.util.seeding import seeded_generator

FIT_BATCH = 16  # images
REFINEMENT_BATCH, REFINEMENT_LEARNING_RATE, WARMUP_STEPS = 8, 0.003, 20
SMALLEST_DEVIATION = 1e-3  # of a component; an eighth of a grey level


@dataclass(frozen=True)
class AutoencoderSettings:
    """The tiny base's autoencoder; params.yaml has the meaning of each value."""

    block: int
    channels: int
    whitening: float
    latent_std: float
    refinement_channels: int
    refinement_steps: int
    refinement_noise: float


@torch.no_grad()
def fit_autoencoder(
    images: NDArray[np.uint8], settings: AutoencoderSettings, seed: int
) -> LinearAutoencoder:
    """The linear autoencoder with the least squared error on some images (Eckart and Young 1936).

    Its latents are principal components, each divided by a power of its deviation. A diffusion
    model leaves about the same noise in all channels of the latents; without the division, the
    weak components, which are the fine detail, would be lost in it.

    The error counts each further band as much as a colour, see `band_gains`.

    Args:
        images: 0 to 255, (images, size, size, bands).
        settings: see params.yaml.
        seed: of the initial weights of its refinement.

    Returns:
        The autoencoder, frozen. Its unscaled latents have deviation 1, over all channels.
    """
    gains = band_gains(images)
    mean, covariance = block_statistics(images, settings.block, gains)
    variances, vectors = torch.linalg.eigh(covariance)  # ascending; a column is an eigenvector
    deviations = variances.flip(0)[: settings.channels].clamp(min=SMALLEST_DEVIATION**2).sqrt()
    vectors = vectors.flip(1)[:, : settings.channels].T
    # The sign of an eigenvector is arbitrary: its largest entry is made positive.
    vectors = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    scales = deviations**settings.whitening
    scales = scales * (deviations / scales).square().mean().sqrt()

    halvings = settings.block.bit_length() - 1
    torch.manual_seed(seed)
    autoencoder = LinearAutoencoder(
        latent_channels=settings.channels,
        block_out_channels=tuple(images.shape[-1] * 4**level for level in range(halvings + 1)),
        scaling_factor=settings.latent_std,
        refinement_channels=settings.refinement_channels,
    )
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    gains = gains.float()[None, :, None, None]
    encoder.weight.copy_((vectors / scales[:, None]).reshape(encoder.weight.shape) * gains)
    encoder.bias.copy_(-encoder.weight.sum((2, 3)) @ mean.float())
    decoder.weight.copy_((vectors * scales[:, None]).reshape(decoder.weight.shape) / gains)
    decoder.bias.copy_(mean)
    return autoencoder.requires_grad_(False).eval()


def train_refinement(
    autoencoder: LinearAutoencoder,
    images: NDArray[np.uint8],
    settings: AutoencoderSettings,
    seed: int,
) -> None:
    """Train an autoencoder's refinement to decode latents that have some noise.

    A diffusion model's latents keep a little noise, which differs from block to block and shows as
    a pattern of blocks. It takes seconds, so there are no checkpoints.

    Args:
        autoencoder: from `fit_autoencoder`; its refinement is trained in place.
        images: 0 to 255, (images, size, size, bands).
        settings: see params.yaml.
        seed: of images and noise.
    """
    refinement = autoencoder.refinement
    if refinement is None:
        return
    device, steps = next(refinement.parameters()).device, settings.refinement_steps
    refinement.requires_grad_(True)
    gains = band_gains(images).float()[:, None, None].to(device)
    optimizer = torch.optim.AdamW(refinement.parameters(), weight_decay=0, fused=True)
    for step in progress(range(steps), "refinement", "steps", steps):
        batch = images_to_tensor(images[batch_indices(seed, step, REFINEMENT_BATCH, len(images))])
        batch = batch.to(device)
        generator = seeded_generator(seed, "refinement", step)
        with torch.no_grad():
            latents = autoencoder.encoder(batch)
            std = torch.rand(len(batch), 1, 1, 1, generator=generator) * settings.refinement_noise
            noise = std * torch.randn(latents.shape, generator=generator)
            decoded = autoencoder.decoder(latents + noise.to(device) / settings.latent_std)
        loss = ((refinement(decoded) - batch).abs() * gains).mean()
        optimizer.zero_grad()
        loss.backward()
        set_learning_rate(
            optimizer, learning_rate_at(step, steps, REFINEMENT_LEARNING_RATE, WARMUP_STEPS)
        )
        optimizer.step()
    refinement.requires_grad_(False)


def band_gains(images: NDArray[np.uint8]) -> Tensor:
    """What each band is multiplied by where errors are added up: float64, (bands,).

    1 for the colours; a further band is given their mean deviation. Heights vary much less than
    colours do, and would get no components without it.

    Args:
        images: 0 to 255, (images, size, size, bands).
    """
    gains = torch.ones(images.shape[-1], dtype=torch.float64)
    if len(gains) > 3:
        deviations = torch.from_numpy(images.std((0, 1, 2)))
        gains[3:] = deviations[:3].mean() / deviations[3:].clamp(min=1)
    return gains


def block_statistics(images: NDArray[np.uint8], block: int, gains: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of some images, and covariance of their blocks.

    Args:
        images: 0 to 255, (images, size, size, bands).
        block: height and width of a block, pixels.
        gains: what each band's deviations from its mean are multiplied by, (bands,).

    Returns:
        Mean of each band, -1..1, (bands,); covariance about it of a block's values, band by band
        and row by row, (bands * block * block, bands * block * block). Both are float64.
    """
    mean = torch.from_numpy(images.mean((0, 1, 2))) / 127.5 - 1
    products, count = torch.zeros(()), 0
    for first in range(0, len(images), FIT_BATCH):
        batch = images_to_tensor(images[first : first + FIT_BATCH]).double()
        blocks = torch.nn.functional.pixel_unshuffle(
            (batch - mean[:, None, None]) * gains[:, None, None], block
        )
        vectors = blocks.movedim(1, -1).flatten(0, 2)
        products, count = products + vectors.T @ vectors, count + len(vectors)
    return mean, products / count
