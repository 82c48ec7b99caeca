"""Power spectra by class, boundary IoU and calibration, on images whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.data.land_cover import IGNORED
from aerialdreams.data.tiles import read_tile
from aerialdreams.evaluation.boundaries import boundary_agreement, boundary_counts, near_edge
from aerialdreams.evaluation.calibration import calibration, calibration_bins
from aerialdreams.evaluation.spectra import OCTAVES, class_power, spectrum

IDS, NAMES = [1, 2], ["left", "right"]
HALVES = np.repeat([1, 2], 64).astype(np.uint8)[None].repeat(128, 0)


def stripes(wavelength: float, strength: float) -> NDArray[np.uint8]:
    """A grey image with vertical stripes."""
    wave = 128 + strength * np.sin(2 * np.pi * np.arange(128) / wavelength)
    return np.round(wave)[None, :, None].repeat(128, 0).repeat(3, 2).astype(np.uint8)


def power(*images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return class_power(np.stack(images), np.stack([HALVES] * len(images)), IDS)


@pytest.mark.parametrize(("octave", "wavelength"), [(0, 2.9), (1, 5.7), (2, 11.3), (3, 22.6)])
def test_stripes_are_found_in_their_octave(octave: int, wavelength: float) -> None:
    means = power(stripes(wavelength, 100))[0, 0] / power(stripes(wavelength, 100))[0, 1]
    assert means.shape == (OCTAVES, 2)
    assert (means.argmax(0) == octave).all()


def test_spectrum_tells_blur_and_grain_by_class() -> None:
    real = stripes(5.7, 40)
    weak_left = real.copy()
    weak_left[:, :64] = stripes(5.7, 20)[:, :64]
    grainy = np.clip(real + np.random.default_rng(0).normal(0, 20, real.shape), 0, 255)
    reals = power(real, real)
    same = spectrum(reals, reals, NAMES, same_masks=True)
    assert same["spectrum_error"] == 0 and same["spectrum_within_fifth"] == 1
    assert same["spectrum_error_95"] == [0, 0]
    blurred = spectrum(power(weak_left, weak_left), reals, NAMES, same_masks=True)
    assert blurred["spectrum"]["left"][1] == pytest.approx(0.25, abs=0.03)  # half the amplitude
    assert blurred["spectrum"]["right"][1] == pytest.approx(1, abs=0.03)
    grain = spectrum(power(*[grainy.astype(np.uint8)] * 2), reals, NAMES, same_masks=True)
    assert grain["spectrum"]["left"][0] > 1.5  # noise is strongest in the finest octave
    assert grain["spectrum_error"] > same["spectrum_error"]


def test_spectrum_leaves_out_rare_classes_and_pixels_without_a_class() -> None:
    mask = HALVES.copy()
    mask[:, 64:] = IGNORED
    mask[0, 0] = 2
    image = stripes(5.7, 40)
    rare = class_power(image[None], mask[None], IDS)
    assert rare[0, 1, 0].tolist() == [64 * 128 - 1, 1]
    assert spectrum(rare, rare, NAMES, same_masks=True)["spectrum_within_fifth"] == 1
    nothing = class_power(image[None], np.full_like(mask, IGNORED)[None], IDS)
    report = spectrum(nothing, nothing, NAMES, same_masks=True)
    assert report["spectrum"] == {} and "not computed" in report["spectrum_error"]


def test_near_edge_is_a_strip_on_both_sides() -> None:
    strip = near_edge(HALVES, 3)
    assert strip[:, 61:67].all() and not strip[:, :61].any() and not strip[:, 67:].any()


def test_boundary_iou_sees_a_shift_that_iou_hardly_does() -> None:
    shifted = np.roll(HALVES, 2, 1)
    shifted[:, :2] = 1
    counts = np.stack([boundary_counts(HALVES, shifted, IDS)] * 2)
    # Strips of 4 pixels (2 % of the diagonal) on each side; 2 of 6 pixels agree, in both classes.
    assert boundary_agreement(counts)["boundary_miou"] == pytest.approx(2 / 6)
    perfect = np.stack([boundary_counts(HALVES, HALVES, IDS)] * 2)
    assert boundary_agreement(perfect) == {"boundary_miou": 1.0, "boundary_miou_95": [1.0, 1.0]}
    plain = np.stack([boundary_counts(np.ones_like(HALVES), HALVES, IDS)])
    assert "no edges" in boundary_agreement(plain)["boundary_miou"]


def test_calibration_error_is_confidence_less_accuracy() -> None:
    truth = np.ones((10, 10), np.uint8)
    predicted = truth.copy()
    predicted[:3] = 2  # right in 70 %
    bins = calibration_bins(truth, predicted, np.full(truth.shape, 0.9, np.float32), IDS)
    report = calibration(np.stack([bins, bins]))
    assert report["calibration_error"] == pytest.approx(0.2, abs=1e-6)
    assert report["calibration_error_95"] == pytest.approx([0.2, 0.2], abs=1e-6)
    certain = calibration_bins(truth, truth, np.ones(truth.shape, np.float32), IDS)
    assert calibration(certain[None])["calibration_error"] == 0


def test_real_image_through_a_blur_loses_fine_power(shared: Path) -> None:
    folder = shared / "flair/D004_2021/Z6_NU"
    image = read_tile(folder / "img/IMG_000473.tif").bands[:3].transpose(1, 2, 0)
    mask = resize_mask(read_tile(folder / "msk/MSK_000473.tif").bands[0], 128)[None]
    small = resize_image(image, 128)
    blurred = np.array(Image.fromarray(small).filter(ImageFilter.GaussianBlur(1)))
    ids = sorted({int(value) for value in np.unique(mask)} - {IGNORED})
    names = [str(value) for value in ids]
    real, soft = (class_power(picture[None], mask, ids) for picture in (small, blurred))
    ratios = np.array(list(spectrum(soft, real, names, same_masks=True)["spectrum"].values()))
    assert (ratios[:, 0] < 0.5).all()  # fine detail is gone in all classes
    assert (ratios[:, -1] > 0.7).all()  # coarse structure is not
