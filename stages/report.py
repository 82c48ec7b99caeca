"""report: samples, metrics, losses and provenance of the model on one page.

Reads   data/generated/, data/dataset/ (validation and test), data/agreement.parquet,
        metrics/{evaluation,utility}.json, metrics/{controlnet,controlnet_validation}.csv
Writes  data/report.html: samples, the patches with the highest and lowest pixel accuracy, metrics
        with confidence intervals, IoU by class, losses, params, hashes, credits; self-contained.
        The page is also attached to the MLflow run that trained the model.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from aerialdreams.data.dataset import Patch, read_patches
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.data.land_cover import LandCoverClass, mask_to_rgb
from aerialdreams.errors import UserError
from aerialdreams.generation.outputs import MANIFEST, evaluated_splits, read_generated
from aerialdreams.params import Params, flatten
from aerialdreams.paths import (
    AGREEMENT,
    CONTROLNET_LOSSES,
    CONTROLNET_VALIDATION_LOSSES,
    EVALUATION,
    GENERATED,
    REPORT,
    UTILITY,
)
from aerialdreams.pipeline.html import Figure, data_url, render
from aerialdreams.pipeline.mlflow_store import runs_page
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.pipeline.tracking import log_evaluation
from aerialdreams.util.files import atomic_file, read_json
from aerialdreams.util.tables import read_table

CURVES = {
    "Training loss": CONTROLNET_LOSSES,
    "Validation loss": CONTROLNET_VALIDATION_LOSSES,
}
GALLERY_SIZE = 6  # patches
IMAGE_SETS = ("real", "reconstructed", "generated", "untrained", "floor")  # columns of the metrics
CURVE_WIDTH, CURVE_HEIGHT = 480, 200  # pixels


@dataclass(frozen=True)
class Gallery:
    """Figures under a heading."""

    title: str
    figures: list[Figure]


@dataclass(frozen=True)
class Number:
    """A metric's value and its 95 % confidence interval; empty where there is none."""

    text: str
    interval: str


@dataclass(frozen=True)
class ClassRow:
    """IoU of a class, on real and on generated images."""

    name: str
    colour: str
    real: float
    generated: float


@dataclass(frozen=True)
class SplitSection:
    """A split's part of the page.

    Attributes:
        name: validation or test.
        galleries: samples, and the patches with the highest and lowest pixel accuracy.
        image_sets: columns of `metrics`.
        metrics: each metric's name and its value on each image set.
        classes: IoU of each class that occurs in the split's masks.
    """

    name: str
    galleries: list[Gallery]
    image_sets: list[str]
    metrics: list[tuple[str, list[Number]]]
    classes: list[ClassRow]


@dataclass(frozen=True)
class UtilityRow:
    """Results of segmenters trained on one set of images."""

    name: str
    n: int
    miou: Number
    miou_of_real: Number
    by_seed: list[str]


@dataclass(frozen=True)
class Curve:
    """A loss curve; `points` are x,y in pixels from the top left corner, by step."""

    title: str
    points: list[str]
    width: int
    height: int
    top: str
    last: str
    steps: int


def main(params: Params) -> str:
    manifest = read_json(GENERATED / MANIFEST)
    evaluation = read_json(EVALUATION)
    agreement = read_table(AGREEMENT)
    names = evaluated_splits()
    splits = [split_section(split, evaluation[split], agreement, params) for split in names]
    page = render(
        "report.html",
        title="AerialDreams: evaluation report",
        lead=lead(evaluation[names[0]]),
        splits=splits,
        utility=utility_rows(read_json(UTILITY)),
        curves=[read_curve(title, path) for title, path in CURVES.items()],
        provenance=provenance(manifest, params),
        credits=params.credits,
    )
    with atomic_file(REPORT) as partial:
        partial.write_text(page, encoding="utf-8")
    run = log_evaluation(manifest["controlnet_md5"], {}, [REPORT])
    figures = sum(len(gallery.figures) for split in splits for gallery in split.galleries)
    trainings = runs_page() if run else ""  # a store that is down is not waited for twice
    return f"{figures} figures, {len(page) / 1e6:.1f} MB" + (
        f"; trainings: {trainings}" if trainings else ""
    )


def lead(numbers: dict[str, Any]) -> dict[str, str]:
    """The mean IoUs of the page's first sentence."""
    mean_ious = {
        name: f"{numbers[name]['miou']:.3f}" for name in ("generated", "real", "untrained")
    }
    return mean_ious | {"n": str(numbers["generated"]["n"])}


def split_section(
    split: str, numbers: dict[str, Any], agreement: pd.DataFrame, params: Params
) -> SplitSection:
    """A split's galleries and tables.

    Args:
        split: validation or test.
        numbers: the split's part of metrics/evaluation.json.
        agreement: data/agreement.parquet.
        params: for the class table and the size of the images.
    """
    image_sets = [name for name in IMAGE_SETS if name in numbers]
    return SplitSection(
        name=split,
        galleries=galleries(split, agreement, params),
        image_sets=image_sets,
        metrics=metric_rows(numbers, image_sets),
        classes=class_rows(numbers, params.classes),
    )


def galleries(split: str, agreement: pd.DataFrame, params: Params) -> list[Gallery]:
    """Samples spread over the ranking, and the patches with the highest and lowest accuracy."""
    rows = agreement[(agreement["split"] == split) & (agreement["source"] == "generated")]
    ranked = rows.sort_values(["pixel_accuracy", "patch_id"], ascending=[False, True])
    accuracy: dict[str, float] = dict(
        zip(ranked["patch_id"], ranked["pixel_accuracy"], strict=True)
    )
    ids = list(accuracy)
    count = min(GALLERY_SIZE, len(ids))
    selections = {
        "Samples": sorted(ids[number * len(ids) // count] for number in range(count)),
        "Highest pixel accuracy": ids[:GALLERY_SIZE],
        "Lowest pixel accuracy": ids[-GALLERY_SIZE:],
    }
    selected = {patch_id for selection in selections.values() for patch_id in selection}
    figures = {
        patch.patch_id: patch_figure(split, patch, accuracy[patch.patch_id], params)
        for patch in read_patches(split)
        if patch.patch_id in selected
    }
    return [
        Gallery(title, [figures[patch_id] for patch_id in selection])
        for title, selection in selections.items()
    ]


def patch_figure(split: str, patch: Patch, accuracy: float, params: Params) -> Figure:
    """A patch's mask, real image and generated image."""
    size = params.image_size
    images = {
        "mask": mask_to_rgb(resize_mask(patch.mask, size), params.classes),
        "real": resize_image(patch.image, size),
        "generated": read_generated(split, "generated", patch.patch_id, size),
    }
    return Figure(
        images=[(name, data_url(rgb)) for name, rgb in images.items()],
        caption=f"{patch.patch_id}: pixel accuracy {accuracy:.0%}. {patch.caption}",
    )


def metric_rows(
    numbers: dict[str, Any], image_sets: Iterable[str]
) -> list[tuple[str, list[Number]]]:
    """All metrics of a split, on each image set; IoU by class has a table of its own."""
    keys = dict.fromkeys(key for name in image_sets for key in numbers[name])
    return [
        (key, [number(numbers[name], key) for name in image_sets])
        for key in keys
        if key != "iou" and not key.endswith("_95")
    ]


def number(numbers: dict[str, Any], key: str) -> Number:
    """A metric for display."""
    value, interval = numbers.get(key, ""), numbers.get(f"{key}_95")
    return Number(
        text=f"{value:.4g}" if isinstance(value, float) else str(value),
        interval=f"{interval[0]:.3g} to {interval[1]:.3g}" if interval else "",
    )


def class_rows(numbers: dict[str, Any], classes: list[LandCoverClass]) -> list[ClassRow]:
    """IoU of each class that occurs in the split's masks."""
    colours = {land_cover.name: land_cover.colour for land_cover in classes}
    generated = numbers["generated"]["iou"]
    return [
        ClassRow(name, colours[name], real, generated[name])
        for name, real in numbers["real"]["iou"].items()
    ]


def utility_rows(utility: dict[str, Any]) -> list[UtilityRow]:
    """Results of the segmenters, by the images they were trained on."""
    return [
        UtilityRow(
            name=name,
            n=numbers["n"],
            miou=number(numbers, "miou"),
            miou_of_real=number(numbers, "miou_of_real"),
            by_seed=[f"{score:.3f}" for score in numbers["miou_by_seed"]],
        )
        for name, numbers in utility.items()
    ]


def read_curve(title: str, path: Path) -> Curve:
    """A loss curve from a CSV file.

    Args:
        title: of the curve.
        path: a CSV file with columns step and loss, one row or more.

    Raises:
        UserError: the file does not exist.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro`") from None
    (steps, last), top = rows[-1], max(loss for _, loss in rows)
    points = [
        f"{CURVE_WIDTH * step / steps:.1f},{CURVE_HEIGHT * (1 - loss / top):.1f}"
        for step, loss in rows
    ]
    return Curve(
        title=title,
        points=points,
        width=CURVE_WIDTH,
        height=CURVE_HEIGHT,
        top=f"{top:.3g}",
        last=f"{last:.4f}",
        steps=steps,
    )


def provenance(manifest: dict[str, Any], params: Params) -> list[tuple[str, str]]:
    """Hashes of the models and data, and all params but those that change no output."""
    values = {key: value for key, value in manifest.items() if key.endswith("md5")}
    no_effect = ("runtime.", "tracking.")
    values |= {k: v for k, v in flatten(params).items() if not k.startswith(no_effect)}
    return [(key, str(value)) for key, value in values.items()]


if __name__ == "__main__":
    run_stage("report", __doc__, main)
