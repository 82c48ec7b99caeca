"""Composed masks: with more of chosen classes, by choice of masks and by pasted parcels."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aerialdreams.data.augmentation import ORIENTATIONS, orient
from aerialdreams.data.images import mask_path, read_mask, resize_mask
from aerialdreams.errors import UserError
from aerialdreams.paths import COMPOSED, COMPOSED_TABLE

SMALLEST_PARCEL = 16  # pixels
RING = 8  # pixels around a parcel that are its surroundings
CHOICES = 8  # random masks that are compared
PLACES = 16  # random places that are compared
LEAST_OVERLAP = 0.5  # of a place's surroundings with those that a parcel had
MOST_PASTES = 20  # attempts with one class in one mask
NEIGHBOURS = np.ones((3, 3), bool)  # pixels of a parcel touch at edges or corners


class ComposedMask(NamedTuple):
    """A row of the list of composed masks; data.images.mask_path has the mask's path."""

    patch_id: str
    started_from: str  # patch of the train split
    caption: str


def read_composed() -> list[ComposedMask]:
    """The composed masks, in order.

    Raises:
        UserError: the list is missing.
    """
    path = COMPOSED / COMPOSED_TABLE
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [ComposedMask(**row) for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro compose-masks`") from None


def read_composed_mask(patch_id: str, size: int) -> NDArray[np.uint8]:
    """A composed mask, resized to `size` x `size` pixels; see `read_composed`.

    Raises:
        UserError: it is missing or damaged.
    """
    return resize_mask(read_mask(mask_path(patch_id, COMPOSED)), size)


class Parcel(NamedTuple):
    """A connected area of one class, cut out of a mask.

    Attributes:
        inside: its pixels, (height, width), with a border of RING pixels around it.
        ring: the pixels within RING of it, (height, width).
        surroundings: how many of those have which id, (256,).
    """

    inside: NDArray[np.bool_]
    ring: NDArray[np.bool_]
    surroundings: NDArray[np.int64]


def find_parcels(mask: NDArray[np.uint8], class_id: int) -> list[Parcel]:
    """The parcels of a class in a mask, from SMALLEST_PARCEL pixels.

    Args:
        mask: class ids, (height, width).
        class_id: of the class.
    """
    padded = np.pad(mask, RING, mode="edge")
    is_class = np.pad(mask == class_id, RING)
    labels, _ = ndimage.label(is_class, NEIGHBOURS)
    parcels = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        window = np.s_[
            rows.start - RING : rows.stop + RING, columns.start - RING : columns.stop + RING
        ]
        inside = labels[window] == number
        if inside.sum() >= SMALLEST_PARCEL:
            ring = ndimage.binary_dilation(inside, NEIGHBOURS, RING) & ~inside
            surroundings = np.bincount(padded[window][ring], minlength=256)
            parcels.append(Parcel(inside, ring, surroundings))
    return parcels


def choose_masks(
    present: NDArray[np.float64], shares: Sequence[float], count: int, seed: int
) -> list[int]:
    """Masks to start from, those with chosen classes more often.

    Of CHOICES random masks, each time the one is taken that has most of what is missing so far.

    Args:
        present: share of each chosen class in each mask, 0 to 1, (masks, classes).
        shares: of all pixels that each chosen class is to have, 0 to 1, (classes,).
        count: how many masks to choose.
        seed: of the random choices.

    Returns:
        Rows of `present`; a row may occur several times.
    """
    random = np.random.default_rng(seed)
    chosen, total = list[int](), np.zeros(len(shares))
    for number in range(1, count + 1):
        missing = (number * np.asarray(shares) - total).clip(min=0)
        candidates = random.choice(len(present), min(CHOICES, len(present)), replace=False)
        best = candidates[np.minimum(present[candidates], missing).sum(1).argmax()]
        total += present[best]
        chosen.append(int(best))
    return chosen


def compose_masks(
    masks: Iterable[NDArray[np.uint8]],
    parcels: Mapping[int, Sequence[Parcel]],
    shares: Mapping[int, float],
    seed: int,
) -> Iterator[NDArray[np.uint8]]:
    """Masks in which chosen classes have at least given shares of all pixels.

    Each mask is rotated and mirrored at random. Where the masks so far have too little of a class,
    random parcels of it are pasted, also rotated and mirrored, each where the surroundings are most
    like its own among PLACES random places. Without a place whose surroundings overlap with its own
    by LEAST_OVERLAP, it is not pasted, and a later mask gets more: where masks do not fit, a class
    has less than its share. Pasted parcels do not cover the chosen classes.

    Args:
        masks: to start from, class ids, (size, size).
        parcels: of each chosen class, by its id; at least one each.
        shares: least share of the pixels that each chosen class is to have, 0 to 1, by its id.
        seed: of all random choices.

    Yields:
        Class ids, one for each of `masks`, of its shape.
    """
    random = np.random.default_rng(seed)
    counts, total = np.zeros(256), 0
    for start in masks:
        mask = orient(start, int(random.integers(ORIENTATIONS))).copy()
        total += mask.size
        for class_id, share in shares.items():
            for _ in range(MOST_PASTES):
                present = counts[class_id] + (mask == class_id).sum()
                parcel = parcels[class_id][int(random.integers(len(parcels[class_id])))]
                # Half a parcel too few or too many: on average, the share is met.
                if share * total - present < parcel.inside.sum() / 2:
                    break
                mask = _paste(mask, parcel, class_id, list(shares), random)
        counts += np.bincount(mask.ravel(), minlength=256)
        yield mask


def _paste(
    mask: NDArray[np.uint8],
    parcel: Parcel,
    class_id: int,
    kept: Sequence[int],
    random: np.random.Generator,
) -> NDArray[np.uint8]:
    """A mask with a parcel at the most fitting of some random places."""
    orientation = int(random.integers(ORIENTATIONS))
    inside, ring = orient(parcel.inside, orientation), orient(parcel.ring, orientation)
    padded = np.pad(mask, [(side, side) for side in inside.shape], mode="edge")
    best, best_overlap = mask, LEAST_OVERLAP
    for _ in range(PLACES):
        # The parcel's centre is in the mask; what is outside of it is cut off.
        y, x = (
            int(random.integers(side)) + -(-length // 2)
            for side, length in zip(mask.shape, inside.shape, strict=True)
        )
        window = np.s_[y : y + inside.shape[0], x : x + inside.shape[1]]
        there = np.bincount(padded[window][ring], minlength=256)
        overlap = np.minimum(there, parcel.surroundings).sum() / max(1, ring.sum())
        if overlap >= best_overlap:
            placed = np.zeros(padded.shape, bool)
            placed[window] = inside
            height, width = inside.shape
            placed = placed[height : height + mask.shape[0], width : width + mask.shape[1]]
            best = np.where(placed & ~np.isin(mask, kept), np.uint8(class_id), mask)
            best_overlap = overlap
    return best
