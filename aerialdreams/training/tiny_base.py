"""Training of the tiny Stable Diffusion, from scratch, on a CPU in minutes.

First the VAE learns to encode and decode images, then text encoder and UNet learn together to
denoise latents.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModel

from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.training.batches import batch_indices, draw_noise, draw_vae_noise, drop_captions
from aerialdreams.training.checkpoint import Checkpoint, StopSignal
from aerialdreams.training.loss_curves import LossCurve
from aerialdreams.training.losses import diffusion_loss, prediction_target, vae_loss
from aerialdreams.training.schedule import learning_rate_at, set_learning_rate
from aerialdreams.util.progress import progress
from aerialdreams.util.seeding import seeded_generator

WARMUP_STEPS = 50
MAX_GRADIENT_NORM = 1.0
ENCODE_BATCH = 16


@dataclass(frozen=True)
class VaeSettings:
    """How the tiny VAE is trained; params.yaml has the meaning of each value."""

    channels: list[int]
    latent_channels: int
    crop: int
    kl_weight: float
    latent_std: float
    steps: int
    batch_size: int
    full_image_steps: int
    learning_rate: float


@dataclass(frozen=True)
class UNetSettings:
    """How the tiny UNet and its text encoder are trained; see params.yaml."""

    channels: list[int]
    prediction: Literal["epsilon", "v_prediction"]
    caption_dropout: float
    steps: int
    batch_size: int
    learning_rate: float


def train_vae(
    vae: AutoencoderKL,
    images: NDArray[np.uint8],
    settings: VaeSettings,
    seed: int,
    checkpoint: Checkpoint,
    checkpoint_every: int,
) -> LossCurve:
    """Train a VAE to encode and decode images, or resume, and set its scaling factor.

    Most steps use many small crops, for speed. The last use whole images, one a step: group
    normalisation sees other means and contrasts there, and colours would be shifted otherwise.

    Args:
        vae: with random weights; trained in place and frozen.
        images: RGB, uint8, (images, size, size, 3).
        settings: see params.yaml.
        seed: of crops and noise.
        checkpoint: its parts are set here.
        checkpoint_every: steps between checkpoints.

    Raises:
        KeyboardInterrupt: SIGTERM or SIGINT came; the current step is finished and saved.
        WorkError: the loss is not finite, or a checkpoint cannot be written.
    """
    device = next(vae.parameters()).device
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=0, fused=True)
    losses = LossCurve("VAE")
    checkpoint.parts = {"vae": vae, "optimizer": optimizer, "losses": losses}
    steps = settings.steps + settings.full_image_steps
    start = checkpoint.restore()
    with StopSignal() as stop:
        for step in progress(range(start, steps), "VAE", "steps", steps, start):
            batch = images_to_tensor(draw_crops(images, settings, seed, step)).to(device)
            posterior = vae.encode(batch).latent_dist
            noise = torch.randn(
                posterior.mean.shape, generator=seeded_generator(seed, "vae", step)
            ).to(device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
            kl = posterior.kl().mean() / posterior.mean[0].numel()
            loss = vae_loss(decoded, batch, kl, settings.kl_weight)

            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), MAX_GRADIENT_NORM)
            set_learning_rate(
                optimizer, learning_rate_at(step, steps, settings.learning_rate, WARMUP_STEPS)
            )
            optimizer.step()
            losses.add(loss)

            done, stopping = step + 1, stop.received
            if stopping or done % checkpoint_every == 0 or done == steps:
                losses.check()
                checkpoint.save(done)
            if stopping:
                checkpoint.wait()
                raise KeyboardInterrupt
    checkpoint.wait()
    vae.requires_grad_(False).eval()
    # The larger the latents are beside the noise, whose deviation is 1, the more of the training
    # goes into layout and the less into grain (input scaling of Chen 2023, arXiv 2301.10972).
    factor = settings.latent_std / float(encode_images(vae, images)[0].std())
    vae.register_to_config(scaling_factor=round(factor, 4))
    return losses


def draw_crops(
    images: NDArray[np.uint8], settings: VaeSettings, seed: int, step: int
) -> NDArray[np.uint8]:
    """The images of one step, uint8: random square crops, or one whole image in the last steps."""
    if step >= settings.steps:
        return images[batch_indices(seed, step, 1, len(images))]
    size, crop = images.shape[1], settings.crop
    corners = torch.randint(
        size - crop + 1, (settings.batch_size, 2), generator=seeded_generator(seed, "crops", step)
    ).tolist()
    indices = batch_indices(seed, step, settings.batch_size, len(images))
    return np.stack(
        [
            images[index, y : y + crop, x : x + crop]
            for index, (y, x) in zip(indices, corners, strict=True)
        ]
    )


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Mean and std of the posteriors of images, unscaled, on the CPU.

    Args:
        vae: the encoder.
        images: RGB, uint8, (images, size, size, 3).

    Returns:
        Each (images, channels, h, w).
    """
    device = next(vae.parameters()).device
    posteriors = [
        vae.encode(images_to_tensor(images[i : i + ENCODE_BATCH]).to(device)).latent_dist
        for i in range(0, len(images), ENCODE_BATCH)
    ]
    return (
        torch.cat([posterior.mean.cpu() for posterior in posteriors]),
        torch.cat([posterior.std.cpu() for posterior in posteriors]),
    )


def train_unet(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    scheduler: DDPMScheduler,
    latents: tuple[Tensor, Tensor],
    scaling_factor: float,
    tokens: Tensor,
    settings: UNetSettings,
    seed: int,
    checkpoint: Checkpoint,
    checkpoint_every: int,
) -> LossCurve:
    """Train a UNet and its text encoder to denoise latents given captions, or resume.

    Args:
        unet: with random weights; trained in place.
        text_encoder: likewise.
        scheduler: the noise schedule.
        latents: mean and std of the images' posteriors; see `encode_images`.
        scaling_factor: the VAE's.
        tokens: token ids of the captions, and of the empty caption in the last row.
        settings: see params.yaml.
        seed: of samples, noise and caption dropout.
        checkpoint: its parts are set here.
        checkpoint_every: steps between checkpoints.

    Raises:
        KeyboardInterrupt: SIGTERM or SIGINT came; the current step is finished and saved.
        WorkError: the loss is not finite, or a checkpoint cannot be written.
    """
    device = next(unet.parameters()).device
    weights = [*text_encoder.parameters(), *unet.parameters()]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.01, fused=True)
    losses = LossCurve("UNet")
    checkpoint.parts = {
        "text_encoder": text_encoder,
        "unet": unet,
        "optimizer": optimizer,
        "losses": losses,
    }
    steps, mean, std = settings.steps, *latents
    num_timesteps = scheduler.config["num_train_timesteps"]
    start = checkpoint.restore()
    with StopSignal() as stop:
        for step in progress(range(start, steps), "UNet", "steps", steps, start):
            rows = batch_indices(seed, step, settings.batch_size, len(mean))
            shape = tuple(mean[rows].shape)
            clean = mean[rows] + std[rows] * draw_vae_noise(seed, step, shape)
            clean = clean * scaling_factor
            noise, timesteps = draw_noise(seed, step, shape, num_timesteps)
            target = prediction_target(scheduler, clean, noise, timesteps).to(device)
            noisy = scheduler.add_noise(clean, noise, timesteps).to(device)
            captions = drop_captions(rows, settings.caption_dropout, seed, step)
            text = text_encoder(tokens[captions].to(device)).last_hidden_state
            prediction = unet(noisy, timesteps.to(device), text).sample
            loss = diffusion_loss(prediction, target).mean()

            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, MAX_GRADIENT_NORM)
            set_learning_rate(
                optimizer, learning_rate_at(step, steps, settings.learning_rate, WARMUP_STEPS)
            )
            optimizer.step()
            losses.add(loss)

            done, stopping = step + 1, stop.received
            if stopping or done % checkpoint_every == 0 or done == steps:
                losses.check()
                checkpoint.save(done)
            if stopping:
                checkpoint.wait()
                raise KeyboardInterrupt
    checkpoint.wait()
    return losses
