"""Measures of generated images, each by its definition and in float64."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.flair import CLASS_COUNT

Features = NDArray[np.float64]  # (images, dimensions)


Values = NDArray[np.float64]  # (images,), or (draws,)


RESAMPLES = 1000  # of a bootstrap


HALVES = 200  # of a set, for the interval of a distance


MOST = 1000  # images in a half


ROWS = 1000  # of a matrix of pairs that is in memory at a time; all pairs of a split fill it


NEIGHBOURS = 5  # of density and coverage, as their authors use


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels by class asked (row) and class seen (column), shape (19, 19), entry id - 1."""
    pairs = (truth.astype(np.int64).ravel() - 1) * CLASS_COUNT + predicted.ravel() - 1
    return np.bincount(pairs, minlength=CLASS_COUNT**2).reshape(CLASS_COUNT, CLASS_COUNT)


def share_errors(matrices: NDArray[np.int64]) -> Values:
    """How far each image's shares of the classes are from those asked for, 0 to 1, (images,).

    Half the sum of the absolute differences: 0.1 says that a tenth of the ground is of another
    class than the mask's, and so the caption's, list of classes says, wherever it lies.

    Args:
        matrices: a confusion matrix for each image, (images, 19, 19).
    """
    asked, seen = matrices.sum(2), matrices.sum(1)
    errors: Values = np.abs(asked - seen).sum(1) / 2 / matrices.sum((1, 2))
    return errors


def agreement_draws(matrices: NDArray[np.int64]) -> dict[str, Values]:
    """mIoU and pixel accuracy of image sets drawn with replacement (Efron 1979), by name.

    Args:
        matrices: a confusion matrix for each image, (images, 19, 19).

    Returns:
        (RESAMPLES,) each. Two sets of as many images are drawn alike, so that their draws can be
        divided one by one. The mean IoU is over the classes that all masks together have.
    """
    count = len(matrices)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    sums = (draws @ matrices.reshape(count, -1)).reshape(RESAMPLES, *matrices.shape[1:])
    hits = np.diagonal(sums, axis1=1, axis2=2)
    asked, seen = sums.sum(2), sums.sum(1)
    present = matrices.sum((0, 2)) > 0
    with np.errstate(invalid="ignore"):
        iou = np.where(asked > 0, hits / (asked + seen - hits), np.nan)[:, present]
    return {"miou": np.nanmean(iou, 1), "pixel_accuracy": hits.sum(1) / sums.sum((1, 2))}


def miou_of_real(miou: float, real: float, draws: Values, real_draws: Values) -> dict[str, Any]:
    """mIoU as a share of real images', with its interval; told where those are not read at all.

    Args:
        miou: of some images.
        real: of real ones.
        draws: of the first, see `agreement_draws`.
        real_draws: of the second, drawn alike.
    """
    if not real_draws.all():
        return {"miou_of_real": "not computed: the segmenter reads no real image right"}
    return {"miou_of_real": miou / real, "miou_of_real_95": interval(draws / real_draws)}


def interval(draws: Values) -> list[float]:
    """Interval that holds 95 % of the draws."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return [float(low), float(high)]


def mean_interval(values: Values) -> list[float]:
    """Interval that holds the mean of as many images with 95 %, by bootstrap over images."""
    rng, count = np.random.default_rng(0), len(values)
    weights = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return interval(weights @ values / count)


def median_ratio_interval(a: Values, b: Values) -> list[float]:
    """Interval that holds the ratio of two medians with 95 %, by bootstrap over images of both."""
    rng = np.random.default_rng(0)
    draws = (np.median(rng.choice(x, (RESAMPLES, len(x))), 1) for x in (a, b))
    return interval(next(draws) / next(draws))


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


def frechet_interval(a: Features, b: Features, distance: float) -> list[float]:
    """Interval that holds the Fréchet distance with 95 %, by halves of both sets, 4 images or more.

    Images drawn with replacement lie nearer to each other than images do, and fewer images lie
    farther from others: so the spread of halves drawn without replacement, which is that of the
    whole set drawn anew (McCarthy 1969), is laid around `distance`, that of the whole sets. Of very
    many images fewer than half are taken, and their spread is scaled.
    """
    rng, draws = np.random.default_rng(0), []
    taken = [min(len(x) // 2, MOST) for x in (a, b)]
    for _ in range(HALVES):
        x, y = (s[rng.permutation(len(s))[:n]] for s, n in zip((a, b), taken, strict=True))
        draws.append(frechet_distance(x, y))
    scale = np.sqrt(taken[0] / (len(a) - taken[0]))
    around = (np.array(draws) - np.median(draws)) * scale
    return interval(np.maximum(distance + around, 0))


def kernel_distance(a: Features, b: Features) -> float:
    """Unbiased squared MMD with the kernel (x·y / d + 1)³ (Bińkowski et al. 2018), over all images.

    Near 0 for two samples of one distribution, whatever their size; it may be negative.
    """

    def total(x: Features, y: Features) -> float:
        return sum(float(_kernel(x[i : i + ROWS], y).sum()) for i in range(0, len(x), ROWS))

    def own(x: Features) -> float:
        diagonal = float((((x**2).sum(1) / x.shape[1] + 1) ** 3).sum())
        return (total(x, x) - diagonal) / (len(x) * (len(x) - 1))

    return own(a) + own(b) - 2 * total(a, b) / (len(a) * len(b))


def _kernel(x: Features, y: Features) -> Features:
    product: Features = (x @ y.T / x.shape[1] + 1) ** 3
    return product


def kernel_distance_interval(a: Features, b: Features, resamples: int = 200) -> list[float]:
    """Interval that holds the kernel distance with 95 %, by bootstrap over images of both sets.

    A draw's doubled images would count as equal pairs; those are left out of its means. Of more
    than 1,000 images, as many are taken, spread evenly: the interval is then wider than it is.
    """
    a, b = (x[:: -(-len(x) // MOST)] for x in (a, b))
    rng = np.random.default_rng(0)
    own_a, own_b, across = _kernel(a, a), _kernel(b, b), _kernel(a, b)

    def own(kernel: Features, weights: Values) -> float:
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
    return interval(np.array(values))


def density_coverage(real: Features, made: Features) -> tuple[Values, Values]:
    """Fidelity and diversity of a set beside the real one (Naeem et al. 2020, arXiv 2002.09797).

    A real image's ball reaches to its 5th nearest real one. Density, the mean of the first values:
    balls that a made image lies in, over 5; 1 where both are of one distribution, more where made
    images crowd. Coverage, the mean of the second: share of balls with a made image in them.

    Returns:
        Of each made image, and of each real one.
    """
    inside, covered = np.zeros(len(made)), []
    for first in range(0, len(real), ROWS):
        some = real[first : first + ROWS]
        # The nearest is the image itself.
        radius = np.partition(_distances(some, real), NEIGHBOURS, axis=1)[:, NEIGHBOURS]
        balls = _distances(some, made) < radius[:, None]
        inside += balls.sum(0)
        covered.append(balls.any(1))
    return inside / NEIGHBOURS, np.concatenate(covered).astype(float)


def nearest(a: Features, b: Features) -> Values:
    """Distance of each of a set to the nearest one of another, (len(a),)."""
    rows = range(0, len(a), ROWS)
    return np.concatenate([_distances(a[i : i + ROWS], b).min(1) for i in rows])


def spread(samples: list[Features]) -> Values:
    """How far images of one mask lie apart, beside images of different masks, (masks,).

    Args:
        samples: features of as many image sets as there are samples, of the same masks in order.

    Returns:
        For each mask the mean distance of its samples, over the mean distance of two images of
        different masks: 0 where the noise changes nothing, 1 where the mask does not.
    """
    pairs = [(a, b) for n, a in enumerate(samples) for b in samples[:n]]
    own = np.mean([np.linalg.norm(a - b, axis=1) for a, b in pairs], axis=0)
    first = samples[0][:MOST]
    others = _distances(first, first)
    apart: Values = own / (others.sum() / (len(first) * (len(first) - 1)))
    return apart


def _distances(a: Features, b: Features) -> Features:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))
