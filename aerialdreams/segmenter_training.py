"""How a segmenter is trained: the judge, and those that show what generated images are good for."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aerialdreams.classes import class_pixels
from aerialdreams.curves import LossCurve
from aerialdreams.params import TrainSegmenter
from aerialdreams.segmenter import Segmenter
from aerialdreams.training import (
    Checkpoint,
    draw_batch,
    draw_turns,
    generator,
    scheduled_rate,
    set_rate,
    take_step,
    to_tensor,
    training_steps,
    turned,
)

WARMUP = 50  # steps, a quarter of a short training's


def learn(
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    stage: TrainSegmenter,
    path: Path,
    every: int,
    device: torch.device,
) -> tuple[Segmenter, LossCurve, Checkpoint]:
    """Train a segmenter; a training that was stopped goes on, one that is done is only read.

    Args:
        images: RGB, (patches, size, size, 3).
        masks: class ids, (patches, size, size).
        stage: seed, channels, steps, batch and learning rate.
        path: of its checkpoint, whose name carries the fingerprint of all that decides it.
        every: steps between checkpoints.
        device: where to train.

    Returns:
        The segmenter, its losses, and the checkpoint, to be removed when the work is in place.
    """
    torch.manual_seed(stage.seed)
    model, losses = Segmenter(stage.channels).to(device), LossCurve("segmenter")
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, fused=True)
    weights = class_weights(masks).to(device)
    warmup = min(WARMUP, stage.steps // 4)
    parts = {"model": model, "optimizer": optimizer, "losses": losses}
    checkpoint = Checkpoint(path, parts)
    for step in training_steps(checkpoint, stage.steps, every, "segmenter"):
        set_rate(optimizer, scheduled_rate(step, stage.steps, stage.learning_rate, warmup))
        pictures, ids = draw(images, masks, stage, step)
        worn = wear(tint(to_tensor(pictures), stage.seed, step), stage.seed, step)
        logits = model(worn.to(device))
        target = torch.from_numpy(ids).long().to(device) - 1
        loss = torch.nn.functional.cross_entropy(logits, target, weights)
        take_step(optimizer, loss)
        losses.add(loss)
    return model.eval(), losses, checkpoint


def class_weights(masks: NDArray[np.uint8]) -> torch.Tensor:
    """Weight of each class in the loss, (19,): the root of its rarity, or rare ones go unnamed.

    The mean over all pixels is 1; a class that no mask has weighs nothing.
    """
    shares = torch.from_numpy(class_pixels(masks) / masks.size)
    roots = torch.where(shares > 0, shares.rsqrt(), 0.0)
    return (roots / (roots * shares).sum()).float()


def draw(
    images: NDArray[np.uint8], masks: NDArray[np.uint8], stage: TrainSegmenter, step: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One step's images and masks, each turned and mirrored its own way: a map has no up."""
    chosen = draw_batch(stage.seed, step, stage.batch, len(images))
    ways = draw_turns(stage.seed, step, stage.batch)
    return (
        np.stack([turned(images[i], way) for i, way in zip(chosen, ways, strict=True)]),
        np.stack([turned(masks[i], way) for i, way in zip(chosen, ways, strict=True)]),
    )


def tint(pictures: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    """Images (batch, 3, h, w) with each channel's contrast and brightness a little changed.

    The judge is to tell a field from a road, not one camera's tone from another's.
    """
    draw = generator(seed, "tint", step)
    gain = 1 + 0.3 * (torch.rand(len(pictures), 3, 1, 1, generator=draw) - 0.5)
    shift = 0.2 * (torch.rand(len(pictures), 3, 1, 1, generator=draw) - 0.5)
    return pictures * gain + shift


def wear(pictures: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    """Images (batch, 3, h, w) blurred and roughened, each its own amount, some not at all blurred.

    What covers the ground is asked of the judge, not how sharp or grainy its picture is.
    """
    draw = generator(seed, "wear", step)
    soft = pictures
    for _ in range(2):
        edged = torch.nn.functional.pad(soft, (1, 1, 1, 1), mode="replicate")
        soft = torch.nn.functional.avg_pool2d(edged, 3, 1)
    blur = (1.6 * torch.rand(len(pictures), 1, 1, 1, generator=draw) - 0.6).clamp(min=0)
    grain = 0.15 * torch.rand(len(pictures), 1, 1, 1, generator=draw)
    noise = torch.randn(pictures.shape, generator=draw)
    return pictures + blur * (soft - pictures) + grain * noise
