"""Composed masks: parcels, where they go, and shares."""

import numpy as np
import pytest
from numpy.typing import NDArray

from aerialdreams.data.composition import RING, choose_masks, compose_masks, find_parcels

MEADOW, FOREST, POND, ROAD = 1, 2, 3, 4


def mask_with(*areas: tuple[int, slice, slice], ground: int = MEADOW) -> NDArray[np.uint8]:
    """A mask of 64 x 64 pixels with some rectangles."""
    mask = np.full((64, 64), ground, np.uint8)
    for class_id, rows, columns in areas:
        mask[rows, columns] = class_id
    return mask


def test_parcels_are_the_connected_areas_that_are_large_enough() -> None:
    mask = mask_with(
        (POND, slice(0, 8), slice(0, 6)),  # at the edge of the mask
        (POND, slice(30, 40), slice(30, 50)),
        (POND, slice(60, 62), slice(60, 62)),  # 4 pixels
    )
    parcels = find_parcels(mask, POND)
    assert [int(parcel.inside.sum()) for parcel in parcels] == [48, 200]
    assert parcels[1].inside.shape == (10 + 2 * RING, 20 + 2 * RING)
    assert parcels[1].surroundings.argmax() == MEADOW
    assert parcels[1].surroundings[POND] == 0
    assert find_parcels(mask, ROAD) == []


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_a_class_gets_its_share(share: float) -> None:
    donor = mask_with((POND, slice(10, 20), slice(10, 24)), (POND, slice(40, 46), slice(40, 50)))
    starts = [mask_with((ROAD, slice(30, 34), slice(0, 64))) for _ in range(40)]
    masks = np.stack(
        list(compose_masks(starts, {POND: find_parcels(donor, POND)}, {POND: share}, 3))
    )
    assert masks.shape == (40, 64, 64)
    assert (masks == POND).mean() == pytest.approx(share, abs=0.01)
    assert set(np.unique(masks)) == {MEADOW, ROAD, POND}


def test_two_classes_do_not_cover_each_other() -> None:
    donor = mask_with((POND, slice(10, 30), slice(10, 30)), (ROAD, slice(40, 60), slice(0, 64)))
    parcels = {class_id: find_parcels(donor, class_id) for class_id in (POND, ROAD)}
    starts = [mask_with() for _ in range(40)]
    masks = np.stack(list(compose_masks(starts, parcels, {POND: 0.2, ROAD: 0.3}, 3)))
    assert (masks == POND).mean() == pytest.approx(0.2, abs=0.02)
    assert (masks == ROAD).mean() == pytest.approx(0.3, abs=0.03)


def test_a_parcel_goes_where_its_surroundings_are_like_its_own() -> None:
    """A pond from a forest goes into the forest, which is a quarter of the mask."""
    donor = mask_with((POND, slice(28, 34), slice(28, 34)), ground=FOREST)
    half = mask_with((FOREST, slice(0, 32), slice(0, 32)))
    (mask,) = compose_masks([half], {POND: find_parcels(donor, POND)}, {POND: 36 / 64**2}, 1)
    without = np.isin(mask, (FOREST, POND))
    assert (mask == POND).sum() == 36
    assert without.sum() == 32 * 32  # all of the pond is where forest was


def test_a_parcel_that_fits_nowhere_is_not_pasted() -> None:
    donor = mask_with((POND, slice(28, 34), slice(28, 34)), ground=FOREST)
    (mask,) = compose_masks([mask_with()], {POND: find_parcels(donor, POND)}, {POND: 0.1}, 1)
    assert (mask == MEADOW).all()


def test_masks_with_the_class_are_chosen_until_it_has_its_share() -> None:
    """A tenth of the masks have half of their pixels of the class."""
    present = np.where(np.arange(200) % 10 == 0, 0.5, 0.0)[:, None]
    for share in (0.05, 0.15, 0.25):
        rows = choose_masks(present, [share], 100, 4)
        assert len(rows) == 100
        assert present[rows].mean() == pytest.approx(share, abs=0.03)
    # There are not enough of them among eight random masks for more.
    assert 0.2 < present[choose_masks(present, [1.0], 100, 4)].mean() < 0.35


def test_masks_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    parcels = {POND: find_parcels(mask_with((POND, slice(10, 20), slice(10, 20))), POND)}

    def composed(seed: int) -> NDArray[np.uint8]:
        return np.stack(list(compose_masks([mask_with()] * 4, parcels, {POND: 0.1}, seed)))

    assert (composed(1) == composed(1)).all()
    assert (composed(1) != composed(2)).any()


def test_a_mask_that_has_enough_is_only_turned() -> None:
    start = mask_with((POND, slice(0, 32), slice(0, 64)))
    parcels = {POND: find_parcels(start, POND)}
    (mask,) = compose_masks([start], parcels, {POND: 0.4}, 5)
    assert (mask == POND).sum() == (start == POND).sum()
