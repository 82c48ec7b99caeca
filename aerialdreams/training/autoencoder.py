"""Adaptation of a base model's autoencoder to a dataset: its decoder, and the loss."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from aerialdreams.models.families import BaseModel
from aerialdreams.models.linear_autoencoder import LinearAutoencoder
from aerialdreams.models.tensors import images_to_tensor


class AdaptedAutoencoder(torch.nn.Module):
    """An autoencoder whose decoder is trained.

    The encoder stays as it is, so that latents keep their meaning: a UNet that was trained on them
    fits the adapted decoder.

    Args:
        vae: frozen; changed in place.
        first_layer: whether the encoder's first layer is trained, too, which a widened autoencoder
            needs to see its further bands.
    """

    def __init__(self, vae: AutoencoderKL | LinearAutoencoder, first_layer: bool = False) -> None:
        super().__init__()
        self.vae = vae
        for part in decoding_parts(vae):
            part.requires_grad_(True)
        if first_layer:
            vae.encoder.conv_in.requires_grad_(True)

    @property
    def weights(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [weight for weight in self.parameters() if weight.requires_grad]

    def forward(self, images: Tensor, vae_noise: Tensor, latent_noise: Tensor) -> Tensor:
        """Encode and decode images.

        Args:
            images: -1..1, (samples, channels, height, width).
            vae_noise: to sample latents from the posterior, (samples, latent channels, h, w).
            latent_noise: to add to the scaled latents, of the same shape.

        Returns:
            Float32, of the shape of `images`.
        """
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.mean + posterior.std * vae_noise
        latents = latents + latent_noise / self.vae.config["scaling_factor"]
        decoded: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return decoded.float()


def decoding_parts(vae: AutoencoderKL | LinearAutoencoder) -> list[torch.nn.Module]:
    """The networks between an autoencoder's latents and its images."""
    if isinstance(vae, LinearAutoencoder):
        parts = [vae.decoder, vae.refinement]
    else:
        parts = [vae.post_quant_conv, vae.decoder]
    return [part for part in parts if part is not None]


def reconstruction_loss(
    model: torch.nn.Module, base: BaseModel, batch: dict[str, Tensor], largest_noise: float
) -> Tensor:
    """Mean absolute error of each sample's pixels after encoding and decoding, shape (samples,).

    It has no perceptual part, such as LPIPS: that needs another network, to be downloaded.
    stabilityai/sd-vae-ft-mse is the precedent of a decoder that was trained alone, with squared
    error and a tenth of LPIPS. Errors of pixels alone leave fine texture a little smoother.

    Args:
        model: an `AdaptedAutoencoder`, or a wrapper around one.
        base: gives the number of timesteps and the device.
        batch: see `latents.TrainingBatches`, with images.
        largest_noise: largest standard deviation of noise in the scaled latents, because those of
            a diffusion model keep some.
    """
    device = base.vae.device
    images = images_to_tensor(batch["image"].to(device, non_blocking=True))
    std = largest_noise * batch["timesteps"] / base.num_train_timesteps  # uniform
    latent_noise = std[:, None, None, None] * batch["noise"]
    decoded = model(images, batch["vae_noise"].to(device), latent_noise.to(device))
    return (decoded - images).abs().mean((1, 2, 3))
