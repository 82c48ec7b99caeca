"""aerialdreams compare: significance of a difference, tables as text, missing data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aerialdreams.cli.compare import as_text
from aerialdreams.errors import UserError
from aerialdreams.evaluation.comparison import difference
from aerialdreams.params import flat
from aerialdreams.pipeline.comparison import Group, Table, metric_rows, verdict
from aerialdreams.pipeline.experiments import SPLIT, Experiment
from aerialdreams.pipeline.identity import recipe_of
from tests.projects import clone, run


def scores(*seeds: np.ndarray, first: int = 0) -> pd.DataFrame:
    """Scores of patches, a column for each seed."""
    index = [f"{first + n:06}" for n in range(len(seeds[0]))]
    return pd.DataFrame(np.stack(seeds, 1), index=index)


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


def trained(draw: np.random.Generator, effect: float, seeds: int, deviation: float) -> pd.DataFrame:
    """Scores on 200 patches of a recipe's trainings, whose means differ by chance."""
    shifts = effect + draw.normal(0, deviation, seeds)
    return scores(*(0.6 + shift + draw.normal(0, 0.05, 200) for shift in shifts))


def test_intervals_cover_seeds_and_patches() -> None:
    """Of 300 comparisons of equal recipes, about 5 % are called different; pooled, most are."""
    draw = np.random.default_rng(2)
    gains = [difference(trained(draw, 0, 3, 0.02), trained(draw, 0, 3, 0.02)) for _ in range(300)]
    assert sum(gain.significant for gain in gains) <= 24
    one_seed = [
        difference(trained(draw, 0, 1, 0.02), trained(draw, 0, 1, 0.02)) for _ in range(300)
    ]
    assert sum(gain.significant for gain in one_seed) > 150
    gain = difference(trained(draw, 0, 3, 0.01), trained(draw, 0.1, 3, 0.01))
    assert gain.low < 0.1 < gain.high and gain.significant and gain.seeds_to_decide == 0


def test_seeds_that_would_decide() -> None:
    """With the seeds that it asks for, three of four comparisons are decided."""
    draw = np.random.default_rng(3)
    asked = decided = 0
    for _ in range(200):
        gain = difference(trained(draw, 0, 3, 0.02), trained(draw, 0.03, 3, 0.02))
        if gain.seeds_to_decide:
            asked += 1
            more = 3 + gain.seeds_to_decide
            first, second = trained(draw, 0, more, 0.02), trained(draw, 0.03, more, 0.02)
            decided += difference(first, second).significant
    assert asked > 50 and decided > 0.6 * asked
    none = difference(scores(*np.eye(3)), scores(*np.eye(3)))
    assert none.mean == 0 and none.seeds_to_decide is None


def test_one_seed_against_several_counts_as_varying_alike() -> None:
    draw = np.random.default_rng(4)
    several = trained(draw, 0, 4, 0.02)
    alone = difference(several, trained(draw, 0.02, 1, 0.02))
    assert alone.seeds == (4, 1) and alone.high - alone.low > 0.06


def group(name: str, draw: np.random.Generator, mean: float) -> Group:
    """Three evaluated seeds."""
    experiments = []
    for seed in range(3):
        agreement = pd.Series(mean + draw.normal(0, 0.01, 40), [f"{n:06}" for n in range(40)])
        evaluation = {SPLIT: {"generated": {"miou": mean + seed / 100, "fid": "not computed"}}}
        params = {"train_controlnet.seed": seed, "train_controlnet.steps": name}
        experiments.append(
            Experiment(f"{name}-{seed}", params, evaluation, agreement, {}, Path.read_bytes)
        )
    return Group(name, experiments)


def test_groups_are_compared_over_their_seeds() -> None:
    draw = np.random.default_rng(5)
    base, wider = group("base", draw, 0.6), group("wider", draw, 0.7)
    assert ["miou", "0.6100 ± 0.0100", "0.7100 ± 0.0100"] in metric_rows([base, wider])
    assert ["fid", "not computed", "not computed"] in metric_rows([base, wider])
    sentence = verdict(base, wider)
    assert "3 and 3 seeds, N = 40 patches): wider is better." in sentence
    assert verdict(wider, base).endswith("wider is better.")


def test_a_recipe_is_its_params_without_seeds() -> None:
    params = {"train_controlnet.seed": 3, "train_controlnet.steps": 10, "runtime.loaders": 1}
    assert recipe_of(params) == recipe_of(params | {"train_controlnet.seed": 4})
    assert recipe_of(params) == recipe_of(params | {"runtime.loaders": 8})
    assert recipe_of(params) != recipe_of(params | {"train_controlnet.steps": 11})


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
