"""Losses, targets and weightings."""

from collections.abc import Iterable

import numpy as np
import torch
from diffusers import (
    DDPMScheduler,
)
from diffusers.training_utils import compute_snr
from numpy.typing import NDArray
from torch import Tensor

from aerialdreams.data.images import images_to_tensor
from aerialdreams.data.land_cover import LandCoverClass, class_pixel_counts
from aerialdreams.errors import UserError
from aerialdreams.models.conditioning import condition_of
from aerialdreams.models.stable_diffusion import StableDiffusion, encode_tokens
from aerialdreams.paths import BASE


def class_weights(masks: Iterable[NDArray[np.uint8]]) -> Tensor:
    """Weight of each class in the loss, (19,): the root of its rarity, or rare ones go unnamed.

    The mean over all pixels is 1; a class that no mask has weighs nothing.
    """
    pixels = np.sum([class_pixel_counts(mask) for mask in masks], axis=0)
    shares = torch.from_numpy(pixels / pixels.sum())
    roots = torch.where(shares > 0, shares.rsqrt(), 0.0)
    return (roots / (roots * shares).sum()).float()


def per_sample_loss(
    model: torch.nn.Module,
    base: StableDiffusion,
    batch: dict[str, Tensor],
    planes: int,
    classes: list[LandCoverClass],
) -> Tensor:
    """The mean squared error of each sample, shape (samples,).

    Args:
        model: a `Student`, or what shares it.
        base: codes pictures and captions where the batch has no codes.
        batch: see latents.Steps.
        planes: the ControlNet's `conditioning_channels`.
        classes: the class table.
    """
    here = {name: tensor.to(base.unet.device, non_blocking=True) for name, tensor in batch.items()}
    if "image" in here:
        with torch.no_grad():
            code = base.vae.encode(images_to_tensor(here["image"])).latent_dist
        here |= {"mean": code.mean, "std": code.std}
        here["text"] = encode_tokens(base, here["tokens"])
    clean = here["mean"].float() + here["std"].float() * here["epsilon"]
    clean = clean * base.vae.config["scaling_factor"]
    noise, times = here["noise"], here["times"]
    target = prediction_target(base.scheduler, clean, noise, times)
    noisy = base.scheduler.add_noise(clean, noise, times)
    condition = condition_of(here["mask"], planes, classes)
    predicted = model(noisy, times, here["text"].float(), condition)
    return ((predicted - target) ** 2).mean((1, 2, 3))


def snr_weights(base: StableDiffusion, times: Tensor, gamma: float) -> Tensor:
    """What each sample's error weighs in the loss, shape (samples,), on the CPU.

    Min-SNR (Hang et al. 2023, arXiv 2303.09556): min(SNR, gamma) / SNR for a network that predicts
    noise, / (SNR + 1) for one that predicts velocity; 1 where gamma is 0.
    """
    if not gamma:
        return torch.ones(len(times))
    snr = compute_snr(base.scheduler, times)
    velocity = base.scheduler.config["prediction_type"] == "v_prediction"
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)


def prediction_target(
    scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, times: Tensor
) -> Tensor:
    """What the network is to predict, by the scheduler's prediction type.

    Raises:
        UserError: the type is neither epsilon nor v_prediction.
    """
    match scheduler.config["prediction_type"]:
        case "epsilon":
            return noise
        case "v_prediction":
            velocity: Tensor = scheduler.get_velocity(latents, noise, times)
            return velocity
        case other:
            raise UserError(f"{BASE}/scheduler: prediction_type {other!r} is not known")
