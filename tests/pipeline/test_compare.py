"""aerialdreams compare: significance of a difference, tables as text, missing data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aerialdreams.cli.compare import as_text
from aerialdreams.errors import UserError
from aerialdreams.evaluation.comparison import difference
from aerialdreams.params import flat
from aerialdreams.pipeline.experiments import Table
from tests.projects import clone, run


def scores(values: np.ndarray, first: int = 0) -> pd.Series:
    return pd.Series(values, index=[f"{first + n:06}" for n in range(len(values))])


def test_a_small_gain_on_every_patch_is_significant() -> None:
    """Patches differ by far more than experiments do; the pairs remove that."""
    draw = np.random.default_rng(0)
    baseline = draw.uniform(0.2, 0.9, 64)
    gain = difference(scores(baseline), scores(baseline + 0.02 + draw.normal(0, 0.01, 64)))
    assert gain.significant and gain.low < 0.02 < gain.high
    assert gain.mean == pytest.approx(0.02, abs=0.005)


def test_chance_is_rarely_significant() -> None:
    draw = np.random.default_rng(1)
    significant = [
        difference(scores(draw.normal(size=64)), scores(draw.normal(size=64))).significant
        for _ in range(100)
    ]
    assert sum(significant) <= 12  # 5 in 100 by chance alone


def test_only_common_patches_count() -> None:
    gain = difference(scores(np.zeros(4)), scores(np.ones(4), first=2))
    assert gain.n == 2 and gain.mean == 1
    with pytest.raises(UserError, match="no validation patch in common"):
        difference(scores(np.zeros(4)), scores(np.ones(4), first=9))


def test_params_are_laid_flat() -> None:
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": "x"}) == {"a.b": 1, "a.c": [1, 2], "d": "x"}


def test_tables_as_text() -> None:
    table = Table("Parameters", ["", "HEAD", "other"], [["key", "2", ""], ["k", "longer", "3"]])
    assert as_text(table).splitlines() == [
        "Parameters",
        "     HEAD    other",
        "key  2",
        "k    longer  3",
    ]


def test_a_clone_without_data(tmp_path: Path) -> None:
    """Neither the cache nor a remote has the images of a commit or of the workspace."""
    project = clone(tmp_path / "project")
    for names in (("HEAD", "HEAD~1"), ("workspace", "HEAD")):
        ended = run(project, "aerialdreams", "compare", *names)
        assert ended.returncode == 2, ended.stderr
        assert f"{names[0]}: " in ended.stderr and "have its data (`dvc pull`" in ended.stderr
        assert "raceback" not in ended.stderr
