"""How a segmenter is trained: the judge, and those that show what generated images are good for.

Patches are read when they are drawn: at 512 pixels, FLAIR's train split would fill 65 GB.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from aerialdreams.data.augmentation import (
    blur_and_add_noise,
    draw_orientations,
    jitter_colours,
    orient,
)
from aerialdreams.data.images import images_to_tensor
from aerialdreams.models.segmenter import Segmenter
from aerialdreams.params import Runtime, TrainSegmenter
from aerialdreams.training.batches import batch_indices
from aerialdreams.training.checkpoint import Checkpoint, ignore_stop_signals, training_steps
from aerialdreams.training.loss_curves import LossCurve
from aerialdreams.training.schedule import learning_rate_at, optimizer_step, set_learning_rate

WARMUP = 50  # steps, a quarter of a short training's


# Patches to learn from: image, RGB, (size, size, 3), and mask, class ids, (size, size), both uint8.
SegmentationPatches = TorchDataset[tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def train_segmenter(
    lesson: SegmentationPatches,
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
        set_learning_rate(
            optimizer, learning_rate_at(step, stage.steps, stage.learning_rate, warmup)
        )
        pictures, ids = next(batches)
        worn = blur_and_add_noise(
            jitter_colours(images_to_tensor(pictures), stage.seed, step), stage.seed, step
        )
        logits = model(worn.to(device))
        target = ids.long().to(device) - 1
        loss = torch.nn.functional.cross_entropy(logits, target, weights)
        optimizer_step(optimizer, loss)
        losses.add(loss)
    return model.eval(), losses, checkpoint


class Steps(TorchDataset[tuple[Tensor, Tensor]]):
    """The batches of a training, by number of the step, each a function of (seed, step).

    An item is a batch's images, (batch, size, size, 3), and masks, (batch, size, size), each turned
    and mirrored its own way: a map has no up.
    """

    def __init__(self, lesson: SegmentationPatches, stage: TrainSegmenter) -> None:
        self.lesson, self.stage = lesson, stage

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        seed, batch = self.stage.seed, self.stage.batch
        chosen = batch_indices(seed, step, batch, len(self.lesson))  # type: ignore[arg-type]
        patches = [self.lesson[place] for place in chosen]
        ways = draw_orientations(seed, step, batch)
        pairs = list(zip(patches, ways, strict=True))
        images = np.stack([orient(image, way) for (image, _), way in pairs])
        masks = np.stack([orient(mask, way) for (_, mask), way in pairs])
        return torch.from_numpy(images), torch.from_numpy(masks)


def read_ahead(
    lesson: SegmentationPatches, stage: TrainSegmenter, first: int, loaders: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches from a step on, read ahead by `loaders` processes, or when they are asked for."""
    return iter(
        DataLoader(
            Steps(lesson, stage),
            batch_size=None,
            sampler=range(first, stage.steps),
            num_workers=loaders,
            worker_init_fn=ignore_stop_signals,
        )
    )
