"""A page of compared experiments: verdicts, tables, images of the same masks and noise."""

import statistics
from dataclasses import dataclass

from aerialdreams.paths import GENERATED
from aerialdreams.pipeline.comparison import Comparison, Group
from aerialdreams.pipeline.experiments import SPLIT, Experiment
from aerialdreams.pipeline.html import Figure, data_url, render
from aerialdreams.pipeline.report_page import Card

PATCHES = 4  # in each gallery


@dataclass(frozen=True)
class PatchFigures:
    """A patch's image in each experiment."""

    title: str
    figures: list[Figure]


@dataclass(frozen=True)
class Gallery:
    """Patches under a heading."""

    title: str
    patches: list[PatchFigures]


def comparison_page(comparison: Comparison) -> str:
    """The page as HTML.

    It shows the patches with the highest and the lowest difference in pixel accuracy between the
    last group and the first, among those that all experiments have, and sheets of validation
    images. Images are those of each group's first experiment.

    Raises:
        UserError: an image is neither in the cache nor in a remote.
    """
    groups = comparison.groups
    baseline, last = groups[0], groups[-1]
    gains = (last.agreement.mean(axis=1) - baseline.agreement.mean(axis=1)).dropna()
    for group in groups:
        gains = gains[gains.index.isin(group.agreement.index)]
    experiments = [group.experiments[0] for group in groups]
    ranked = gains.sort_values(ascending=False, kind="stable")
    pair = f"{last.name} minus {baseline.name}"
    rankings = {
        f"Highest differences, {pair}": ranked[:PATCHES],
        f"Lowest differences, {pair}": ranked[::-1][:PATCHES],
    }
    return render(
        "comparison.html",
        title="Comparison of " + ", ".join(group.name for group in groups),
        verdicts=comparison.verdicts,
        cards=[_card(group) for group in groups],
        tables=comparison.tables,
        galleries=[
            Gallery(title, [_patch(str(i), gain, experiments) for i, gain in ranking.items()])
            for title, ranking in rankings.items()
        ],
        split=SPLIT,
        sheets=[_sheet(experiment) for experiment in experiments],
    )


def _card(group: Group) -> Card:
    """A group's mean IoU relative to real images."""
    values = [one.evaluation[SPLIT]["generated"]["miou_of_real"] for one in group.experiments]
    if not all(isinstance(value, float) for value in values):
        return Card("", group.name, str(values[0]))
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    count = f", {len(values)} seeds" if len(values) > 1 else ""
    value = f"{100 * statistics.mean(values):.1f}{spread} %"
    return Card(value, group.name, f"of real mIoU, {SPLIT}{count}")


def _patch(patch_id: str, gain: float, experiments: list[Experiment]) -> PatchFigures:
    figures = []
    for experiment in experiments:
        png = experiment.image(patch_id)
        caption = f"{experiment.name}: {experiment.agreement[patch_id]:.0%}"
        figures.append(Figure([(experiment.name, data_url(png))] if png else [], caption))
    return PatchFigures(f"{patch_id}, pixel accuracy {100 * gain:+.1f} points", figures)


def _sheet(experiment: Experiment) -> Figure:
    png = experiment.read(GENERATED / f"{SPLIT}.png")
    return Figure([(experiment.name, data_url(png))], experiment.name)
