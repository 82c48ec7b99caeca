"""Near infrared and height by class, compared with real images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.land_cover import IGNORED, class_positions
from aerialdreams.data.spec import FurtherBands
from aerialdreams.evaluation.spectra import COMMON, NONE_COMMON

BINS = 256

BandSums = dict[str, NDArray[np.float64]]  # see `band_sums`


def vegetation_index(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """NDVI, (infrared - red) / (infrared + red), of the stored values (Rouse et al. 1974).

    Stored values are no reflectances, so compare it between images of one dataset only.

    Args:
        images: red, green, blue and near infrared, 0 to 255, (images, height, width, bands).

    Returns:
        -1 to 1, (images, height, width); 0 where both bands are 0.
    """
    red, infrared = images[..., 0].astype(float), images[..., 3].astype(float)
    total = red + infrared
    return np.asarray((infrared - red) / np.where(total == 0, 1, total), np.float64)


def heights(images: NDArray[np.uint8], further: FurtherBands) -> NDArray[np.float64]:
    """Heights above ground, metres, (images, height, width).

    Args:
        images: 0 to 255, (images, height, width, bands); height is the last band.
        further: the bands after red, green and blue.
    """
    low, high = further.height_metres
    return np.asarray(low + images[..., -1] * ((high - low) / 255), np.float64)


def band_sums(
    images: NDArray[np.uint8],
    real: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    class_ids: list[int],
    further: FurtherBands,
) -> BandSums:
    """Histograms of NDVI and height by class, and summed differences from real images.

    Args:
        images: 0 to 255, (images, height, width, bands).
        real: the real images of the same masks.
        masks: class ids; pixels without a class do not count.
        class_ids: of the class table, in its order.
        further: the bands after red, green and blue.

    Returns:
        For `ndvi` and `height`, as far as there are bands for it, (classes, BINS + 1): pixels in
        each bin of its range, then the sum of |image - real image|.
    """
    positions = class_positions(class_ids).astype(np.int64)[masks]
    counted = positions != IGNORED
    positions, count = positions[counted], len(class_ids)
    sums = {}
    for name, (low, high) in quantities(further).items():
        values, real_values = (
            (vegetation_index(part) if name == "ndvi" else heights(part, further))[counted]
            for part in (images, real)
        )
        bins = ((values - low) / (high - low) * BINS).astype(np.int64).clip(0, BINS - 1)
        histogram = np.bincount(positions * BINS + bins, minlength=count * BINS)
        differences = np.bincount(positions, np.abs(values - real_values), count)
        sums[name] = np.column_stack([histogram.reshape(count, BINS), differences])
    return sums


def quantities(further: FurtherBands) -> dict[str, tuple[float, float]]:
    """What is measured of some bands, with its range: NDVI, and height in metres."""
    ranges = {"near_infrared": ("ndvi", (-1.0, 1.0)), "height": ("height", further.height_metres)}
    return dict(ranges[band] for band in further.names)


def band_report(
    sums: BandSums, real: BandSums, names: list[str], further: FurtherBands, same_masks: bool
) -> dict[str, Any]:
    """How far near infrared and height of an image set are from those of real images.

    Args:
        sums: of the image set, see `band_sums`, added up.
        real: of the real images.
        names: names of the classes, in the table's order.
        further: the bands after red, green and blue.
        same_masks: whether `sums` has differences from the real images of the same masks.

    Returns:
        For each quantity of `quantities`:

        - `ndvi`: by class that occurs in both sets, its `mean` and `real_mean`; `distance`, the
          1-Wasserstein distance of the two distributions; and `difference`, the mean of
          |image - real image| over the pixels;
        - `ndvi_distance` and `ndvi_difference`: their means over the classes that cover at least
          1 % of both sets' pixels, or a note if there is none.
    """
    report: dict[str, Any] = {}
    for quantity, (low, high) in quantities(further).items():
        histograms, real_histograms = sums[quantity][:, :BINS], real[quantity][:, :BINS]
        pixels, real_pixels = histograms.sum(1), real_histograms.sum(1)
        centres = low + (np.arange(BINS) + 0.5) * (high - low) / BINS
        by_class: dict[str, dict[str, float]] = {}
        for position, name in enumerate(names):
            if not pixels[position] or not real_pixels[position]:
                continue
            own = histograms[position] / pixels[position]
            others = real_histograms[position] / real_pixels[position]
            distance = np.abs(np.cumsum(own - others)).sum() * (high - low) / BINS
            by_class[name] = {
                "mean": float(own @ centres),
                "real_mean": float(others @ centres),
                "distance": float(distance),
            }
            if same_masks:
                by_class[name]["difference"] = float(
                    sums[quantity][position, BINS] / pixels[position]
                )
        report[quantity] = by_class
        common = [
            name
            for name, share, real_share in zip(
                names, pixels / pixels.sum(), real_pixels / real_pixels.sum(), strict=True
            )
            if min(share, real_share) >= COMMON
        ]
        for key in ("distance", "difference") if same_masks else ("distance",):
            values = [by_class[name][key] for name in common]
            report[f"{quantity}_{key}"] = float(np.mean(values)) if values else NONE_COMMON
    return report
