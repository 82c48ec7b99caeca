"""An autoencoder that maps each block of pixels to a vector and back, by a matrix each.

A small network may refine the decoded image.

diffusers' pipelines load it by the name of this module, which model_index.json has. They do so only
if it was imported before.
"""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import (
    AutoencoderMixin,
    DecoderOutput,
    DiagonalGaussianDistribution,
)
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu


class Refinement(torch.nn.Module):
    """Adds a correction to images, a function of the 40 x 40 pixels around each pixel.

    A small U-Net without the full resolution: it works at half and at a quarter of it, where a
    pixel's neighbours are channels. Before training it changes nothing.

    Args:
        channels: of its layers at a quarter of the resolution; a third of them at half of it.
        bands: of the images.
    """

    def __init__(self, channels: int, bands: int = 3) -> None:
        super().__init__()
        narrow = channels // 3
        self.first = torch.nn.Conv2d(4 * bands, narrow, 3, padding=1)
        self.down = torch.nn.Conv2d(4 * narrow, channels, 1)
        self.middle = torch.nn.ModuleList(
            torch.nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)
        )
        self.up = torch.nn.Conv2d(channels, 4 * narrow, 1)
        self.next = torch.nn.Conv2d(narrow, narrow, 3, padding=1)
        self.last = torch.nn.Conv2d(narrow, 4 * bands, 3, padding=1)
        torch.nn.init.zeros_(self.last.weight)
        torch.nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """The refined images, of the same shape, (batch, bands, height, width).

        Args:
            images: height and width are multiples of 4.
        """
        half = self.first(pixel_unshuffle(images, 2))
        quarter = self.down(pixel_unshuffle(silu(half), 2))
        for layer in self.middle:
            quarter = quarter + layer(silu(quarter))
        half = half + pixel_shuffle(self.up(silu(quarter)), 2)
        half = half + self.next(silu(half))
        return images + pixel_shuffle(self.last(silu(half)), 2)


class LinearAutoencoder(ModelMixin, AutoencoderMixin, ConfigMixin):
    """A linear encoder and decoder of non-overlapping blocks, with the interface of AutoencoderKL.

    AutoencoderKL cannot hold such a map: its group norms subtract means of the whole image, and its
    decoder upsamples by nearest neighbour.

    Args:
        latent_channels: components of a block.
        block_out_channels: values per position after each halving of the image, which are 3, 12, 48
            for blocks of 4 x 4 pixels of three bands. Pipelines of diffusers take the size of a
            block from it.
        scaling_factor: from latents as encoded to latents as the UNet sees them.
        refinement_channels: width of the network that refines decoded images; 0 for none.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        block_out_channels: tuple[int, ...] = (3, 12, 48),
        scaling_factor: float = 1.0,
        refinement_channels: int = 0,
    ) -> None:
        super().__init__()
        block = 2 ** (len(block_out_channels) - 1)
        bands = block_out_channels[0]
        self.encoder = torch.nn.Conv2d(bands, latent_channels, block, stride=block)
        self.decoder = torch.nn.ConvTranspose2d(latent_channels, bands, block, stride=block)
        self.refinement = Refinement(refinement_channels, bands) if refinement_channels else None
        self.use_slicing = False  # `enable_slicing` sets it; a matrix needs no slices

    def encode(self, images: Tensor) -> AutoencoderKLOutput:
        """The latents of images, as a distribution without variance.

        Args:
            images: -1..1, (batch, bands, height, width).
        """
        latents = self.encoder(images)
        moments = torch.cat([latents, torch.zeros_like(latents)], 1)
        return AutoencoderKLOutput(DiagonalGaussianDistribution(moments, deterministic=True))

    def decode(
        self, latents: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> Any:
        """The images of latents, (batch, bands, height, width); `DecoderOutput` or a tuple.

        Args:
            latents: (batch, channels, h, w), unscaled.
            return_dict: whether to return diffusers' `DecoderOutput`.
            generator: not used; diffusers' pipelines pass it.
        """
        images = self.decoder(latents)
        if self.refinement:
            images = self.refinement(images)
        return DecoderOutput(sample=images) if return_dict else (images,)
