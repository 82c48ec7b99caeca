"""Measures of generated images, each by its definition and in float64."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerialdreams.classes import CLASS_COUNT

Features = NDArray[np.float64]  # (images, dimensions)
RESAMPLES = 1000  # of a bootstrap
NEIGHBOURS = 5  # of density and coverage, as their authors use


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels by class asked (row) and class seen (column), shape (19, 19), entry id - 1."""
    pairs = (truth.astype(np.int64).ravel() - 1) * CLASS_COUNT + predicted.ravel() - 1
    return np.bincount(pairs, minlength=CLASS_COUNT**2).reshape(CLASS_COUNT, CLASS_COUNT)


def share_error(matrices: NDArray[np.int64]) -> float:
    """How far the shares of the classes are from those asked for, 0 to 1, the mean over images.

    Half the sum of the absolute differences: 0.1 says that a tenth of the ground is of another
    class than the mask's, and so the caption's, list of classes says, wherever it lies.

    Args:
        matrices: a confusion matrix for each image, (images, 19, 19).
    """
    asked, seen = matrices.sum(2), matrices.sum(1)
    pixels = matrices.sum((1, 2))
    return float((np.abs(asked - seen).sum(1) / 2 / pixels).mean())


def agreement_interval(matrices: NDArray[np.int64]) -> dict[str, list[float]]:
    """Intervals that hold mIoU and pixel accuracy with 95 %, by bootstrap over images.

    Args:
        matrices: a confusion matrix for each image, (images, 19, 19).

    Returns:
        By name, the 2.5th and 97.5th percentile of what images drawn with replacement give
        (Efron 1979); the mean IoU is over the classes that all masks together have.
    """
    count = len(matrices)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    sums = (draws @ matrices.reshape(count, -1)).reshape(RESAMPLES, *matrices.shape[1:])
    hits = np.diagonal(sums, axis1=1, axis2=2)
    asked, seen = sums.sum(2), sums.sum(1)
    present = matrices.sum((0, 2)) > 0
    with np.errstate(invalid="ignore"):
        iou = np.where(asked > 0, hits / (asked + seen - hits), np.nan)[:, present]
    measures = {"miou": np.nanmean(iou, 1), "pixel_accuracy": hits.sum(1) / sums.sum((1, 2))}
    return {name: np.percentile(values, [2.5, 97.5]).tolist() for name, values in measures.items()}


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
    the sum of the singular values of X Yᵀ: exact, and small where there are few images. Of more
    images than dimensions, the triangles of their QR decompositions have the same.
    """
    x = (a - a.mean(0)) / np.sqrt(len(a) - 1)
    y = (b - b.mean(0)) / np.sqrt(len(b) - 1)
    x, y = _triangle(x), _triangle(y)
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(shift + (x**2).sum() + (y**2).sum() - 2 * cross)


def _triangle(x: Features) -> Features:
    """What of a tall matrix its singular values hang on, no taller than wide."""
    if len(x) <= x.shape[1]:
        return x
    return np.asarray(np.linalg.qr(x, mode="r"))


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


def kernel_distance_interval(a: Features, b: Features, resamples: int = 200) -> list[float]:
    """Interval that holds the kernel distance with 95 %, by bootstrap over images of both sets.

    A draw's doubled images would count as equal pairs; those are left out of its means. Of more
    than 1,000 images, as many are taken, spread evenly: the interval is then wider than it is.
    """
    a, b = (x[:: -(-len(x) // 1000)] for x in (a, b))
    rng = np.random.default_rng(0)
    own_a, own_b, across = ((x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))

    def own(kernel: Features, weights: NDArray[np.float64]) -> float:
        pairs = np.outer(weights, weights)
        np.fill_diagonal(pairs, 0)
        return float((pairs * kernel).sum() / pairs.sum())

    values = []
    for _ in range(resamples):
        u, v = (rng.multinomial(len(x), np.full(len(x), 1 / len(x))).astype(float) for x in (a, b))
        if min(np.count_nonzero(u), np.count_nonzero(v)) < 2:  # of few images: no pair to compare
            continue
        mixed = float(u @ across @ v / (u.sum() * v.sum()))
        values.append(own(own_a, u) + own(own_b, v) - 2 * mixed)
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]


def density_coverage(real: Features, made: Features) -> tuple[float, float]:
    """Fidelity and diversity of a set beside the real one (Naeem et al. 2020, arXiv 2002.09797).

    A real image's ball reaches to its 5th nearest real one. Density: balls that a made image lies
    in, over 5, on average; 1 where both are of one distribution, more where made images crowd.
    Coverage: share of balls with a made image in them, at most 1.
    """
    between = _distances(real, real)
    radius = np.sort(between, 1)[:, NEIGHBOURS]  # the nearest is the image itself
    inside = _distances(real, made) < radius[:, None]
    return float(inside.sum(0).mean() / NEIGHBOURS), float(inside.any(1).mean())


def nearest(a: Features, b: Features) -> float:
    """Median, over a set, of the distance to the nearest one of another."""
    rows = range(0, len(a), 1000)  # a whole split's distances to the train split fill a memory
    return float(np.median(np.concatenate([_distances(a[i : i + 1000], b).min(1) for i in rows])))


def _distances(a: Features, b: Features) -> Features:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))
