"""Whether two experiments differ in how closely their images follow the masks."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aerialdreams.errors import UserError

RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """Mean difference of a per-patch score between two experiments, second minus first.

    Attributes:
        n: patches that both experiments have.
        mean: of the patches' differences.
        low: lower limit of the mean's 95 % confidence interval.
        high: upper limit.
    """

    n: int
    mean: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the confidence interval excludes 0."""
        return not self.low <= 0 <= self.high


def difference(baseline: pd.Series, other: pd.Series) -> Difference:
    """Compare two experiments' scores by a paired bootstrap over the patches that both have.

    Pairing removes the differences between patches, as a mask that is hard for one model is hard
    for the other: it detects smaller differences than two separate intervals do. The interval does
    not cover the variation between training seeds. It is the bootstrap's percentile interval
    (Efron and Tibshirani 1993, ch. 13), from a fixed seed.

    Args:
        baseline: score by patch id, such as pixel accuracy.
        other: the other experiment's.

    Returns:
        The difference `other` minus `baseline`.

    Raises:
        UserError: they have no patch in common.
    """
    common = baseline.index.intersection(other.index)
    if not len(common):
        raise UserError("the experiments have no validation patch in common")
    gains: NDArray[np.float64] = (other[common] - baseline[common]).to_numpy()
    draws = np.random.default_rng(0).integers(len(gains), size=(RESAMPLES, len(gains)))
    low, high = np.percentile(gains[draws].mean(1), [2.5, 97.5])
    return Difference(len(gains), float(gains.mean()), float(low), float(high))
