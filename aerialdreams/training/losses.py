"""Every training's loss: targets, per-sample losses and weights."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from numpy.typing import NDArray
from torch import Tensor

from aerialdreams.data.land_cover import IGNORED, class_pixel_counts
from aerialdreams.errors import UserError

MAX_WEIGHT = 5.0  # of a class in the diffusion loss, relative to the mean


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


def diffusion_loss(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean squared error of each sample, shape (samples,).

    Args:
        prediction: of the UNet, (samples, channels, height, width).
        target: of the same shape.
        valid: share of each position that counts, (samples, 1, height, width); None counts all.
        weights: of each position, 0 where nothing counts, of the same shape; None weighs all that
            counts alike. Samples are not divided by their weights: one with much of a rare class
            counts more.
    """
    squares = (prediction - target) ** 2
    if valid is None:
        return squares.mean((1, 2, 3))
    total = valid.sum((1, 2, 3)).clamp(min=1) * squares.shape[1]
    return (squares * (valid if weights is None else weights)).sum((1, 2, 3)) / total


def valid_shares(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Share of each latent position's pixels that have a class, (samples, 1, *size), 0 to 1.

    Args:
        masks: class ids, (samples, height, width).
        size: height and width of the latents.
    """
    valid = (masks != IGNORED).float()[:, None]
    return torch.nn.functional.interpolate(valid, size, mode="area")


def balanced_weights(
    percentages: Sequence[float], class_ids: Sequence[int], exponent: float
) -> Tensor:
    """Weight of each class in the diffusion loss: its frequency to the power -exponent.

    Args:
        percentages: of each class in the train split.
        class_ids: of the class table, in its order.
        exponent: 0 weighs all pixels alike, 1 all classes.

    Returns:
        By class id, (256,), with a mean of 1 over the split's pixels; 0 for ids of no class.
        Weights are cut to `MAX_WEIGHT` times that mean, so that a handful of pixels does not decide
        a step; then the mean is set to 1 again.
    """
    shares = torch.tensor(percentages, dtype=torch.float64) / 100
    weights = torch.where(shares > 0, shares.clamp(min=1e-12) ** -exponent, 0.0)
    weights = (weights / (weights * shares).sum()).clamp(max=MAX_WEIGHT)
    table = torch.zeros(256)
    table[list(class_ids)] = (weights / (weights * shares).sum()).float()
    return table


def position_weights(masks: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean weight of each latent position's pixels, (samples, 1, *size).

    Args:
        masks: class ids, (samples, height, width).
        weights: by class id, (256,).
        size: height and width of the latents.
    """
    pixels = weights.to(masks.device)[masks.long()][:, None]
    return torch.nn.functional.interpolate(pixels, size, mode="area")


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


def segmentation_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of a segmenter: the mean over all pixels, weighted by class.

    The mean is taken here and not by `cross_entropy`, whose own has no deterministic form on CUDA.

    Args:
        logits: (batch, classes, height, width).
        targets: positions in the class table, (batch, height, width); IGNORED pixels do not count.
        weights: of each class, (classes,); see `class_weights`.
    """
    targets = targets.long()
    losses = torch.nn.functional.cross_entropy(
        logits, targets, weights, ignore_index=IGNORED, reduction="none"
    )
    with_zero = torch.cat([weights, weights.new_zeros(IGNORED + 1 - len(weights))])
    return losses.sum() / with_zero[targets].sum().clamp(min=torch.finfo(losses.dtype).tiny)


def class_weights(masks: Iterable[NDArray[np.uint8]], class_ids: Sequence[int]) -> Tensor:
    """Weight of each class in a segmenter's loss: the inverse square root of its frequency.

    Without it rare classes are never predicted. The mean over all pixels is 1; a class that occurs
    in no mask has weight 0.

    Args:
        masks: class ids, of any shape.
        class_ids: of the class table, in its order.

    Returns:
        Shape (classes,).
    """
    pixels = np.sum([class_pixel_counts(mask, class_ids) for mask in masks], axis=0)
    shares = torch.from_numpy(pixels / pixels.sum())
    roots = torch.where(shares > 0, shares.rsqrt(), 0.0)
    return (roots / (roots * shares).sum()).float()
