"""dataset: images, masks and captions as one dataset to push, pull and publish.

Reads   data/patches.parquet, data/images/, data/masks/, data/captions.parquet,
        metrics/class_frequencies.csv
Writes  data/dataset/data/{train,validation,test}-*.parquet and data/dataset/README.md, for
        `datasets.load_dataset("data/dataset")`
        data/contact_sheet.png, some patches of each split
"""

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, Features, Image, List, Value
from numpy.typing import NDArray

from aerialdreams.data.contact_sheet import GAP, image_grid
from aerialdreams.data.credits import OSM_CREDIT
from aerialdreams.data.images import (
    band_path,
    image_path,
    mask_path,
    read_image,
    read_mask,
    resize_image,
    resize_mask,
    write_image,
)
from aerialdreams.data.index import SPLITS, read_index
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.data.spec import DatasetSpec, FurtherBand
from aerialdreams.errors import UserError
from aerialdreams.params import Params
from aerialdreams.paths import CAPTIONS, CONTACT_SHEET, DATASET, FREQUENCIES, INDEX
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.util.files import atomic_folder, file_md5
from aerialdreams.util.progress import progress
from aerialdreams.util.tables import read_table

SHEET_ROWS = 6  # patches of each split
SHEET_SIZE = 192  # height and width of a patch on the sheet, pixels

# Columns that are copied from the patch index.
INDEX_COLUMNS = (
    *("group", "zone", "crs", "origin_x", "origin_y", "extent", "pixel_size"),
    *("longitude", "latitude", "date"),
)
FEATURES = Features(
    {
        "patch_id": Value("string"),
        "image": Image(),
        "mask": Image(),
        "caption": Value("string"),
        "captions": List(Value("string")),
        "group": Value("string"),
        "zone": Value("string"),
        "crs": Value("string"),
        "origin_x": Value("float64"),
        "origin_y": Value("float64"),
        "extent": Value("float64"),
        "pixel_size": Value("float64"),
        "longitude": Value("float64"),
        "latitude": Value("float64"),
        "date": Value("string"),
    }
)


def main(params: Params) -> str:
    captions = read_table(CAPTIONS)
    rows = read_index().merge(captions, on="patch_id", validate="one_to_one")
    if len(rows) != len(captions):
        raise UserError(f"{CAPTIONS}: has other patches than the index; run `dvc repro captions`")
    shards = list_shards(rows, params.dataset.rows_per_shard)
    with atomic_folder(DATASET) as folder:
        (folder / "data").mkdir()
        for name, shard in progress(shards, "shards", "shards", len(shards)):
            write_shard(folder / "data" / name, shard, params.further_bands.names)
        (folder / "README.md").write_text(card(rows, params), encoding="utf-8")
        total = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    write_sheet(CONTACT_SHEET, rows, params.classes)
    return f"{len(rows)} patches in {len(shards)} shards, {total / 1e6:.1f} MB"


def list_shards(rows: pd.DataFrame, rows_per_shard: int) -> list[tuple[str, pd.DataFrame]]:
    """The file name and the rows of each shard, in order of split and patch id."""
    shards = []
    for split in SPLITS:
        part = rows[rows["split"] == split]
        count = math.ceil(len(part) / rows_per_shard)
        for number in range(count):
            first = number * rows_per_shard
            name = f"{split}-{number:05d}-of-{count:05d}.parquet"
            shards.append((name, part.iloc[first : first + rows_per_shard]))
    return shards


def write_shard(path: Path, rows: pd.DataFrame, further: tuple[FurtherBand, ...]) -> None:
    """Write some patches as one Parquet file, with their PNG files embedded.

    Args:
        path: the file.
        rows: of the patch index, with captions.
        further: bands after red, green and blue; each becomes a column.
    """
    index_columns = {
        name: rows[name].astype(object).where(rows[name].notna(), None).tolist()
        for name in INDEX_COLUMNS
    }
    table = {
        "patch_id": rows["patch_id"].tolist(),
        "image": [_embed(image_path(patch_id)) for patch_id in rows["patch_id"]],
        "mask": [_embed(mask_path(patch_id)) for patch_id in rows["patch_id"]],
        "caption": rows["caption"].tolist(),
        "captions": [list(variants) for variants in rows["variants"]],
    }
    bands = {
        band: [_embed(band_path(image_path(patch_id), band)) for patch_id in rows["patch_id"]]
        for band in further
    }
    features = Features(FEATURES | dict.fromkeys(further, Image()))
    Dataset.from_dict(table | index_columns | bands, features=features).to_parquet(path)


def _embed(path: Path) -> dict[str, bytes | str]:
    try:
        return {"bytes": path.read_bytes(), "path": path.name}
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro`") from None


def write_sheet(path: Path, rows: pd.DataFrame, classes: list[LandCoverClass]) -> None:
    """Write a contact sheet: for each split, some masks and their images side by side."""
    columns: list[NDArray[np.uint8]] = []
    for split in SPLITS:
        chosen = rows.loc[rows["split"] == split, "patch_id"].tolist()
        if not chosen:
            continue
        chosen = [chosen[number * len(chosen) // SHEET_ROWS] for number in range(SHEET_ROWS)]
        images = [resize_image(read_image(image_path(name)), SHEET_SIZE) for name in chosen]
        masks = [resize_mask(read_mask(mask_path(name)), SHEET_SIZE) for name in chosen]
        grid = image_grid(masks, [images], classes)
        columns += [grid, np.full((len(grid), 4 * GAP, 3), 255, np.uint8)]
    write_image(path, np.hstack(columns[:-1]))


def card(rows: pd.DataFrame, params: Params) -> str:
    """The dataset card: content, splits, classes, captions, provenance, licence and credits."""
    spec = params.dataset_spec
    parts = {split: rows[rows["split"] == split] for split in SPLITS}
    counts = "\n".join(
        f"| {split} | {len(part)} | {part['group'].nunique()} |" for split, part in parts.items()
    )
    try:
        _, *frequencies = csv.reader(FREQUENCIES.read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        raise UserError(f"{FREQUENCIES}: not found; run `dvc repro`") from None
    classes = "\n".join(
        f"| {row.id} | {row.name} | `{row.colour}` | {' | '.join(percentages)} |"
        for row, (_, *percentages) in zip(spec.classes, frequencies, strict=True)
    )
    examples = "\n".join(f"- {part['caption'].iloc[0]}" for part in parts.values() if len(part))
    crs = ", ".join(sorted({str(name).partition("[")[0] for name in rows["crs"].dropna()}))
    sizes = " to ".join(dict.fromkeys(f"{f(rows['pixel_size']):g}" for f in (min, max)))
    templates = " or ".join(f"`{' '.join(sentences)}`" for sentences in params.captions.templates)
    hashes = "\n".join(
        f"| `{path}` | {file_md5(path)} |" for path in (INDEX, CAPTIONS, FREQUENCIES)
    )
    bands = "".join(
        f"| `{band}` | {describe_band(band, spec)} |\n" for band in params.further_bands.names
    )
    invented = (
        " AerialDreams drew them in FLAIR's format; they show no real place."
        if params.raw_patches.source == "sample"
        else ""
    )
    places = (
        f"- Place names in captions: {OSM_CREDIT}, https://www.openstreetmap.org/copyright. The\n"
        "  captions are a database derived from OpenStreetMap, and remain under the ODbL.\n"
        if OSM_CREDIT in params.credits
        else ""
    )
    odbl = "-and-odbl-1.0" if places else ""
    return f"""---
license: other
license_name: {spec.licence}{odbl}
license_link: {spec.url}
task_categories: [text-to-image, image-segmentation]
tags: [aerial, land-cover, AerialDreams]
size_categories: [{size_category(len(rows))}]
---
# {spec.name}: aerial photographs with land-cover masks and captions

Patches of {spec.patch_size} x {spec.patch_size} pixels of {sizes} m, in Parquet shards with
embedded images. `datasets.load_dataset` loads this folder.

| column | content |
|---|---|
| `patch_id` | of the file names |
| `image` | RGB, as PNG |
| `mask` | paletted PNG of class ids, 255 is no class; the palette has their colours |
| `caption` | where the patch is and what covers it |
| `captions` | one caption per template, for training |
| `group`, `zone` | what splits are made of; contiguous patches |
| `crs` | coordinate reference system: {crs or "unknown"} |
| `origin_x`, `origin_y`, `extent` | north-west corner, and height and width, in its units |
| `pixel_size` | on the ground, metres |
| `longitude`, `latitude` | centre, WGS 84 |
| `date` | of the photograph; null if unknown |
{bands}
Splits are by group.

| split | patches | groups |
|---|---|---|
{counts}

## Classes
Percentages of the pixels of each split, and those of the train split that the publisher states.

| id | class | colour | train | validation | test | published |
|---|---|---|---|---|---|---|
{classes}

## Captions
Template: {templates}. Place names run from the finest level to the coarsest. Classes are in order
of area, without those below {params.captions.floor_percent:g} % of the patch. The first caption of
each split:

{examples}

## Provenance
AerialDreams' pipeline built this dataset from the source `{params.raw_patches.source}`. The same
code, parameters and tiles give the same bytes. MD5 of the inputs:

| file | MD5 |
|---|---|
{hashes}

## Credits
- Images and masks: {spec.credit}{f", {spec.url}" if spec.url else ""}.{invented}
{places}"""


def describe_band(band: FurtherBand, spec: DatasetSpec) -> str:
    """What the column of a further band holds."""
    if band == "near_infrared":
        return "grey PNG; its values have the scale of the colours'"
    low, high = spec.height_metres
    return f"above ground, as grey PNG: 0 is {low:g} m, 255 is {high:g} m"


def size_category(count: int) -> str:
    """Hugging Face's size category (https://huggingface.co/docs/hub/datasets-cards)."""
    names = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M"]
    return names[sum(count >= limit for limit in (1_000, 10_000, 100_000))]


if __name__ == "__main__":
    run_stage("dataset", __doc__, main)
