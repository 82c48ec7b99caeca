"""The diffusion loss: pixels without a class, and classes that weigh more."""

import pytest
import torch

from aerialdreams.data.land_cover import IGNORED
from aerialdreams.training.losses import (
    MAX_WEIGHT,
    balanced_weights,
    diffusion_loss,
    position_weights,
    valid_shares,
)


def test_weights_by_frequency_have_a_mean_of_one() -> None:
    weights = balanced_weights([75.0, 20.0, 5.0, 0.0], [3, 1, 7, 9], exponent=0.5)
    shares = {3: 0.75, 1: 0.2, 7: 0.05}
    assert sum(weights[i].item() * share for i, share in shares.items()) == pytest.approx(1)
    assert (weights[1] / weights[3]).item() == pytest.approx((0.75 / 0.2) ** 0.5, rel=1e-5)
    assert weights[9] == weights[IGNORED] == weights[2] == 0
    equal = balanced_weights([75.0, 20.0, 5.0], [3, 1, 7], exponent=0)
    assert equal[[3, 1, 7]].tolist() == pytest.approx([1, 1, 1])


def test_a_handful_of_pixels_does_not_decide() -> None:
    """Uncut, the rare class would weigh 100,000 times as much as the other."""
    weights = balanced_weights([99.999, 0.001], [1, 2], exponent=1)
    assert weights[2] == pytest.approx(2 * MAX_WEIGHT, rel=1e-3)
    assert weights[1] == pytest.approx(1, rel=1e-3)


def test_a_rare_class_counts_by_its_weight() -> None:
    """One latent position in four lies on the rare class, one on no class."""
    masks = torch.ones(1, 4, 4, dtype=torch.uint8)
    masks[:, :2, :2], masks[:, 2:, 2:] = 2, IGNORED
    table = torch.zeros(256)
    table[1], table[2] = 0.5, 3.0
    weights, valid = position_weights(masks, table, (2, 2)), valid_shares(masks, (2, 2))
    assert weights[0, 0].tolist() == [[3.0, 0.5], [0.5, 0.0]]
    prediction, target = torch.zeros(1, 1, 2, 2), torch.tensor([[[[2.0, 1.0], [1.0, 9.0]]]])
    assert diffusion_loss(prediction, target).tolist() == [(4 + 1 + 1 + 81) / 4]
    assert diffusion_loss(prediction, target, valid).item() == pytest.approx((4 + 1 + 1) / 3)
    weighted = diffusion_loss(prediction, target, valid, weights)
    assert weighted.item() == pytest.approx((3 * 4 + 0.5 + 0.5) / 3)
