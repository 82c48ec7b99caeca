"""What the report says of near infrared and height."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aerialdreams.data.contact_sheet import VIEWS
from aerialdreams.data.images import read_image
from aerialdreams.data.spec import FurtherBands
from aerialdreams.paths import GENERATED
from aerialdreams.pipeline.html import data_url

QUANTITIES = {"ndvi": "NDVI", "height": "height, m"}  # of metrics/evaluation.json


@dataclass(frozen=True)
class BandSection:
    """A split's near infrared and heights.

    Attributes:
        judge: what the judge of all bands finds, in a sentence.
        columns: of `rows`.
        rows: each class's name and numbers, as text.
        sheets: what each shows, and its data URL.
    """

    judge: str
    columns: list[str]
    rows: list[list[str]]
    sheets: list[tuple[str, str]]


def band_section(
    split: str, numbers: dict[str, Any], further: FurtherBands, folder: Path = GENERATED
) -> BandSection | None:
    """A split's part of the page about its further bands; None if there are none.

    Args:
        split: validation or test.
        numbers: the split's part of metrics/evaluation.json.
        further: the images' bands after red, green and blue.
        folder: of generate-validation's sheets.
    """
    if not further.names:
        return None
    generated, real = (numbers[name]["all_bands"] for name in ("generated", "real"))
    columns, rows = ["class"], [[name] for name in numbers["real"]["iou"]]
    for quantity, title in QUANTITIES.items():
        if quantity not in numbers["generated"]:
            continue
        columns += [f"{title}: real", "generated", "distance", "difference"]
        by_class = numbers["generated"][quantity]
        for row in rows:
            own = by_class.get(row[0], {})
            keys = ("real_mean", "mean", "distance", "difference")
            row += [f"{own[key]:.2f}" if own else "" for key in keys]
    return BandSection(
        judge=(
            f"A judge of all bands finds an mIoU of {generated['miou']:.3f} in generated images and"
            f" of {real['miou']:.3f} in photographs."
        ),
        columns=columns,
        rows=rows,
        sheets=[
            (title, data_url(read_image(folder / f"{split}{suffix}.png"), "jpeg"))
            for band, (suffix, title) in VIEWS.items()
            if band in further.names
        ],
    )
