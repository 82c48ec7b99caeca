"""Recipes compared: tables of their params, metrics and cost, and whether they differ."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from aerialdreams.evaluation.comparison import MOST_SEEDS, Difference, difference
from aerialdreams.pipeline.experiments import SPLIT, Experiment
from aerialdreams.pipeline.tracking import training_cost

METRICS = (
    "miou",
    "miou_of_real",
    "pixel_accuracy",
    "class_share_error",
    "boundary_miou",
    "spectrum_error",
    "judge_frechet_distance",
    "judge_kernel_distance",
    "judge_sample_spread",
    "fid",
    "kid",
)


@dataclass(frozen=True)
class Group:
    """Experiments with one recipe: the same params, but for the seeds.

    Attributes:
        name: as the user gave it.
        experiments: one or more.
    """

    name: str
    experiments: Sequence[Experiment]

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """Pixel accuracy of the generated validation images, (patches, experiments)."""
        columns = [experiment.agreement for experiment in self.experiments]
        return pd.concat(columns, axis=1, join="inner")


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the rows."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Comparison:
    """Groups of experiments compared with the first of them, the baseline.

    Attributes:
        groups: two or more.
        tables: parameters that differ, metrics, training cost; a column per group.
        verdicts: one sentence for each group after the first.
    """

    groups: list[Group]
    tables: list[Table]
    verdicts: list[str]


def compare_groups(groups: list[Group]) -> Comparison:
    """Compare groups of experiments with the first of them.

    Raises:
        UserError: one of them has no validation patch in common with the first.
    """
    columns = ["", *(group.name for group in groups)]
    tables = [
        Table("Parameters that differ", columns, params_rows(groups)),
        Table(f"Metrics ({SPLIT})", columns, metric_rows(groups)),
        Table("Training cost", columns, cost_rows(groups)),
    ]
    return Comparison(groups, tables, [verdict(groups[0], other) for other in groups[1:]])


def params_rows(groups: list[Group]) -> list[list[str]]:
    """Parameters whose values differ, except those that change no output (runtime)."""
    experiments = [experiment for group in groups for experiment in group.experiments]
    rows = []
    for key in dict.fromkeys(key for experiment in experiments for key in experiment.params):
        values = [
            ", ".join(dict.fromkeys(str(one.params.get(key, "")) for one in group.experiments))
            for group in groups
        ]
        distinct = {str(experiment.params.get(key, "")) for experiment in experiments}
        if len(distinct) > 1 and not key.startswith("runtime."):
            rows.append([key, *values])
    return rows


def metric_rows(groups: list[Group]) -> list[list[str]]:
    """Metrics of the generated images.

    One experiment's have their 95 % confidence intervals; several experiments' have the standard
    deviation over seeds.
    """
    return [[key, *(_metric(group, key) for group in groups)] for key in METRICS]


def _metric(group: Group, key: str) -> str:
    numbers: list[dict[str, Any]] = [
        one.evaluation[SPLIT]["generated"] for one in group.experiments
    ]
    values = [one.get(key, "") for one in numbers]
    if len(values) > 1 and all(isinstance(value, float) for value in values):
        return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
    interval = numbers[0].get(f"{key}_95")
    text = f"{values[0]:.4f}" if isinstance(values[0], float) else str(values[0])
    return f"{text} ({interval[0]:.3f} to {interval[1]:.3f})" if interval else text


def cost_rows(groups: list[Group]) -> list[list[str]]:
    """Time, memory and speed of the trainings, from the MLflow runs with the models' hashes."""
    costs = [
        [training_cost(experiment.manifest["controlnet_md5"]) for experiment in group.experiments]
        for group in groups
    ]
    keys = dict.fromkeys(key for group in costs for cost in group for key in cost)
    missing = "not in this MLflow store"
    return [
        [key, *(", ".join(cost.get(key, missing) for cost in group) for group in costs)]
        for key in keys
    ]


def verdict(baseline: Group, other: Group) -> str:
    """Whether two groups differ significantly in pixel accuracy, as a sentence.

    Raises:
        UserError: they have no validation patch in common.
    """
    gain = difference(baseline.agreement, other.agreement)
    seeds = "" if gain.seeds == (1, 1) else f"{gain.seeds[1]} and {gain.seeds[0]} seeds, "
    numbers = (
        f"Pixel accuracy of {other.name} minus {baseline.name}: {100 * gain.mean:+.2f} points"
        f" (95 % CI {100 * gain.low:+.2f} to {100 * gain.high:+.2f}, {seeds}N = {gain.n} patches)"
    )
    return f"{numbers}: {_conclusion(gain, baseline.name, other.name)}."


def _conclusion(gain: Difference, baseline: str, other: str) -> str:
    if gain.seeds == (1, 1):
        if gain.significant:
            return (
                "significant for these weights; other training seeds may differ, so compare"
                " several (NAME@SEEDS)"
            )
        return "not significant"
    if gain.significant:
        return f"{other if gain.mean > 0 else baseline} is better"
    if gain.seeds_to_decide is None:
        return f"not decided, and at this difference {MOST_SEEDS} seeds of each would not decide it"
    plural = "s" if gain.seeds_to_decide > 1 else ""
    return (
        f"not decided; if the difference stays as it is, {gain.seeds_to_decide} more seed{plural}"
        " of each would decide it"
    )
