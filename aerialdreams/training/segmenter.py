"""Training of segmenters: the judge, and those that measure the utility of generated images.

Patches are read when they are drawn: FLAIR's train split would take 65 GB of memory at 512 pixels.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from aerialdreams.data.augmentation import (
    blur_and_add_noise,
    draw_orientations,
    jitter_colours,
    orient,
)
from aerialdreams.data.land_cover import class_positions
from aerialdreams.models.segmenter import Segmenter
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.training.batches import batch_indices, load_batches
from aerialdreams.training.checkpoint import Checkpoint, StopSignal
from aerialdreams.training.loss_curves import LossCurve
from aerialdreams.training.losses import segmentation_loss
from aerialdreams.training.schedule import learning_rate_at, set_learning_rate
from aerialdreams.util.progress import progress

WARMUP_STEPS = 50  # at most a quarter of all steps
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0
CACHE_BYTES = 2**28  # for patches, in a process without data loader workers

# Pairs of image, (size, size, bands), and mask, class ids, (size, size), both uint8.
SegmentationPatches = TorchDataset[tuple[NDArray[np.uint8], NDArray[np.uint8]]]


@dataclass(frozen=True)
class SegmenterSettings:
    """How a segmenter is trained.

    Attributes:
        seed: of weights and draws.
        channels: width of each level of the U-Net.
        class_ids: of the class table, in its order.
        steps: training steps.
        batch_size: patches of a step.
        learning_rate: peak learning rate.
        bands: of the images.
    """

    seed: int
    channels: list[int]
    class_ids: list[int]
    steps: int
    batch_size: int
    learning_rate: float
    bands: int = 3

    def identity(self) -> dict[str, object]:
        """What decides the weights, for `util.scratch.work_folder`."""
        return asdict(self)


def train_segmenter(
    patches: SegmentationPatches,
    class_weights: Tensor,
    settings: SegmenterSettings,
    folder: Path,
    checkpoint_every: int,
    workers: int,
    device: torch.device,
) -> tuple[Segmenter, LossCurve]:
    """Train a segmenter, or resume from its checkpoint.

    Args:
        patches: the training set.
        class_weights: (classes,); see `losses.class_weights`.
        settings: see the class.
        folder: where its checkpoints are kept; see `util.scratch.work_folder`.
        checkpoint_every: steps between checkpoints.
        workers: data loader processes; 0 reads patches in this process.
        device: where to train.

    Returns:
        The segmenter, in evaluation mode, and its losses.

    Raises:
        KeyboardInterrupt: SIGTERM or SIGINT came; the current step is finished and saved.
        WorkError: the loss is not finite, or a checkpoint cannot be written.
    """
    torch.manual_seed(settings.seed)
    model, losses = (
        Segmenter(settings.channels, len(settings.class_ids), settings.bands).to(device),
        LossCurve("segmenter"),
    )
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
    class_weights = class_weights.to(device)
    positions = torch.from_numpy(class_positions(settings.class_ids)).to(device)
    warmup_steps = min(WARMUP_STEPS, settings.steps // 4)
    parts = {"model": model, "optimizer": optimizer, "losses": losses}
    checkpoint = Checkpoint(folder / "segmenter.pt", parts, device)
    start = checkpoint.restore()
    if not workers:  # each would have a cache of its own
        patches = CachedPatches(patches)
    batches = load_batches(SegmenterBatches(patches, settings), start, settings.steps, workers)
    with StopSignal() as stop:
        for step in progress(
            range(start, settings.steps), "segmenter", "steps", settings.steps, start
        ):
            images, masks = next(batches)
            inputs = jitter_colours(images_to_tensor(images), settings.seed, step)
            inputs = blur_and_add_noise(inputs, settings.seed, step)
            logits = model(inputs.to(device))
            loss = segmentation_loss(logits, positions[masks.to(device).long()], class_weights)

            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            set_learning_rate(
                optimizer,
                learning_rate_at(step, settings.steps, settings.learning_rate, warmup_steps),
            )
            optimizer.step()
            losses.add(loss)

            done, stopping = step + 1, stop.received
            if stopping or done % checkpoint_every == 0 or done == settings.steps:
                losses.check()
                checkpoint.save(done)
            if stopping:
                checkpoint.wait()
                raise KeyboardInterrupt
    checkpoint.wait()
    return model.eval(), losses


class CachedPatches(TorchDataset[tuple[NDArray[np.uint8], NDArray[np.uint8]]]):
    """Patches that are read once, as long as they fit into CACHE_BYTES.

    Decoding the patches takes about a seventh of a small segmenter's step.
    """

    def __init__(self, patches: SegmentationPatches) -> None:
        self.patches, self.free = patches, CACHE_BYTES
        self.kept: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    def __len__(self) -> int:
        return len(self.patches)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if index in self.kept:
            return self.kept[index]
        image, mask = self.patches[index]
        if image.nbytes + mask.nbytes <= self.free:
            self.free -= image.nbytes + mask.nbytes
            self.kept[index] = image, mask
        return image, mask


class SegmenterBatches(TorchDataset[tuple[Tensor, Tensor]]):
    """The batches of a training by step, each a function of (seed, step).

    A batch is images, (batch, size, size, bands), and masks, (batch, size, size), uint8. Each patch
    is rotated and mirrored at random, its image and its mask alike.
    """

    def __init__(self, patches: SegmentationPatches, settings: SegmenterSettings) -> None:
        self.patches, self.settings = patches, settings

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        seed, batch_size = self.settings.seed, self.settings.batch_size
        count = len(self.patches)  # type: ignore[arg-type]
        patches = [self.patches[index] for index in batch_indices(seed, step, batch_size, count)]
        orientations = draw_orientations(seed, step, batch_size)
        pairs = list(zip(patches, orientations, strict=True))
        images = np.stack([orient(image, orientation) for (image, _), orientation in pairs])
        masks = np.stack([orient(mask, orientation) for (_, mask), orientation in pairs])
        return torch.from_numpy(images), torch.from_numpy(masks)
