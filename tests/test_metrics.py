"""The measures, against numbers made by hand or by another way."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from aerialdreams.metrics import agreement, confusion, frechet_distance, kernel_distance

NAMES = [f"class {number}" for number in range(1, 20)]


def test_agreement_by_hand() -> None:
    truth = np.array([[1, 1, 1, 1], [2, 2, 2, 19]], np.uint8)
    seen = np.array([[1, 1, 1, 2], [2, 2, 3, 19]], np.uint8)
    result = agreement(confusion(truth, seen), NAMES)
    assert result["iou"] == {"class 1": 3 / 4, "class 2": 2 / 4, "class 19": 1.0}
    assert result["miou"] == pytest.approx((3 / 4 + 2 / 4 + 1) / 3)
    assert result["pixel_accuracy"] == 6 / 8


@pytest.mark.parametrize("count", [20, 200])  # fewer and more images than dimensions
def test_frechet_distance_is_the_formula(count: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(count, 40)) @ rng.normal(size=(40, 40))
    b = rng.normal(size=(count, 40)) * 2 + 1
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = sqrtm(cov_a @ cov_b + 1e-10 * np.eye(40)).real
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    formula = shift + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(formula, rel=1e-4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_unbiased() -> None:
    rng = np.random.default_rng(1)
    same = [kernel_distance(rng.normal(size=(30, 8)), rng.normal(size=(30, 8))) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(200)
    assert kernel_distance(rng.normal(size=(30, 8)), rng.normal(size=(30, 8)) + 1) > max(same)


def test_kernel_distance_by_hand() -> None:
    a, b = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    # k(x, y) = (xy + 1)³: k(0, 1) = 1; k(1, 2) = 27; across 1, 1, 8, 27.
    assert kernel_distance(a, b) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)
