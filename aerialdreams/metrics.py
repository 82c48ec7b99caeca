"""Measures of generated images, each by its definition and in float64."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerialdreams.classes import CLASS_COUNT

Features = NDArray[np.float64]  # (images, dimensions)


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels by class asked (row) and class seen (column), shape (19, 19), entry id - 1."""
    pairs = (truth.astype(np.int64).ravel() - 1) * CLASS_COUNT + predicted.ravel() - 1
    return np.bincount(pairs, minlength=CLASS_COUNT**2).reshape(CLASS_COUNT, CLASS_COUNT)


def agreement(matrix: NDArray[np.int64], names: list[str]) -> dict[str, Any]:
    """mIoU, pixel accuracy and IoU by class of a confusion matrix.

    The mean is over the classes that the masks have; a class that they lack counts only as the
    errors of those that it is taken for. IoU = hits / (asked + seen - hits) over all pixels.
    """
    hits = np.diag(matrix)
    asked, seen = matrix.sum(1), matrix.sum(0)
    by_class = {
        name: float(hits[i] / (asked[i] + seen[i] - hits[i]))
        for i, name in enumerate(names)
        if asked[i]
    }
    return {
        "miou": float(np.mean(list(by_class.values()))),
        "pixel_accuracy": float(hits.sum() / matrix.sum()),
        "iou": by_class,
    }


def frechet_distance(a: Features, b: Features) -> float:
    """Fréchet distance of two Gaussians fitted to the features (Dowson and Landau 1982).

    |mean_a - mean_b|² + tr(A) + tr(B) - 2 tr((A B)^½), with A and B the covariances (ddof 1).
    With X and Y the centred features over sqrt(n - 1), A = XᵀX and B = YᵀY, and the last trace is
    the sum of the singular values of X Yᵀ: exact, and small where there are few images.
    """
    x = (a - a.mean(0)) / np.sqrt(len(a) - 1)
    y = (b - b.mean(0)) / np.sqrt(len(b) - 1)
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(shift + (x**2).sum() + (y**2).sum() - 2 * cross)


def kernel_distance(a: Features, b: Features) -> float:
    """Unbiased squared MMD with the kernel (x·y / d + 1)³ (Bińkowski et al. 2018), over all images.

    Near 0 for two samples of one distribution, whatever their size; it may be negative.
    """

    def kernel(x: Features, y: Features) -> Features:
        product: Features = (x @ y.T / x.shape[1] + 1) ** 3
        return product

    def own(x: Features) -> float:
        matrix = kernel(x, x)
        return float((matrix.sum() - np.trace(matrix)) / (len(x) * (len(x) - 1)))

    return own(a) + own(b) - 2 * float(kernel(a, b).mean())
