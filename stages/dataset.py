"""dataset: images, masks and captions as one dataset that can be pushed, pulled and published.

Reads   data/patches.parquet, data/images/, data/masks/, data/captions.parquet
Writes  data/dataset/data/{train,validation,test}-*.parquet and data/dataset/README.md, for
        `datasets.load_dataset("data/dataset")`
"""

from pathlib import Path

import pandas as pd
from datasets import Dataset, Features, Image, Value

from aerialdreams.dataset import DATASET
from aerialdreams.errors import UserError
from aerialdreams.files import whole_folder
from aerialdreams.params import Params
from aerialdreams.patches import (
    CAPTIONS,
    IGN_CREDIT,
    IMAGES,
    MASKS,
    OSM_CREDIT,
    SPLITS,
    read_index,
)
from aerialdreams.progress import progress
from aerialdreams.stage import run_stage
from aerialdreams.tables import read_table

COLUMNS = ("domain", "zone", "origin_x", "origin_y", "longitude", "latitude", "date")
FEATURES = Features(
    {
        "patch_id": Value("string"),
        "image": Image(),
        "mask": Image(),
        "caption": Value("string"),
        "domain": Value("string"),
        "zone": Value("string"),
        "origin_x": Value("float64"),
        "origin_y": Value("float64"),
        "longitude": Value("float64"),
        "latitude": Value("float64"),
        "date": Value("string"),
    }
)


def main(params: Params) -> str:
    captions = read_table(CAPTIONS)
    rows = read_index().merge(captions, on="patch_id", validate="one_to_one")
    if len(rows) != len(captions):
        raise UserError(f"{CAPTIONS}: is of other patches than the index; `dvc repro captions`")
    size = params.dataset.rows_per_shard
    parts = [
        (split, number, -(-len(chosen) // size), chosen.iloc[number * size : (number + 1) * size])
        for split in SPLITS
        for chosen in [rows[rows["split"] == split]]
        for number in range(-(-len(chosen) // size))
    ]
    with whole_folder(DATASET) as folder:
        (folder / "data").mkdir()
        for split, number, count, part in progress(parts, "shards", "shards", len(parts)):
            path = folder / f"data/{split}-{number:05d}-of-{count:05d}.parquet"
            write_shard(path, part)
        names = [land_cover.name for land_cover in params.classes]
        (folder / "README.md").write_text(card(rows, names), encoding="utf-8")
        total = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    return f"{len(rows)} patches in {len(parts)} shards, {total / 1e6:.1f} MB"


def write_shard(path: Path, rows: pd.DataFrame) -> None:
    """Write some rows of the index, with their PNG files' bytes embedded, as one Parquet file."""
    columns = {name: rows[name].astype(object).where(rows[name].notna(), None) for name in COLUMNS}
    table = {
        "patch_id": rows["patch_id"].tolist(),
        "image": [_embed(IMAGES / f"IMG_{patch_id}.png") for patch_id in rows["patch_id"]],
        "mask": [_embed(MASKS / f"MSK_{patch_id}.png") for patch_id in rows["patch_id"]],
        "caption": rows["caption"].tolist(),
    } | {name: column.tolist() for name, column in columns.items()}
    Dataset.from_dict(table, features=FEATURES).to_parquet(path)


def _embed(path: Path) -> dict[str, bytes | str]:
    try:
        return {"bytes": path.read_bytes(), "path": path.name}
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None


def card(rows: pd.DataFrame, names: list[str]) -> str:
    """The dataset's card: what it holds, whose it is and under which licence."""
    counts = "\n".join(f"| {split} | {sum(rows['split'] == split)} |" for split in SPLITS)
    ids = "\n".join(f"| {number} | {name} |" for number, name in enumerate(names, start=1))
    return f"""---
license: other
license_name: licence-ouverte-2.0-and-odbl-1.0
task_categories: [text-to-image, image-segmentation]
---
# Aerial photographs with land-cover masks and captions

512 x 512 pixels of 0.2 m. `image` is RGB, `mask` a paletted PNG whose pixels are class ids,
`caption` says where the patch lies and what covers it. `origin_x` and `origin_y` are the
north-west corner in EPSG:2154 (metres), `longitude` and `latitude` the centre (WGS 84).
Splits are by domain, so that no patch has its neighbour in another split.

| split | patches |
|---|---|
{counts}

| id | class |
|---|---|
{ids}

## Credits
- Images and masks: {IGN_CREDIT}, https://ignf.github.io/FLAIR/. With the sample source they are
  drawn by AerialDreams in FLAIR's shape and show no real place.
- Place names in captions: {OSM_CREDIT}, https://www.openstreetmap.org/copyright. The captions are
  a database derived from OpenStreetMap and stay under the ODbL.
"""


if __name__ == "__main__":
    run_stage("dataset", __doc__, main)
