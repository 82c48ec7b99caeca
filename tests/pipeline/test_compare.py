"""Comparing experiments: is a difference real?"""

import numpy as np
import pandas as pd
import pytest

from aerialdreams.errors import UserError
from aerialdreams.params import flat
from aerialdreams.pipeline.comparison import as_text, difference


def scores(values: np.ndarray, first: int = 0) -> pd.Series:
    return pd.Series(values, index=[f"{first + n:06}" for n in range(len(values))])


def test_a_small_gain_on_every_patch_is_real() -> None:
    """Patches differ by far more than experiments do; pairs tell them apart all the same."""
    draw = np.random.default_rng(0)
    hard = draw.uniform(0.2, 0.9, 64)
    found = difference(scores(hard), scores(hard + 0.02 + draw.normal(0, 0.01, 64)))
    assert found.real and found.low < 0.02 < found.high
    assert found.mean == pytest.approx(0.02, abs=0.005)


def test_chance_is_told_as_chance() -> None:
    draw = np.random.default_rng(1)
    real = [
        difference(scores(draw.normal(size=64)), scores(draw.normal(size=64))).real
        for _ in range(100)
    ]
    assert sum(real) <= 12  # 5 in 100 by chance alone


def test_only_common_patches_count() -> None:
    found = difference(scores(np.zeros(4)), scores(np.ones(4), first=2))
    assert found.patches == 2 and found.mean == 1
    with pytest.raises(UserError, match="no validation patch in common"):
        difference(scores(np.zeros(4)), scores(np.ones(4), first=9))


def test_params_are_laid_flat() -> None:
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": "x"}) == {"a.b": 1, "a.c": [1, 2], "d": "x"}
    assert as_text([["", "one"], ["key", "2"]]) == "     one\nkey  2"
