"""report: what the pipeline made and how good it is, as one page that needs nothing beside it.

Reads   data/generated/, data/dataset/ (validation and test), data/agreement.parquet,
        metrics/{evaluation,utility}.json, metrics/{controlnet,controlnet_validation}.csv
Writes  data/report.html: samples, the best and the worst by agreement with the mask, IoU by
        class, losses, numbers with intervals, params, hashes, credits; the same page goes to the
        run in MLflow that trained the model
"""

import base64
import csv
import html
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aerialdreams.data.credits import IGN_CREDIT, OSM_CREDIT
from aerialdreams.data.dataset import Patch, read_patches
from aerialdreams.data.images import read_image, resize_image, resize_mask
from aerialdreams.data.land_cover import mask_to_rgb
from aerialdreams.errors import UserError
from aerialdreams.generation.outputs import EVALUATED_SPLITS, MANIFEST
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
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.pipeline.tracking import log_evaluation
from aerialdreams.util.files import atomic_file, read_json
from aerialdreams.util.tables import read_table

CURVES = {
    "Loss": CONTROLNET_LOSSES,
    "Loss on validation patches": CONTROLNET_VALIDATION_LOSSES,
}
SHOWN = 6  # patches in a row of samples, of the best and of the worst
SETS = ("real", "generated", "untrained", "floor")
STYLE = """
body {font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; color: #222}
h1, h2 {font-weight: 600} table {border-collapse: collapse; margin: 1rem 0}
td, th {padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right}
td:first-child, th:first-child {text-align: left}
.patches {display: flex; flex-wrap: wrap; gap: 1rem} figure {margin: 0; width: 10.4rem}
figure img {width: 10.4rem; image-rendering: pixelated; display: block}
figcaption {font-size: 12px; color: #555} .bar {display: inline-block; height: .7rem}
small {color: #666} svg {background: #fafafa; margin-right: 1rem}
"""


def main(params: Params) -> str:
    report = read_json(EVALUATION)
    manifest = read_json(GENERATED / MANIFEST)
    agreement = read_table(AGREEMENT)
    sections = [f"<h1>AerialDreams</h1><p>{summary(report)}</p>"]
    shown = 0
    for split in EVALUATED_SPLITS:
        of_split = agreement[(agreement["split"] == split) & (agreement["source"] == "generated")]
        ranked = of_split.sort_values(["pixel_accuracy", "patch_id"], ascending=[False, True])
        ids, scores = ranked["patch_id"].tolist(), ranked["pixel_accuracy"].tolist()
        spread = [ids[n * len(ids) // SHOWN] for n in range(min(SHOWN, len(ids)))]
        rows = {"Samples": sorted(spread), "Best": ids[:SHOWN], "Worst": ids[-SHOWN:]}
        wanted = {one for chosen in rows.values() for one in chosen}
        patches = {p.patch_id: p for p in read_patches(split) if p.patch_id in wanted}
        accuracy = dict(zip(ids, scores, strict=True))
        sections.append(f"<h2>{split.capitalize()}</h2>")
        for title, chosen in rows.items():
            figures = [figure(split, patches[one], accuracy[one], params) for one in chosen]
            shown += len(figures)
            sections.append(f"<h3>{title}</h3><div class=patches>{''.join(figures)}</div>")
        sections.append("<h3>Numbers</h3>" + numbers_table(report[split]))
        sections.append("<h3>IoU by class</h3>" + class_bars(report[split]))
    sections.append("<h2>Use</h2>" + utility_table(read_json(UTILITY)))
    sections.append("<h2>Training</h2>" + "".join(curve(t, p) for t, p in CURVES.items()))
    made_from = {key: value for key, value in manifest.items() if key.endswith("md5")}
    # How the work was done changes no byte, of this page neither.
    made_from |= {k: v for k, v in flatten(params).items() if not k.startswith("runtime.")}
    sections.append("<h2>Made from</h2>" + two_columns(made_from))
    credits = "".join(f"<li>{html.escape(one)}</li>" for one in (IGN_CREDIT, OSM_CREDIT))
    sections.append(
        f"<h2>Credits</h2><ul>{credits}</ul><p>Generated images are synthetic and show no real"
        " place. The base model's licence holds for them: see models/controlnet/README.md.</p>"
    )
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    page = f"<!doctype html><html lang=en><head>{head}<title>AerialDreams</title>"
    page += f"<style>{STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    with atomic_file(REPORT) as partial:
        partial.write_text(page, encoding="utf-8")
    log_evaluation(manifest["controlnet_md5"], {}, [REPORT])
    return f"{shown} patches shown, {len(page) / 1e6:.1f} MB"


def summary(report: dict[str, Any]) -> str:
    """The page in a sentence."""
    first = report["validation"]
    return (
        f"A judge reads the land cover of generated validation images with a mean IoU of"
        f" <b>{first['generated']['miou']:.3f}</b>, of real ones with {first['real']['miou']:.3f},"
        f" of an untrained ControlNet's with {first['untrained']['miou']:.3f}"
        f" (N = {first['generated']['n']})."
    )


def figure(split: str, patch: Patch, accuracy: float, params: Params) -> str:
    """A patch's mask, real and generated image, one above the other."""
    size = params.image_size
    made = read_image(GENERATED / split / f"generated/IMG_{patch.patch_id}.png")
    pictures = (
        ("mask", mask_to_rgb(resize_mask(patch.mask, size), params.classes)),
        ("real", resize_image(patch.image, size)),
        ("generated", made),
    )
    images = "".join(f"<img alt={name} src='{inline(rgb)}'>" for name, rgb in pictures)
    words = f"{patch.patch_id}: {accuracy:.0%} of pixels as asked. {html.escape(patch.caption)}"
    return f"<figure>{images}<figcaption>{words}</figcaption></figure>"


def inline(rgb: NDArray[np.uint8]) -> str:
    """A picture as a data URL."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def numbers_table(split: dict[str, Any]) -> str:
    """Every number of a split, a column for each image set, with its interval where it has one."""
    sets = [name for name in SETS if name in split]
    keys = dict.fromkeys(key for name in sets for key in split[name])
    rows = [["", *sets]]
    for key in keys:
        if key != "iou" and not key.endswith("_95"):
            rows.append([key, *(cell(split[name], key) for name in sets)])
    return table(rows)


def utility_table(report: dict[str, Any]) -> str:
    """What segmenters learnt from real and generated images, by lesson."""
    rows = [["learnt from", "N", "mIoU on real test images", "of real", "by seed"]]
    for name, numbers in report.items():
        seeds = " ".join(f"{score:.3f}" for score in numbers["miou_by_seed"])
        of_real = cell(numbers, "miou_of_real")
        rows.append([name, str(numbers["n"]), cell(numbers, "miou"), of_real, seeds])
    return table(rows)


def cell(numbers: dict[str, Any], key: str) -> str:
    """A number, and the interval that holds it with 95 %."""
    value = numbers.get(key, "")
    if not isinstance(value, float):
        return str(value)
    interval = numbers.get(f"{key}_95")
    return f"{value:.4g}" + (
        f" <small>{interval[0]:.3g} to {interval[1]:.3g}</small>" if interval else ""
    )


def class_bars(split: dict[str, Any]) -> str:
    """IoU of each class, real and generated, as bars."""
    rows = [["", "real", "generated"]]
    for name, real in split["real"]["iou"].items():
        made = split["generated"]["iou"][name]
        bars = (
            f"<span class=bar style='width:{value * 12:.2f}rem;background:{colour}'></span>"
            f" {value:.2f}"
            for value, colour in ((real, "#9bb"), (made, "#d80"))
        )
        rows.append([name, *bars])
    return table(rows)


def table(rows: Iterable[list[str]]) -> str:
    """An HTML table; the first row is its head."""
    lines = [
        "".join(f"<{tag}>{text}</{tag}>" for text in row)
        for row, tag in zip(rows, ["th", *["td"] * 1000], strict=False)
    ]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def two_columns(values: dict[str, Any]) -> str:
    """Names and values."""
    rows = [["", ""], *([key, html.escape(str(value))] for key, value in values.items())]
    return table(rows)


def curve(title: str, path: Path) -> str:
    """A curve of a CSV file, columns step and loss, as SVG."""
    try:
        with path.open(encoding="utf-8") as file:
            points = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    except OSError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    width, height = 480, 200
    last, top = points[-1][0], max(loss for _, loss in points)
    line = " ".join(
        f"{width * step / last:.1f},{height * (1 - loss / top):.1f}" for step, loss in points
    )
    return (
        f"<figure style='width:{width}px'><svg viewBox='0 0 {width} {height}' role=img>"
        f"<polyline points='{line}' fill=none stroke='#d80' stroke-width=2 /></svg><figcaption>"
        f"{title}: {points[-1][1]:.4f} after {last} steps; the axis ends at {top:.3g}"
        "</figcaption></figure>"
    )


if __name__ == "__main__":
    run_stage("report", __doc__, main)
