"""Calibration of the judge: whether it is right as often as its probabilities say."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.land_cover import IGNORED, class_positions
from aerialdreams.evaluation.metrics import Values, bootstrap_weights, interval

BINS = 15  # as in Guo et al. 2017

Bins = NDArray[np.float64]  # (3, BINS): pixels, sum of probabilities, pixels that are right


def calibration_bins(
    truth: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    class_ids: list[int],
) -> Bins:
    """Pixels of an image by the probability of the predicted class.

    Args:
        truth: class ids, (height, width); pixels without a class do not count.
        predicted: class ids of the same shape.
        probabilities: of the predicted classes, 0 to 1, of the same shape.
        class_ids: of the class table, in its order.
    """
    counted = class_positions(class_ids)[truth] != IGNORED
    values = probabilities[counted].astype(np.float64)
    right = (truth == predicted)[counted].astype(np.float64)
    bins = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    return np.stack([np.bincount(bins, w, BINS) for w in (np.ones_like(values), values, right)])


def calibration(bins: NDArray[np.float64]) -> dict[str, Any]:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599) with its interval.

    Args:
        bins: of each image, (images, 3, BINS).

    Returns:
        `calibration_error`, 0 to 1: the mean over all pixels of the difference between probability
        and share of right predictions in the pixel's bin; and `calibration_error_95`, by bootstrap.
    """
    weights = bootstrap_weights(np.random.default_rng(0), len(bins))
    return {
        "calibration_error": float(_error(bins.sum(0))),
        "calibration_error_95": interval(_error(np.tensordot(weights.astype(float), bins, 1))),
    }


def _error(sums: NDArray[np.float64]) -> Values:
    pixels, probabilities, right = (sums[..., row, :] for row in range(3))
    error: Values = np.abs(probabilities - right).sum(-1) / pixels.sum(-1)
    return error
