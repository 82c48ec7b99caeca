"""Every training's loss: targets, per-sample losses and weights."""

from collections.abc import Iterable

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from numpy.typing import NDArray
from torch import Tensor

from aerialdreams.data.land_cover import class_pixel_counts
from aerialdreams.errors import UserError


def prediction_target(
    scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """What the UNet is to predict, by the scheduler's `prediction_type`.

    Args:
        scheduler: the noise schedule.
        latents: without noise, (samples, channels, height, width).
        noise: the noise that is added, of the same shape.
        timesteps: (samples,).

    Raises:
        UserError: the prediction type is neither epsilon nor v_prediction.
    """
    match scheduler.config["prediction_type"]:
        case "epsilon":
            return noise
        case "v_prediction":
            velocity: Tensor = scheduler.get_velocity(latents, noise, timesteps)
            return velocity
        case other:
            raise UserError(
                f"the base model's scheduler: prediction_type {other!r} is not supported; it must"
                " be epsilon or v_prediction"
            )


def diffusion_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, shape (samples,)."""
    return ((prediction - target) ** 2).mean((1, 2, 3))


def snr_weights(scheduler: DDPMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Min-SNR weight of each sample in the loss, shape (samples,), on the CPU.

    Hang et al. 2023 (arXiv 2303.09556): min(SNR, gamma) / SNR for noise prediction, and
    min(SNR, gamma) / (SNR + 1) for v-prediction. With gamma 0 all weights are 1.
    """
    if not gamma:
        return torch.ones(len(timesteps))
    snr = compute_snr(scheduler, timesteps)
    velocity = scheduler.config["prediction_type"] == "v_prediction"
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)


def segmentation_loss(logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of a segmenter: the mean over all pixels, weighted by class.

    The mean is taken here and not by `cross_entropy`, whose own has no deterministic form on CUDA.

    Args:
        logits: (batch, classes, height, width).
        masks: class ids from 1, (batch, height, width).
        weights: of each class, (classes,); see `class_weights`.
    """
    targets = masks.long() - 1
    losses = torch.nn.functional.cross_entropy(logits, targets, weights, reduction="none")
    return losses.sum() / weights[targets].sum()


def class_weights(masks: Iterable[NDArray[np.uint8]]) -> Tensor:
    """Weight of each class in a segmenter's loss: the inverse square root of its frequency.

    Without it rare classes are never predicted. The mean over all pixels is 1; a class that occurs
    in no mask has weight 0.

    Args:
        masks: class ids from 1.

    Returns:
        Shape (classes,).
    """
    pixels = np.sum([class_pixel_counts(mask) for mask in masks], axis=0)
    shares = torch.from_numpy(pixels / pixels.sum())
    roots = torch.where(shares > 0, shares.rsqrt(), 0.0)
    return (roots / (roots * shares).sum()).float()
