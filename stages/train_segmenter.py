"""train-segmenter: the judge, a small U-Net that reads land cover from images.

Reads   data/patches.parquet, data/images/, data/masks/ (train); no caption, so that another
        wording leaves the judge as it is
Writes  models/segmenter/; metrics/segmenter.csv, the losses
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aerialdreams.classes import class_pixels
from aerialdreams.curves import LossCurve, write_curve
from aerialdreams.files import fingerprint, whole_folder
from aerialdreams.params import Params, TrainSegmenter
from aerialdreams.patches import (
    IGN_CREDIT,
    IMAGES,
    INDEX,
    MASKS,
    read_image,
    read_index,
    read_mask,
    resize_image,
    resize_mask,
)
from aerialdreams.segmenter import SEGMENTER, Segmenter
from aerialdreams.stage import run_stage, scratch
from aerialdreams.training import (
    Checkpoint,
    draw_batch,
    draw_turns,
    generator,
    scheduled_rate,
    set_rate,
    set_up_torch,
    take_step,
    to_tensor,
    training_steps,
    turned,
)

LOSSES = Path("metrics/segmenter.csv")
WARMUP = 50


def main(params: Params) -> str:
    device, stage = set_up_torch(params.torch_threads), params.train_segmenter
    settings = [stage, params.image_size, params.torch_threads]
    key = fingerprint(settings, __file__, [INDEX, IMAGES, MASKS])
    images, masks = load_train(params.image_size)

    torch.manual_seed(stage.seed)
    model, losses = Segmenter(stage.channels).to(device), LossCurve("segmenter")
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, fused=True)
    weights = class_weights(masks).to(device)
    checkpoint = Checkpoint(
        scratch() / f"train-segmenter-{key}.pt",
        {"model": model, "optimizer": optimizer, "losses": losses},
    )
    for step in training_steps(checkpoint, stage.steps, params.runtime.checkpoint_every, "judge"):
        set_rate(optimizer, scheduled_rate(step, stage.steps, stage.learning_rate, WARMUP))
        pictures, ids = draw(images, masks, stage, step)
        worn = wear(tint(to_tensor(pictures), stage.seed, step), stage.seed, step)
        logits = model(worn.to(device))
        target = torch.from_numpy(ids).long().to(device) - 1
        loss = torch.nn.functional.cross_entropy(logits, target, weights)
        take_step(optimizer, loss)
        losses.add(loss)

    with whole_folder(SEGMENTER) as folder:
        model.save(folder)
        (folder / "README.md").write_text(CARD, encoding="utf-8")
    write_curve(LOSSES, losses.means())
    checkpoint.remove()
    size = sum(p.numel() for p in model.parameters()) / 1e6
    return (
        f"U-Net of {size:.2f} M weights trained for {stage.steps} steps on {len(images)} patches,"
        f" loss {losses.means()[-1][1]:.3f}"
    )


def load_train(size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The train patches' images (patches, size, size, 3) and masks (patches, size, size)."""
    index = read_index()
    train = index.loc[index["split"] == "train", "patch_id"]
    images = [resize_image(read_image(IMAGES / f"IMG_{number}.png"), size) for number in train]
    masks = [resize_mask(read_mask(MASKS / f"MSK_{number}.png"), size) for number in train]
    return np.stack(images), np.stack(masks)


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


CARD = f"""---
license: other
---
# A land-cover segmenter

Trained by AerialDreams to judge generated images. Derived from {IGN_CREDIT}; with the sample
source the images are drawn by AerialDreams in FLAIR's shape.
"""

if __name__ == "__main__":
    run_stage("train-segmenter", __doc__, main)
