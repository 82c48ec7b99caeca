"""NDVI and heights by class: known numbers."""

from pathlib import Path

import numpy as np
import pytest

from aerialdreams.data.land_cover import class_ids
from aerialdreams.data.spec import FurtherBands
from aerialdreams.data.tiles import read_tile, tile_band
from aerialdreams.evaluation.bands import band_report, band_sums, heights, vegetation_index
from aerialdreams.params import Params

FURTHER = FurtherBands(("near_infrared", "height"), (0, 51))
NAMES = ["field", "wood"]


def image_of(red: int, infrared: int, height: int) -> np.ndarray:
    """One image of a single colour."""
    image = np.zeros((1, 8, 8, 5), np.uint8)
    image[..., 0], image[..., 3], image[..., 4] = red, infrared, height
    return image


def test_the_vegetation_index_of_known_values() -> None:
    assert vegetation_index(image_of(50, 150, 0))[0, 0, 0] == 0.5
    assert vegetation_index(image_of(200, 0, 0))[0, 0, 0] == -1
    assert vegetation_index(image_of(0, 0, 0))[0, 0, 0] == 0
    assert heights(image_of(0, 0, 25), FURTHER)[0, 0, 0] == pytest.approx(5)


def test_images_with_themselves_have_no_distance() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 5), np.uint8)
    masks = np.random.default_rng(1).integers(1, 3, (3, 16, 16), np.uint8)
    sums = band_sums(images, images, masks, [1, 2], FURTHER)
    report = band_report(sums, sums, NAMES, FURTHER, same_masks=True)
    for key in ("ndvi_distance", "ndvi_difference", "height_distance", "height_difference"):
        assert report[key] == 0


def test_trees_that_are_two_metres_too_high() -> None:
    masks = np.ones((1, 8, 8), np.uint8)
    masks[:, 4:] = 2
    real, images = image_of(50, 150, 50), image_of(50, 150, 50)
    images[:, 4:, :, 4] += 10  # 2 m, in the wood alone
    sums, real_sums = (band_sums(part, real, masks, [1, 2], FURTHER) for part in (images, real))
    report = band_report(sums, real_sums, NAMES, FURTHER, same_masks=True)
    assert report["height"]["field"]["distance"] == 0
    wood = report["height"]["wood"]
    assert wood["difference"] == pytest.approx(2)
    assert wood["distance"] == pytest.approx(2, abs=0.01)
    assert wood["mean"] - wood["real_mean"] == pytest.approx(2, abs=0.01)
    assert report["height_difference"] == pytest.approx(1)
    assert report["ndvi_distance"] == 0


def test_pixels_without_class_and_rare_classes_do_not_count() -> None:
    masks = np.full((1, 8, 8), 255, np.uint8)
    masks[0, 0] = 1
    real, images = image_of(50, 150, 50), image_of(50, 150, 50)
    images[:, 1:, :, 4] = 250
    sums, real_sums = (band_sums(part, real, masks, [1, 2], FURTHER) for part in (images, real))
    report = band_report(sums, real_sums, NAMES, FURTHER, same_masks=True)
    assert list(report["height"]) == ["field"]
    assert report["height_distance"] == 0


def test_without_height_there_is_no_height() -> None:
    only = FurtherBands(("near_infrared",))
    images = image_of(50, 150, 0)[..., :4]
    sums = band_sums(images, images, np.ones((1, 8, 8), np.uint8), [1, 2], only)
    assert list(sums) == ["ndvi"]
    assert "height_distance" not in band_report(sums, sums, NAMES, only, same_masks=False)


def test_real_patches(shared: Path, params: Params) -> None:
    """NDVI and heights of two of FLAIR's patches, as read straight from their bands."""
    known = {
        "000473": {"bare soil": (-0.12, 1.3), "coniferous": (0.05, 2.6), "brushwood": (0.05, 1.2)},
        "084558": {"impervious surface": (-0.39, 0.9), "brushwood": (0.11, 2.0)},
    }
    names = [land_cover.name for land_cover in params.classes]
    for number, by_class in known.items():
        image, mask = (
            read_tile(next((shared / "flair").rglob(f"{kind}_{number}.tif")))
            for kind in ("IMG", "MSK")
        )
        further = [tile_band(image, name, params.dataset_spec) for name in FURTHER.names]
        images = np.dstack([image.bands[:3].transpose(1, 2, 0), *further])[None]
        ids = class_ids(params.classes)
        sums = band_sums(images, images, mask.bands[:1], ids, FURTHER)
        report = band_report(sums, sums, names, FURTHER, same_masks=True)
        for name, (index, height) in by_class.items():
            assert report["ndvi"][name]["mean"] == pytest.approx(index, abs=0.01)
            assert report["height"][name]["mean"] == pytest.approx(height, abs=0.15)
