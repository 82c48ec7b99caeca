"""captions: describe each patch by its location and land cover, from templates.

Reads   data/patches.parquet, data/class_percentages.parquet, data/osm_metadata.parquet
Writes  data/captions.parquet: patch_id, caption, and its variants, one per template
        data/captions.csv, the captions as text; data/zones.html, each zone with one caption

Place names: © OpenStreetMap contributors, ODbL 1.0.
"""

import csv
import hashlib
import re
from typing import Any

import pyarrow as pa

from aerialdreams.data.caption_text import fill
from aerialdreams.data.index import read_index
from aerialdreams.errors import UserError
from aerialdreams.param_groups.data import PLACE_LEVELS, Captions
from aerialdreams.params import Params
from aerialdreams.paths import CAPTIONS, CAPTIONS_TABLE, OSM_METADATA, PERCENTAGES, ZONES_PAGE
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.pipeline.zones_page import zones_page
from aerialdreams.util.files import atomic_file
from aerialdreams.util.tables import read_table, write_table

SCHEMA = pa.schema(
    [
        ("patch_id", pa.string()),
        ("caption", pa.string()),
        ("variants", pa.list_(pa.string())),  # in order of the templates
    ]
)
SEASONS = ("winter", "spring", "summer", "autumn")  # of three months each, from December
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December")  # fmt: skip
# CLIP's tokenizer splits text into these pieces first, and encodes each as one token or more
# (https://github.com/openai/CLIP, clip/simple_tokenizer.py).
CLIP_PIECES = re.compile(r"[^\W\d_]+|\d|(?:[^\s\w]|_)+")
CLIP_TOKENS = 77 - 2  # without the start and end tokens


def main(params: Params) -> str:
    index, percentages, metadata = read_index(), read_table(PERCENTAGES), read_table(OSM_METADATA)
    ids = index["patch_id"].tolist()
    for path, table in ((PERCENTAGES, percentages), (OSM_METADATA, metadata)):
        if table["patch_id"].tolist() != ids:
            raise UserError(
                f"{path}: its patches differ from those of the index; run `dvc repro` to update it"
            )
    names = [land_cover.name for land_cover in params.classes]
    rows = []
    for patch, shares, osm in zip(
        index.to_dict("records"),
        percentages[names].to_dict("records"),
        metadata.to_dict("records"),
        strict=True,
    ):
        fields = caption_fields(patch, shares, osm, params.captions)
        variants = [fill(sentences, fields) for sentences in params.captions.templates]
        caption = variants[variant_index(params.captions.seed, patch["patch_id"], len(variants))]
        if patch["split"] != "train":  # metrics must not depend on the random choice
            caption = variants[0]
        rows.append({"patch_id": patch["patch_id"], "caption": caption, "variants": variants})
    credit = "; place names ".join(params.credits)
    write_table(CAPTIONS, rows, SCHEMA, credit)
    captions = [row["caption"] for row in rows]
    with (
        atomic_file(CAPTIONS_TABLE) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["patch_id", "split", "caption"])
        writer.writerows(zip(ids, index["split"], captions, strict=True))
    with atomic_file(ZONES_PAGE) as partial:
        page = zones_page(
            index.assign(caption=captions), metadata, params.dataset_spec.patch_size, credit
        )
        partial.write_text(page, encoding="utf-8")
    long = sum(len(CLIP_PIECES.findall(caption)) > CLIP_TOKENS for caption in captions)
    return (
        f"{len(rows)} captions, {len(set(captions))} distinct, up to {max(map(len, captions))}"
        f" characters; at least {long} exceed CLIP's 77 tokens"
    )


def caption_fields(
    patch: dict[str, Any], shares: dict[str, float], osm: dict[str, Any], stage: Captions
) -> dict[str, str]:
    """The values of a template's fields for one patch; "" where nothing is known.

    Args:
        patch: the patch's row of the index.
        shares: share of each class, 0 to 1, by its name, in order of the class ids.
        osm: the patch's row of OpenStreetMap metadata.
        stage: the stage's params.

    Returns:
        One value for each of params.CAPTION_FIELDS. `place` joins the levels in the order of
        captions.place without repeated names; `classes` are sorted by area, largest first, equal
        areas by id.
    """
    names = {key: value for key, value in osm.items() if isinstance(value, str)}
    names["nearest_place"] = names.pop("place", "")  # {place} stands for the whole address
    address = list(dict.fromkeys(names[level] for level in stage.place if names.get(level)))
    fields = {level: names.get(level, "") for level in PLACE_LEVELS}
    fields |= _date_fields(patch.get("date"), patch.get("latitude"))
    return fields | {
        "place": ", ".join(address) or stage.default_place,
        "classes": ", ".join(stage.form.classes(shares)),
        "features": ", ".join(_features(osm, stage.most_features)),
    }


def _features(osm: dict[str, Any], most: int) -> list[str]:
    """Names of waterways, then the most frequent values of OpenStreetMap's tags."""
    by_count = sorted(dict(osm["features"]).items(), key=lambda pair: (-pair[1], pair[0]))
    values = [tag.partition("=")[2].replace("_", " ") for tag, _ in by_count]
    features = [*osm["waterways"], *(value for value in values if value not in ("yes", "no"))]
    return list(dict.fromkeys(features))[:most]


def _date_fields(date: Any, latitude: Any) -> dict[str, str]:
    """Date, month and season; south of the equator seasons are half a year apart."""
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)", date) if isinstance(date, str) else None
    if not match:
        return {"date": "", "month": "", "season": ""}
    month = int(match[2])
    south = isinstance(latitude, float) and latitude < 0
    return {
        "date": match[0],
        "month": f"{MONTHS[month - 1]} {match[1]}",
        "season": SEASONS[(month % 12 // 3 + 2 * south) % 4],
    }


def variant_index(seed: int, patch_id: str, count: int) -> int:
    """A patch's variant, 0 to count - 1: a uniform choice, the same on every machine."""
    digest = hashlib.sha256(f"{seed} {patch_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % count


if __name__ == "__main__":
    run_stage("captions", __doc__, main)
