"""Metrics of generated images, with 95 % confidence intervals. All are computed in float64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.land_cover import IGNORED, class_positions

Features = NDArray[np.float64]  # (images, dimensions)
Values = NDArray[np.float64]  # (images,) or (resamples,)

RESAMPLES = 1000  # bootstrap resamples
HALF_SAMPLES = 200  # pairs of half-samples for the interval of a Fréchet distance
MAX_IMAGES = 1000  # images in a half-sample and in other estimates that need all pairs
CHUNK_ROWS = 1000  # rows of a pairwise matrix that are in memory at once
NEIGHBOURS = 5  # k of density and coverage, as in the paper


def confusion(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], class_ids: Sequence[int]
) -> NDArray[np.int64]:
    """Confusion matrix of two masks.

    Args:
        truth: class ids, any shape; pixels without a class do not count.
        predicted: class ids of the same shape.
        class_ids: of the class table, in its order.

    Returns:
        Pixel counts, (classes, classes): row truth, column prediction, in the table's order.
    """
    positions, count = class_positions(class_ids).astype(np.int64), len(class_ids)
    rows, columns = positions[truth.ravel()], positions[predicted.ravel()]
    pairs = (rows * count + columns)[rows != IGNORED]
    return np.bincount(pairs, minlength=count**2).reshape(count, count)


def share_errors(matrices: NDArray[np.int64]) -> Values:
    """Total variation distance between the class shares of each mask and its prediction.

    It ignores positions: 0.1 means that a tenth of the area has another class than the mask has.

    Args:
        matrices: a confusion matrix per image, (images, classes, classes).

    Returns:
        (images,), each 0 to 1.
    """
    truth, predicted = matrices.sum(2), matrices.sum(1)
    errors: Values = np.abs(truth - predicted).sum(1) / 2 / matrices.sum((1, 2))
    return errors


def agreement(matrix: NDArray[np.int64], names: list[str]) -> dict[str, Any]:
    """Mean IoU, pixel accuracy and per-class IoU of a confusion matrix.

    IoU = true positives / (truth + predicted - true positives), over all pixels of the image set.
    Classes that do not occur in the masks have no IoU and do not enter the mean; pixels predicted
    as such a class are errors of their true class.

    Args:
        matrix: the sum of the images' confusion matrices, (classes, classes).
        names: names of the classes, in order of their ids.

    Returns:
        `miou`, `pixel_accuracy` and `iou` by class name, each 0 to 1.
    """
    hits = np.diag(matrix)
    truth, predicted = matrix.sum(1), matrix.sum(0)
    by_class = {
        name: float(hits[i] / (truth[i] + predicted[i] - hits[i]))
        for i, name in enumerate(names)
        if truth[i]
    }
    return {
        "miou": float(np.mean(list(by_class.values()))),
        "pixel_accuracy": float(hits.sum() / matrix.sum()),
        "iou": by_class,
    }


def agreement_resamples(matrices: NDArray[np.int64]) -> dict[str, Values]:
    """Mean IoU and pixel accuracy of bootstrap resamples of the images (Efron 1979).

    The mean IoU is over the classes that occur in any of the masks.

    Args:
        matrices: a confusion matrix per image, (images, classes, classes).

    Returns:
        `miou` and `pixel_accuracy`, (RESAMPLES,) each. Image sets of equal size are resampled with
        the same indices, so their resamples are paired.
    """
    count = len(matrices)
    weights = bootstrap_weights(np.random.default_rng(0), count)
    sums = (weights @ matrices.reshape(count, -1)).reshape(RESAMPLES, *matrices.shape[1:])
    hits = np.diagonal(sums, axis1=1, axis2=2)
    truth, predicted = sums.sum(2), sums.sum(1)
    present = matrices.sum((0, 2)) > 0
    with np.errstate(invalid="ignore"):
        iou = np.where(truth > 0, hits / (truth + predicted - hits), np.nan)[:, present]
    return {"miou": np.nanmean(iou, 1), "pixel_accuracy": hits.sum(1) / sums.sum((1, 2))}


def miou_of_real(
    miou: float, real_miou: float, resamples: Values, real_resamples: Values
) -> dict[str, Any]:
    """Mean IoU relative to that of real images, with its confidence interval.

    Args:
        miou: mean IoU of the image set.
        real_miou: mean IoU of the real images.
        resamples: of the image set, see `agreement_resamples`.
        real_resamples: of the real images, paired with the former.

    Returns:
        `miou_of_real` and `miou_of_real_95`, or a note where a resample of real images scores 0.
    """
    if not real_resamples.all():
        return {"miou_of_real": "not computed: mIoU of real images is 0"}
    return {
        "miou_of_real": miou / real_miou,
        "miou_of_real_95": interval(resamples / real_resamples),
    }


def bootstrap_weights(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """How often each of `count` images is in each bootstrap resample, (RESAMPLES, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)


def interval(resamples: Values) -> list[float]:
    """95 % percentile interval of bootstrap resamples."""
    low, high = np.percentile(resamples, [2.5, 97.5])
    return [float(low), float(high)]


def mean_interval(values: Values) -> list[float]:
    """95 % confidence interval of a mean over images, by bootstrap.

    Args:
        values: one value per image, (images,).
    """
    count = len(values)
    weights = bootstrap_weights(np.random.default_rng(0), count)
    return interval(weights @ values / count)


def median_ratio_interval(a: Values, b: Values) -> list[float]:
    """95 % confidence interval of median(a) / median(b), by bootstrap over the images of both."""
    rng = np.random.default_rng(0)
    medians = (np.median(rng.choice(x, (RESAMPLES, len(x))), 1) for x in (a, b))
    return interval(next(medians) / next(medians))


def frechet_distance(a: Features, b: Features) -> float:
    """Squared Fréchet distance of two Gaussians fitted to features (Dowson and Landau 1982).

    This is FID (Heusel et al. 2017, arXiv 1706.08500) if the features are the FID Inception's:
    |mean_a - mean_b|² + tr(A) + tr(B) - 2 tr((A B)^½), with covariances A and B (ddof 1).

    With X and Y the centred features divided by sqrt(n - 1), A = XᵀX and B = YᵀY, and the last
    trace is the sum of the singular values of X Yᵀ. That needs no matrix square root, and the
    matrix is small if the images are few. If there are more images than dimensions, the R of a QR
    decomposition replaces X or Y.
    """
    x = (a - a.mean(0)) / np.sqrt(len(a) - 1)
    y = (b - b.mean(0)) / np.sqrt(len(b) - 1)
    x, y = _reduce_rows(x), _reduce_rows(y)
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(shift + (x**2).sum() + (y**2).sum() - 2 * cross)


def _reduce_rows(x: Features) -> Features:
    """A matrix R with RᵀR = xᵀx and no more rows than columns."""
    if len(x) <= x.shape[1]:
        return x
    return np.asarray(np.linalg.qr(x, mode="r"))


def frechet_interval(a: Features, b: Features, distance: float) -> list[float]:
    """95 % confidence interval of the Fréchet distance, from half-samples (McCarthy 1969).

    The bootstrap does not suit this distance: duplicates in a resample bias it, and so does a
    smaller set. The spread of random halves, drawn without replacement, equals that of whole sets.
    It is centred on `distance`. From large sets, fewer than half of the images are drawn, and the
    spread is scaled.

    Args:
        a: at least 4 images.
        b: at least 4 images.
        distance: the Fréchet distance of a and b.
    """
    rng, distances = np.random.default_rng(0), []
    sizes = [min(len(x) // 2, MAX_IMAGES) for x in (a, b)]
    for _ in range(HALF_SAMPLES):
        x, y = (s[rng.permutation(len(s))[:n]] for s, n in zip((a, b), sizes, strict=True))
        distances.append(frechet_distance(x, y))
    scale = np.sqrt(sizes[0] / (len(a) - sizes[0]))
    deviations = (np.array(distances) - np.median(distances)) * scale
    return interval(np.maximum(distance + deviations, 0))


def kernel_distance(a: Features, b: Features) -> float:
    """Unbiased squared MMD with the kernel (x·y / d + 1)³ (Bińkowski et al. 2018).

    This is KID (arXiv 1801.01401) if the features are the FID Inception's, but computed over all
    images instead of subsets. Its expected value is 0 for two samples of one distribution; it can
    be negative.
    """

    def total(x: Features, y: Features) -> float:
        chunks = range(0, len(x), CHUNK_ROWS)
        return sum(float(_kernel(x[i : i + CHUNK_ROWS], y).sum()) for i in chunks)

    def within(x: Features) -> float:
        diagonal = float((((x**2).sum(1) / x.shape[1] + 1) ** 3).sum())
        return (total(x, x) - diagonal) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b))


def _kernel(x: Features, y: Features) -> Features:
    product: Features = (x @ y.T / x.shape[1] + 1) ** 3
    return product


def kernel_distance_interval(a: Features, b: Features, resamples: int = 200) -> list[float]:
    """95 % confidence interval of the kernel distance, by bootstrap over the images of both sets.

    Pairs of an image with itself are left out, also where a resample holds an image twice. From
    more than MAX_IMAGES images an evenly spaced subset is used, which makes the interval wider.
    """
    a, b = (x[:: -(-len(x) // MAX_IMAGES)] for x in (a, b))
    rng = np.random.default_rng(0)
    kernel_a, kernel_b, kernel_ab = _kernel(a, a), _kernel(b, b), _kernel(a, b)

    def within(kernel: Features, weights: Values) -> float:
        pairs = np.outer(weights, weights)
        np.fill_diagonal(pairs, 0)
        return float((pairs * kernel).sum() / pairs.sum())

    distances = []
    for _ in range(resamples):
        u, v = (rng.multinomial(len(x), np.full(len(x), 1 / len(x))).astype(float) for x in (a, b))
        if min(np.count_nonzero(u), np.count_nonzero(v)) < 2:  # a single image has no pairs
            continue
        between = float(u @ kernel_ab @ v / (u.sum() * v.sum()))
        distances.append(within(kernel_a, u) + within(kernel_b, v) - 2 * between)
    return interval(np.array(distances))


def density_coverage(real: Features, generated: Features) -> tuple[Values, Values]:
    """Fidelity and diversity of generated images (Naeem et al. 2020, arXiv 2002.09797).

    A ball around each real image reaches to its fifth nearest real neighbour. Density counts the
    balls that contain a generated image, divided by 5; coverage is the share of balls that contain
    any generated image. For two samples of one distribution, density is 1 and coverage close to 1.

    Returns:
        Values of each generated image, whose mean is the density, and of each real image, whose
        mean is the coverage.
    """
    balls_containing, covered = np.zeros(len(generated)), []
    for start in range(0, len(real), CHUNK_ROWS):
        chunk = real[start : start + CHUNK_ROWS]
        # Index 0 is the image itself.
        radius = np.partition(_distances(chunk, real), NEIGHBOURS, axis=1)[:, NEIGHBOURS]
        inside = _distances(chunk, generated) < radius[:, None]
        balls_containing += inside.sum(0)
        covered.append(inside.any(1))
    return balls_containing / NEIGHBOURS, np.concatenate(covered).astype(float)


def nearest(a: Features, b: Features) -> Values:
    """Distance from each image of `a` to its nearest neighbour in `b`, (len(a),)."""
    starts = range(0, len(a), CHUNK_ROWS)
    return np.concatenate([_distances(a[i : i + CHUNK_ROWS], b).min(1) for i in starts])


def spread(samples: list[Features]) -> Values:
    """Diversity of the images generated for one mask, relative to images of different masks.

    Args:
        samples: features of each sample of the same masks, in the same order; at least 2 samples.

    Returns:
        For each mask the mean distance between its samples, divided by the mean distance between
        images of different masks, (masks,). 0 if the noise has no effect, 1 if the mask has none.
    """
    pairs = [(a, b) for n, a in enumerate(samples) for b in samples[:n]]
    same_mask = np.mean([np.linalg.norm(a - b, axis=1) for a, b in pairs], axis=0)
    first = samples[0][:MAX_IMAGES]
    other_masks = _distances(first, first).sum() / (len(first) * (len(first) - 1))
    ratios: Values = same_mask / other_masks
    return ratios


def _distances(a: Features, b: Features) -> Features:
    """Euclidean distances of all pairs, (len(a), len(b))."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))
