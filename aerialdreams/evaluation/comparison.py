"""Whether the images of two recipes, each trained from one seed or more, differ in their scores."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from aerialdreams.errors import UserError

RESAMPLES = 2000
MOST_SEEDS = 50  # of a recipe, that `seeds_to_decide` considers


@dataclass(frozen=True)
class Difference:
    """Mean difference of a per-patch score between two groups of experiments, second minus first.

    Attributes:
        n: patches that all experiments have.
        seeds: number of experiments in each group.
        mean: of the patches' differences.
        low: lower limit of the mean's 95 % confidence interval.
        high: upper limit.
        seeds_to_decide: further seeds of each group after which the interval would exclude 0 if
            mean and variances stayed as they are; 0 if it does already, None if none of up to
            `MOST_SEEDS` would be enough, or if no group has two seeds.
    """

    n: int
    seeds: tuple[int, int]
    mean: float
    low: float
    high: float
    seeds_to_decide: int | None = None

    @property
    def significant(self) -> bool:
        """Whether the confidence interval excludes 0."""
        return not self.low <= 0 <= self.high


def difference(baseline: pd.DataFrame, other: pd.DataFrame) -> Difference:
    """Compare two groups of experiments, patch by patch.

    Patches are paired, as a mask that is hard for one model is hard for the other: that detects
    smaller differences than two separate intervals do.

    With one experiment in each group the interval is the paired bootstrap's percentile interval
    over patches (Efron and Tibshirani 1993, ch. 13), from a fixed seed; it does not cover the
    variation between training seeds. With more, the variances of the mean over patches and over
    each group's seeds are added, with Student's t at the degrees of freedom of Satterthwaite (1946,
    An approximate distribution of estimates of variance components). A group with one experiment
    then counts as varying between seeds as the other does.

    Args:
        baseline: scores such as pixel accuracy, (patches, seeds), indexed by patch id.
        other: the other group's.

    Returns:
        The difference `other` minus `baseline`.

    Raises:
        UserError: they have no patch in common.
    """
    common = baseline.index.intersection(other.index)
    if not len(common):
        raise UserError("the experiments have no validation patch in common")
    first, second = baseline.loc[common].to_numpy(float), other.loc[common].to_numpy(float)
    gains: NDArray[np.float64] = second.mean(1) - first.mean(1)
    seeds, mean = (first.shape[1], second.shape[1]), float(gains.mean())
    if seeds == (1, 1):
        draws = np.random.default_rng(0).integers(len(gains), size=(RESAMPLES, len(gains)))
        low, high = np.percentile(gains[draws].mean(1), [2.5, 97.5])
        return Difference(len(gains), seeds, mean, float(low), float(high))
    spread = _Spread(
        float(gains.var(ddof=1)) / len(gains) if len(gains) > 1 else 0.0,
        len(gains),
        *_seed_variances(first.mean(0), second.mean(0)),
    )
    half = spread.half_width(*seeds)
    needed = None
    for more in range(MOST_SEEDS - max(seeds) + 1):
        if spread.half_width(seeds[0] + more, seeds[1] + more) < abs(mean):
            needed = more
            break
    return Difference(len(gains), seeds, mean, mean - half, mean + half, needed)


def _seed_variances(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[float, float, int]:
    """Variance between seeds of each group's mean score, and the fewest seeds it is known from."""
    known = [float(means.var(ddof=1)) for means in (first, second) if len(means) > 1]
    variances = [
        float(means.var(ddof=1)) if len(means) > 1 else known[0] for means in (first, second)
    ]
    return variances[0], variances[1], min(len(m) for m in (first, second) if len(m) > 1)


@dataclass(frozen=True)
class _Spread:
    """Variances of a difference of means: over patches, and of one training in each group."""

    patches: float
    count: int
    first: float
    second: float
    known_from: int  # seeds

    def half_width(self, first: int, second: int) -> float:
        """Half the 95 % interval with so many seeds in each group."""
        parts = [self.patches, self.first / first, self.second / second]
        degrees = [max(self.count - 1, 1)]
        degrees += [max(seeds, self.known_from) - 1 for seeds in (first, second)]
        total = sum(parts)
        if not total:
            return 0.0
        of_total = total**2 / sum(
            part**2 / degree for part, degree in zip(parts, degrees, strict=True)
        )
        return float(stats.t.ppf(0.975, of_total) * total**0.5)
