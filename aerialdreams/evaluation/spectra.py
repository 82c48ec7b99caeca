"""Texture by class: the power of images in octaves of wavelength, compared with real images.

Grain, missing furrows and blur change it, and a segmenter may overlook all three.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aerialdreams.data.land_cover import IGNORED, class_positions
from aerialdreams.evaluation.metrics import Values, bootstrap_weights, interval

OCTAVES = 4  # wavelengths of 2 to 4, 4 to 8, 8 to 16 and 16 to 32 pixels
MARGIN = 16  # pixels by which images are mirrored at their borders
LUMINANCE = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601
COMMON = 0.01  # share of the pixels from which a class enters the mean
NONE_COMMON = "not computed: no class covers 1 % of both image sets"
TOLERANCE = 0.2  # "within a fifth"

Power = NDArray[np.float64]  # (images, 2, OCTAVES, classes): sum of power, number of positions


def class_power(images: NDArray[np.uint8], masks: NDArray[np.uint8], class_ids: list[int]) -> Power:
    """Power of each image in each octave, summed over the pixels of each class.

    The luminance is filtered in the Fourier domain, and its squares are summed where the class is.
    Detail at the edges between classes counts for the classes on both sides.

    Args:
        images: RGB and any further bands, (images, height, width, bands), at least 32 pixels high
            and wide.
        masks: class ids, (images, height, width); pixels without a class do not count.
        class_ids: of the class table, in its order.
    """
    positions = class_positions(class_ids).astype(np.int64)[masks]
    luminance = (torch.from_numpy(images[..., :3]).float() / 255) @ LUMINANCE
    result = np.zeros((len(images), 2, OCTAVES, len(class_ids)))
    for octave, plane in enumerate(_octaves(luminance)):
        squares = (plane**2).double().numpy()
        for image, (square, classes) in enumerate(zip(squares, positions, strict=True)):
            counted = classes != IGNORED
            sums = np.bincount(classes[counted], square[counted], len(class_ids))
            result[image, 0, octave] = sums
            result[image, 1, octave] = np.bincount(classes[counted], minlength=len(class_ids))
    return result


def _octaves(planes: torch.Tensor) -> Iterator[torch.Tensor]:
    """Planes, (images, height, width), with only the frequencies of each octave, finest first.

    Planes are mirrored at their borders, so that these do not act as edges.
    """
    padded = torch.nn.functional.pad(planes[:, None], (MARGIN,) * 4, mode="reflect")[:, 0]
    height, width = padded.shape[1:]
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = torch.hypot(rows, columns)  # cycles per pixel
    transformed = torch.fft.rfft2(padded)
    for octave in range(OCTAVES):
        highest = torch.inf if octave == 0 else 0.5**octave / 2
        chosen = (frequency >= 0.5**octave / 4) & (frequency < highest)
        plane = torch.fft.irfft2(transformed * chosen, (height, width))
        yield plane[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def spectrum(power: Power, real: Power, names: list[str], same_masks: bool) -> dict[str, Any]:
    """Power of an image set relative to that of real images, by class and octave.

    Args:
        power: of the image set, see `class_power`.
        real: of the real images.
        names: names of the classes, in the table's order.
        same_masks: whether the two sets have the same masks in the same order, so that they are
            resampled together.

    Returns:
        - `spectrum`: by class that occurs in both sets, the ratio in each octave, finest first; 1
          for equal power;
        - `spectrum_error`: mean of |ratio - 1| over the octaves of all classes that cover at least
          1 % of both sets' pixels, and its 95 % interval `spectrum_error_95` by bootstrap;
        - `spectrum_within_fifth`: share of these ratios that are between 0.8 and 1.2.

        Where no class is that common, the last two are notes.
    """
    ratios = _ratios(power.sum(0), real.sum(0))  # (octaves, classes)
    common = _shares(power) & _shares(real) & np.isfinite(ratios).all(0)
    report: dict[str, Any] = {
        "spectrum": {
            name: [float(ratio) for ratio in ratios[:, position]]
            for position, name in enumerate(names)
            if np.isfinite(ratios[:, position]).all()
        }
    }
    if not common.any():
        return report | {"spectrum_error": NONE_COMMON, "spectrum_within_fifth": NONE_COMMON}
    errors = np.abs(ratios[:, common] - 1)
    resampled = _resampled_ratios(power, real, same_masks)[:, :, common]
    resampled_errors: Values = np.nanmean(np.abs(resampled - 1), (1, 2))
    return report | {
        "spectrum_error": float(errors.mean()),
        "spectrum_error_95": interval(resampled_errors[np.isfinite(resampled_errors)]),
        "spectrum_within_fifth": float((errors <= TOLERANCE).mean()),
    }


def _ratios(power: NDArray[np.float64], real: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratio of mean powers, (..., octaves, classes); NaN or infinite where a class is missing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, real_mean = (p[..., 0, :, :] / p[..., 1, :, :] for p in (power, real))
        ratios: NDArray[np.float64] = mean / real_mean
    return ratios


def _shares(power: Power) -> NDArray[np.bool_]:
    """Which classes cover at least `COMMON` of an image set, (classes,)."""
    pixels = power[:, 1, 0].sum(0)
    return np.asarray(pixels >= COMMON * pixels.sum())


def _resampled_ratios(power: Power, real: Power, same_masks: bool) -> NDArray[np.float64]:
    """Ratios of bootstrap resamples of the images, (RESAMPLES, octaves, classes)."""
    rng = np.random.default_rng(0)
    own = bootstrap_weights(rng, len(power))
    others = own if same_masks else bootstrap_weights(rng, len(real))
    sums = np.tensordot(own.astype(float), power, 1), np.tensordot(others.astype(float), real, 1)
    return _ratios(*sums)
