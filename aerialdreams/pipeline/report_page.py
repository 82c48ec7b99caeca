"""What the report says in words, tables and drawings."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.errors import UserError
from aerialdreams.evaluation.spectra import OCTAVES
from aerialdreams.params import Params, flatten

IMAGE_SETS = ("real", "reconstructed", "generated", "untrained", "floor")  # columns of the metrics
WAVELENGTHS = [f"{2 ** (n + 1)}–{2 ** (n + 2)} px" for n in range(OCTAVES)]
CURVE_WIDTH, CURVE_HEIGHT = 480, 200  # pixels
NESTED = ("iou", "spectrum", "all_bands", "ndvi", "height")  # metrics that are no single numbers
NO_EFFECT = ("runtime.", "tracking.")  # params that change no output


@dataclass(frozen=True)
class Number:
    """A metric's value and its 95 % confidence interval; empty where there is none."""

    text: str
    interval: str


@dataclass(frozen=True)
class Card:
    """A number at the top of the page, what it is, and what to compare it with."""

    value: str
    title: str
    context: str


@dataclass(frozen=True)
class ClassRow:
    """A class's IoU on each image set, 0 to 1, and its texture relative to real images."""

    name: str
    colour: str
    real: float
    reconstructed: float
    generated: float
    untrained: float
    spectrum: list[float]  # by octave; empty where it was not computed


@dataclass(frozen=True)
class Confusion:
    """What the judge sees in generated images, by true class.

    Attributes:
        classes: names and colours.
        rows: of each true class, the share of its pixels predicted as each class, 0 to 1.
    """

    classes: list[tuple[str, str]]
    rows: list[list[float]]


@dataclass(frozen=True)
class SplitSection:
    """A split's part of the page.

    Attributes:
        name: validation or test.
        image_sets: columns of `metrics`.
        metrics: each metric's name and its value on each image set.
        classes: of those that occur in the split's masks.
        confusion: of its generated images.
    """

    name: str
    image_sets: list[str]
    metrics: list[tuple[str, list[Number]]]
    classes: list[ClassRow]
    confusion: Confusion


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


def headline(numbers: dict[str, Any]) -> str:
    """The page's title: how good the model is, in one sentence."""
    ratio = numbers["generated"]["miou_of_real"]
    if not isinstance(ratio, float):
        return "Generated aerial photographs and their masks"
    return f"Generated images follow their masks {100 * ratio:.0f} % as well as real photographs"


def cards(evaluation: dict[str, Any], utility: dict[str, Any]) -> list[Card]:
    """The numbers at the top of the page."""
    result = []
    for split, numbers in evaluation.items():
        generated, real = numbers["generated"], numbers["real"]
        ratio = number(generated, "miou_of_real", "{:.0%}")
        context = f"mIoU {generated['miou']:.3f}; real photographs {real['miou']:.3f}"
        low_high = f" ({ratio.interval})" if ratio.interval else ""
        result.append(Card(ratio.text, f"of real mIoU, {split}", context + low_high))
    numbers = next(iter(evaluation.values()))
    generated, real, floor = (numbers[name] for name in ("generated", "real", "floor"))
    accuracy = number(generated, "pixel_accuracy", "{:.0%}").text
    result.append(
        Card(accuracy, "pixel accuracy", f"real photographs {real['pixel_accuracy']:.0%}")
    )
    distance = number(generated, "judge_frechet_distance", "{:.2f}").text
    lowest = number(floor, "judge_frechet_distance", "{:.2f}").text
    result.append(Card(distance, "Fréchet distance", f"two real image sets: {lowest}"))
    texture = number(generated, "spectrum_error", "{:.0%}").text
    lowest = number(floor, "spectrum_error", "{:.0%}").text
    result.append(Card(texture, "texture error", f"two real image sets: {lowest}"))
    gain = number(utility["generated"], "miou_of_real", "{:.0%}")
    result.append(Card(gain.text, "utility as training data, relative to real", gain.interval))
    return result


def number(numbers: dict[str, Any], key: str, pattern: str = "{:.4g}") -> Number:
    """A metric for display.

    Args:
        numbers: an image set's part of the metrics.
        key: the metric's name; its interval is under `key`_95.
        pattern: format of the value and of the ends of its interval.
    """
    value, interval = numbers.get(key, ""), numbers.get(f"{key}_95")
    short = pattern if pattern != "{:.4g}" else "{:.3g}"
    return Number(
        text=pattern.format(value) if isinstance(value, float) else str(value),
        interval=f"{short.format(interval[0])} to {short.format(interval[1])}" if interval else "",
    )


def split_section(
    split: str,
    numbers: dict[str, Any],
    matrix: list[list[int]],
    classes: list[LandCoverClass],
) -> SplitSection:
    """A split's tables.

    Args:
        split: validation or test.
        numbers: the split's part of metrics/evaluation.json.
        matrix: confusion matrix of its generated images, see metrics/confusion.json.
        classes: the class table.
    """
    image_sets = [name for name in IMAGE_SETS if name in numbers]
    keys = dict.fromkeys(key for name in image_sets for key in numbers[name])
    return SplitSection(
        name=split,
        image_sets=image_sets,
        metrics=[
            (key, [number(numbers[name], key) for name in image_sets])
            for key in keys
            if key not in NESTED and not key.endswith("_95")
        ],
        classes=class_rows(numbers, classes),
        confusion=confusion_of(matrix, classes),
    )


def class_rows(numbers: dict[str, Any], classes: list[LandCoverClass]) -> list[ClassRow]:
    """Each class that occurs in the split's masks."""
    colours = {land_cover.name: land_cover.colour for land_cover in classes}
    spectra = numbers["generated"]["spectrum"]
    return [
        ClassRow(
            name=name,
            colour=colours[name],
            real=real,
            reconstructed=numbers["reconstructed"]["iou"].get(name, 0.0),
            generated=numbers["generated"]["iou"].get(name, 0.0),
            untrained=numbers["untrained"]["iou"].get(name, 0.0),
            spectrum=spectra.get(name, []),
        )
        for name, real in numbers["real"]["iou"].items()
    ]


def confusion_of(matrix: list[list[int]], classes: list[LandCoverClass]) -> Confusion:
    """The matrix of the classes that occur in masks or predictions, each row divided by its sum."""
    shown = [i for i in range(len(classes)) if sum(matrix[i]) or any(row[i] for row in matrix)]
    return Confusion(
        classes=[(classes[i].name, classes[i].colour) for i in shown],
        rows=[[matrix[i][j] / max(1, sum(matrix[i])) for j in shown] for i in shown],
    )


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


def utility_by_class(
    utility: dict[str, Any], shares: dict[str, str]
) -> list[tuple[str, str, list[str]]]:
    """Name, share of the train split, and IoU of each class by training set.

    Args:
        utility: metrics/utility.json.
        shares: of the train split's pixels by class, as text.
    """
    return [
        (name, shares[name], [f"{numbers['iou'][name]:.2f}" for numbers in utility.values()])
        for name in utility["real"]["iou"]
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


def changed_params(params: Params, defaults: Params) -> list[tuple[str, str, str]]:
    """Params whose values are not the defaults: name, value, default.

    Args:
        params: of this run.
        defaults: those of settings/default.yaml.
    """
    standard = flatten(defaults)
    return [
        (key, str(value), str(standard.get(key, "")))
        for key, value in flatten(params).items()
        if not key.startswith(NO_EFFECT) and value != standard.get(key)
    ]


def provenance(manifest: dict[str, Any], params: Params) -> list[tuple[str, str]]:
    """Hashes of the models and data, and all params but those that change no output."""
    values = {key: value for key, value in manifest.items() if key.endswith("md5")}
    values |= {k: v for k, v in flatten(params).items() if not k.startswith(NO_EFFECT)}
    return [(key, str(value)) for key, value in values.items()]
