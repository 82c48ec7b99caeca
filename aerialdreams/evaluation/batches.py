"""Batches of a split: real and generated images of the same masks, and their statistics."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.dataset import read_patches
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.data.spec import FurtherBands
from aerialdreams.evaluation.feature_spaces import Images, SegmenterFeatures
from aerialdreams.evaluation.image_sets import FeatureSpaces, ImageSet
from aerialdreams.generation.outputs import EVALUATED_SETS, read_generated


class Judges(NamedTuple):
    """Segmenters that predict the land cover of images.

    Attributes:
        colours: from red, green and blue.
        all_bands: from all bands; None if there are no further ones.
    """

    colours: SegmenterFeatures
    all_bands: SegmenterFeatures | None = None


class Batch(NamedTuple):
    """Patches of a split with their generated images.

    Attributes:
        patch_ids: ids of the patches.
        masks: class ids, (patches, size, size).
        images: by image set, (images, size, size, bands), of the patches that have such an image.
        extra: positions in the batch of the patches that have further samples.
    """

    patch_ids: list[str]
    masks: NDArray[np.uint8]
    images: dict[str, Images]
    extra: list[int]

    def positions(self, source: str) -> list[int]:
        """Positions in the batch of the patches that an image set has images of."""
        of_extra = source in ("reconstructed", "untrained")
        return self.extra if of_extra else list(range(len(self.patch_ids)))


def load_batch(
    split: str,
    extra: set[int],
    samples: int,
    size: int,
    further: Sequence[str],
    rows: list[int],
) -> Batch:
    """Read a batch of patches and their generated images.

    Args:
        split: validation or test.
        extra: rows of the split that have further samples.
        samples: images that were generated for each of these.
        size: height and width of the images, pixels.
        further: bands of the images after red, green and blue.
        rows: rows of the split to read.
    """
    patches = list(read_patches(split, rows))
    ids = [patch.patch_id for patch in patches]
    positions = [position for position, row in enumerate(rows) if row in extra]

    def generated(folder: str, chosen: list[str]) -> Images:
        return np.stack([read_generated(split, folder, name, size, further) for name in chosen])

    images = {
        "real": np.stack([resize_image(patch.bands, size) for patch in patches]),
        "generated": generated("generated", ids),
    }
    if positions:
        folders = ["untrained", *(f"sample-{number}" for number in range(2, samples + 1))]
        chosen = [ids[position] for position in positions]
        images |= {folder: generated(folder, chosen) for folder in folders}
    masks = np.stack([resize_mask(patch.mask, size) for patch in patches])
    return Batch(ids, masks, images, positions)


def batch_sets(
    batch: Batch, judges: Judges, spaces: FeatureSpaces, further: FurtherBands
) -> tuple[dict[str, ImageSet], list[dict[str, Any]]]:
    """Statistics of a batch.

    Args:
        batch: the images.
        judges: predict their land cover.
        spaces: feature spaces by name.
        further: the images' bands after red, green and blue.

    Returns:
        The image sets by name, and for each image whose land cover was predicted its `source`,
        `patch_id` and `pixel_accuracy`.
    """
    sets: dict[str, ImageSet] = {source: ImageSet() for source in batch.images}
    rows = []
    for source in ("real", *EVALUATED_SETS):
        if source not in sets:
            continue
        positions, own = batch.positions(source), sets[source]
        images, masks = batch.images[source], batch.masks[positions]
        own.add_predictions(images, masks, judges.colours)
        own.add_power(images, masks, judges.colours.class_ids.tolist())
        if judges.all_bands:
            real = batch.images["real"][positions]
            own.add_bands(images, real, masks, judges.all_bands, further)
        for position, matrix in zip(positions, own.matrices, strict=True):
            accuracy = float(np.trace(matrix) / matrix.sum())
            row = {"source": source, "patch_id": batch.patch_ids[position]}
            rows.append(row | {"pixel_accuracy": accuracy})
    for source, image_set in sets.items():
        image_set.add_features(batch.images[source], spaces)
    if batch.extra:
        _add_samples(sets, batch)
    return sets, rows


def _add_samples(sets: dict[str, ImageSet], batch: Batch) -> None:
    """Add sample-1, and how far further samples of a mask differ from it."""
    first = batch.images["generated"][batch.extra][..., :3]
    sets["sample-1"] = ImageSet(
        features={
            name: [array[batch.extra] for array in arrays]
            for name, arrays in sets["generated"].features.items()
        }
    )
    for source, image_set in sets.items():
        if source.startswith("sample-") and source != "sample-1":
            other = batch.images[source][..., :3].astype(float)
            difference = np.abs(other - first) / 255
            image_set.differences += difference.mean((1, 2, 3)).tolist()
