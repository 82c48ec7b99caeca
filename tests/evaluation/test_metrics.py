"""Metrics against values calculated by hand or by another formula."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from aerialdreams.evaluation.metrics import (
    agreement,
    agreement_resamples,
    confusion,
    density_coverage,
    frechet_distance,
    frechet_interval,
    interval,
    kernel_distance,
    kernel_distance_interval,
    nearest,
    share_errors,
    spread,
)

IDS = list(range(1, 20))
NAMES = [f"class {number}" for number in IDS]


def test_agreement_calculated_by_hand() -> None:
    truth = np.array([[1, 1, 1, 1], [2, 2, 2, 19]], np.uint8)
    predicted = np.array([[1, 1, 1, 2], [2, 2, 3, 19]], np.uint8)
    result = agreement(confusion(truth, predicted, IDS), NAMES)
    assert result["iou"] == {"class 1": 3 / 4, "class 2": 2 / 4, "class 19": 1.0}
    assert result["miou"] == pytest.approx((3 / 4 + 2 / 4 + 1) / 3)
    assert result["pixel_accuracy"] == 6 / 8


@pytest.mark.parametrize("count", [20, 200])  # fewer and more images than dimensions
def test_frechet_distance_equals_the_formula(count: int) -> None:
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


def test_kernel_distance_calculated_by_hand() -> None:
    a, b = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    # k(x, y) = (xy + 1)³: k(0, 1) = 1; k(1, 2) = 27; between a and b: 1, 1, 8, 27.
    assert kernel_distance(a, b) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_frechet_distance_of_gaussians_is_analytic() -> None:
    """Shifted by 3 in one of 10 dimensions and twice as wide: 9 + 10 (2 - 1)²."""
    rng = np.random.default_rng(2)
    a = rng.normal(size=(20_000, 10))
    b = 2 * rng.normal(size=(20_000, 10))
    b[:, 0] += 3
    assert frechet_distance(a, b) == pytest.approx(19, rel=0.02)


def test_intervals_contain_the_value_and_narrow_with_more_images() -> None:
    rng = np.random.default_rng(3)

    def matrices(count: int) -> np.ndarray:
        truth = rng.integers(1, 4, (count, 100), np.uint8)
        wrong = rng.random((count, 100)) < 0.3
        predicted = np.where(wrong, rng.integers(1, 4, (count, 100)), truth).astype(np.uint8)
        return np.stack([confusion(*pair, IDS) for pair in zip(truth, predicted, strict=True)])

    widths = []
    for count in (20, 500):
        sampled = matrices(count)
        metrics = agreement(sampled.sum(0), NAMES)
        for key, resamples in agreement_resamples(sampled).items():
            low, high = interval(resamples)
            assert low < metrics[key] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_interval_of_the_kernel_distance() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(60, 8)), rng.normal(size=(60, 8)) + 1
    low, high = kernel_distance_interval(a, b)
    assert 0 < low < kernel_distance(a, b) < high
    low, high = kernel_distance_interval(a, rng.normal(size=(60, 8)))
    assert low < 0 < high  # one distribution: the distance is 0
    low, high = kernel_distance_interval(a[:3], b[:3])  # some resamples repeat a single image
    assert np.isfinite([low, high]).all()


def test_density_and_coverage() -> None:
    rng = np.random.default_rng(5)
    real = rng.normal(size=(300, 4))

    def means(generated: np.ndarray) -> list[float]:
        return [float(values.mean()) for values in density_coverage(real, generated)]

    density, coverage = means(rng.normal(size=(300, 4)))
    assert 0.8 < density < 1.2 and coverage > 0.9
    crowd = np.repeat(real[:3], 100, 0)  # three images, 100 times each
    density, coverage = means(crowd)
    assert density > 0.5 and coverage < 0.2
    assert means(rng.normal(size=(300, 4)) + 20) == [0, 0]
    assert nearest(real[:5], real) == pytest.approx(0, abs=1e-6)


def test_share_errors_calculated_by_hand() -> None:
    truth, predicted = np.array([[1, 1, 2, 2]], np.uint8), np.array([[2, 2, 1, 3]], np.uint8)
    # Shares of classes 1 to 3: 1/2, 1/2, 0 in the mask and 1/4, 1/2, 1/4 in the prediction.
    assert share_errors(confusion(truth, predicted, IDS)[None])[0] == pytest.approx(0.25)
    assert share_errors(confusion(truth, truth[:, ::-1], IDS)[None])[0] == 0


def test_interval_of_the_frechet_distance() -> None:
    rng = np.random.default_rng(6)
    # The interval of one pair must match the standard deviation over many pairs.
    pairs = [(rng.normal(size=(200, 6)), rng.normal(size=(200, 6)) + 0.5) for _ in range(60)]
    deviation = np.std([frechet_distance(a, b) for a, b in pairs])
    widths = []
    for a, b in pairs[:5]:
        low, high = frechet_interval(a, b, frechet_distance(a, b))
        assert low < frechet_distance(a, b) < high
        widths.append(high - low)
    assert 0.6 < np.mean(widths) / (2 * 1.96 * deviation) < 1.6


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(50, 6)), rng.normal(size=(40, 6)) + 1
    whole = [np.array(kernel_distance(a, b)), *density_coverage(a, b)]
    monkeypatch.setattr("aerialdreams.evaluation.metrics.CHUNK_ROWS", 7)
    chunked = [np.array(kernel_distance(a, b)), *density_coverage(a, b)]
    for expected, actual in zip(whole, chunked, strict=True):
        assert np.allclose(expected, actual)


def test_spread_of_samples() -> None:
    rng = np.random.default_rng(8)
    first = rng.normal(size=(80, 6))
    assert spread([first, first]).tolist() == [0] * 80  # the noise has no effect
    random = spread([first, rng.normal(size=(80, 6)), rng.normal(size=(80, 6))])
    assert random.shape == (80,) and 0.9 < random.mean() < 1.1  # the mask has no effect
