"""Training of the tiny Stable Diffusion's UNet and text encoder, on a CPU in minutes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModel

from aerialdreams.models.linear_autoencoder import LinearAutoencoder
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.training.batches import (
    batch_indices,
    crop_windows,
    draw_crops,
    draw_noise,
    drop_captions,
)
from aerialdreams.training.checkpoint import Checkpoint, StopSignal
from aerialdreams.training.loss_curves import LossCurve
from aerialdreams.training.losses import diffusion_loss, prediction_target
from aerialdreams.training.schedule import learning_rate_at, set_learning_rate
from aerialdreams.util.progress import progress

WARMUP_STEPS = 50
MAX_GRADIENT_NORM = 1.0
ENCODE_BATCH = 16


@dataclass(frozen=True)
class UNetSettings:
    """How the tiny UNet and its text encoder are trained; see params.yaml."""

    channels: list[int]
    prediction: Literal["epsilon", "v_prediction"]
    caption_dropout: float
    steps: int
    batch_size: int
    learning_rate: float
    crop: int = 0  # of the latents; 0 for whole images


@torch.no_grad()
def encode_images(autoencoder: LinearAutoencoder, images: NDArray[np.uint8]) -> Tensor:
    """The scaled latents of images, (images, channels, h, w), on the CPU.

    Args:
        autoencoder: the encoder.
        images: uint8, (images, size, size, bands).
    """
    device = next(autoencoder.parameters()).device
    latents = [
        autoencoder.encode(images_to_tensor(images[i : i + ENCODE_BATCH]).to(device))
        for i in range(0, len(images), ENCODE_BATCH)
    ]
    means = torch.cat([output.latent_dist.mean.cpu() for output in latents])
    return means * float(autoencoder.config["scaling_factor"])


def train_unet(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    scheduler: DDPMScheduler,
    latents: Tensor,
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
        latents: of the images; see `encode_images`.
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
    steps, num_timesteps = settings.steps, scheduler.config["num_train_timesteps"]
    start = checkpoint.restore()
    with StopSignal() as stop:
        for step in progress(range(start, steps), "UNet", "steps", steps, start):
            rows = batch_indices(seed, step, settings.batch_size, len(latents))
            clean = latents[rows]
            if crop := settings.crop:
                corners = draw_crops(seed, step, len(rows), clean.shape[-1], crop)
                clean = crop_windows(clean, corners, crop)
            noise, timesteps = draw_noise(seed, step, tuple(clean.shape), num_timesteps)
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
