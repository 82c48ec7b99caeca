"""How a segmenter is trained: the judge, and those that show what generated images are good for.

Patches are read when they are drawn: at 512 pixels, FLAIR's train split would fill 65 GB.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from aerialdreams.classes import class_pixels
from aerialdreams.curves import LossCurve
from aerialdreams.params import Runtime, TrainSegmenter
from aerialdreams.segmenter import Segmenter
from aerialdreams.training import (
    Checkpoint,
    draw_batch,
    draw_turns,
    generator,
    scheduled_rate,
    set_rate,
    stop_deaf,
    take_step,
    to_tensor,
    training_steps,
    turned,
)

WARMUP = 50  # steps, a quarter of a short training's


# Patches to learn from: image, RGB, (size, size, 3), and mask, class ids, (size, size), both uint8.
Lesson = TorchDataset[tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def learn(
    lesson: Lesson,
    weights: Tensor,
    stage: TrainSegmenter,
    path: Path,
    runtime: Runtime,
    device: torch.device,
) -> tuple[Segmenter, LossCurve, Checkpoint]:
    """Train a segmenter; a training that was stopped goes on, one that is done is only read.

    Args:
        lesson: the patches.
        weights: of the classes in the loss, see `class_weights`.
        stage: seed, channels, steps, batch and learning rate.
        path: of its checkpoint, whose name carries the fingerprint of all that decides it.
        runtime: steps between checkpoints, and processes that read ahead.
        device: where to train.

    Returns:
        The segmenter, its losses, and the checkpoint, to be removed when the work is in place.
    """
    torch.manual_seed(stage.seed)
    model, losses = Segmenter(stage.channels).to(device), LossCurve("segmenter")
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, fused=True)
    weights, warmup = weights.to(device), min(WARMUP, stage.steps // 4)
    parts = {"model": model, "optimizer": optimizer, "losses": losses}
    checkpoint = Checkpoint(path, parts)
    every, batches = runtime.checkpoint_every, None
    for step in training_steps(checkpoint, stage.steps, every, "segmenter"):
        batches = batches or read_ahead(lesson, stage, step, runtime.loaders)
        set_rate(optimizer, scheduled_rate(step, stage.steps, stage.learning_rate, warmup))
        pictures, ids = next(batches)
        worn = wear(tint(to_tensor(pictures), stage.seed, step), stage.seed, step)
        logits = model(worn.to(device))
        target = ids.long().to(device) - 1
        loss = torch.nn.functional.cross_entropy(logits, target, weights)
        take_step(optimizer, loss)
        losses.add(loss)
    return model.eval(), losses, checkpoint


def class_weights(masks: Iterable[NDArray[np.uint8]]) -> Tensor:
    """Weight of each class in the loss, (19,): the root of its rarity, or rare ones go unnamed.

    The mean over all pixels is 1; a class that no mask has weighs nothing.
    """
    pixels = np.sum([class_pixels(mask) for mask in masks], axis=0)
    shares = torch.from_numpy(pixels / pixels.sum())
    roots = torch.where(shares > 0, shares.rsqrt(), 0.0)
    return (roots / (roots * shares).sum()).float()


class Steps(TorchDataset[tuple[Tensor, Tensor]]):
    """The batches of a training, by number of the step, each a function of (seed, step).

    An item is a batch's images, (batch, size, size, 3), and masks, (batch, size, size), each turned
    and mirrored its own way: a map has no up.
    """

    def __init__(self, lesson: Lesson, stage: TrainSegmenter) -> None:
        self.lesson, self.stage = lesson, stage

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        seed, batch = self.stage.seed, self.stage.batch
        chosen = draw_batch(seed, step, batch, len(self.lesson))  # type: ignore[arg-type]
        patches = [self.lesson[place] for place in chosen]
        ways = draw_turns(seed, step, batch)
        pairs = list(zip(patches, ways, strict=True))
        images = np.stack([turned(image, way) for (image, _), way in pairs])
        masks = np.stack([turned(mask, way) for (_, mask), way in pairs])
        return torch.from_numpy(images), torch.from_numpy(masks)


def read_ahead(
    lesson: Lesson, stage: TrainSegmenter, first: int, loaders: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches from a step on, read ahead by `loaders` processes, or when they are asked for."""
    return iter(
        DataLoader(
            Steps(lesson, stage),
            batch_size=None,
            sampler=range(first, stage.steps),
            num_workers=loaders,
            worker_init_fn=stop_deaf,
        )
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
