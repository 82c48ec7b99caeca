"""The report's samples: mask, real and generated image of patches, within a budget of bytes."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from aerialdreams.data.dataset import Patch, read_patches
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.data.land_cover import LandCoverClass, class_ids, mask_to_rgb
from aerialdreams.generation.outputs import read_generated
from aerialdreams.pipeline.html import data_url

BUDGET = 3_200_000  # bytes of all samples as base64; the page is to be under 5 MB
LEAST_SHARE = 0.01  # of a patch's pixels, for a class to be listed


@dataclass(frozen=True)
class Sample:
    """A patch's images and what the page filters and sorts by.

    Attributes:
        split: validation or test.
        patch_id: of the patch.
        accuracy: pixel accuracy of the judge on the generated image, 0 to 1.
        classes: positions in the class table of the classes in the mask.
        caption: the prompt.
        images: pairs of a name (mask, real, generated) and a data URL.
    """

    split: str
    patch_id: str
    accuracy: float
    classes: list[int]
    caption: str
    images: list[tuple[str, str]]


def samples(
    split: str,
    agreement: pd.DataFrame,
    classes: list[LandCoverClass],
    size: int,
    budget: int,
) -> list[Sample]:
    """As many patches of a split as fit, spread evenly over the ranking by accuracy, best first.

    Args:
        split: validation or test.
        agreement: data/agreement.parquet.
        classes: the class table.
        size: height and width of the images, pixels.
        budget: bytes of the images' data URLs, about.
    """
    rows = agreement[(agreement["split"] == split) & (agreement["source"] == "generated")]
    ranked = rows.sort_values(["pixel_accuracy", "patch_id"], ascending=[False, True])
    accuracy = dict(zip(ranked["patch_id"], ranked["pixel_accuracy"], strict=True))
    ids = list(accuracy)
    trial = {ids[0], ids[len(ids) // 2], ids[-1]}

    def load(chosen: set[str]) -> dict[str, Sample]:
        return {
            patch.patch_id: _sample(split, patch, accuracy[patch.patch_id], classes, size)
            for patch in read_patches(split)
            if patch.patch_id in chosen
        }

    cost = sum(len(url) for sample in load(trial).values() for _, url in sample.images)
    count = min(len(ids), max(2, budget * len(trial) // cost))
    chosen = [ids[round(position)] for position in np.linspace(0, len(ids) - 1, count)]
    loaded = load(set(chosen))
    return [loaded[patch_id] for patch_id in dict.fromkeys(chosen)]


def _sample(
    split: str, patch: Patch, accuracy: float, classes: list[LandCoverClass], size: int
) -> Sample:
    mask = resize_mask(patch.mask, size)
    generated = read_generated(split, "generated", patch.patch_id, size)
    shares = {i: float((mask == i).mean()) for i in np.unique(mask).tolist()}
    return Sample(
        split=split,
        patch_id=patch.patch_id,
        accuracy=accuracy,
        classes=[
            position
            for position, class_id in enumerate(class_ids(classes))
            if shares.get(class_id, 0) >= LEAST_SHARE
        ],
        caption=patch.caption,
        images=[
            ("mask", data_url(mask_to_rgb(mask, classes))),
            ("real", data_url(resize_image(patch.image, size), "jpeg")),
            ("generated", data_url(generated, "jpeg")),
        ],
    )
