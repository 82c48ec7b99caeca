"""captions: a sentence or more for each patch, of where it lies and what covers it.

Reads   data/patches.parquet, data/class_percentages.parquet, data/osm_metadata.parquet
Writes  data/captions.parquet: patch_id, caption, and its variants, one of each template
        data/captions.csv, captions to read; data/zones.html, a map of the zones, one caption each

Place names: © OpenStreetMap contributors, ODbL 1.0.
"""

import csv
import hashlib
import re
import unicodedata
from string import Formatter
from typing import Any

import pyarrow as pa

from aerialdreams.data.credits import IGN_CREDIT, OSM_CREDIT
from aerialdreams.data.index import read_index
from aerialdreams.errors import UserError
from aerialdreams.params import PLACE_LEVELS, Captions, Params
from aerialdreams.paths import CAPTIONS, CAPTIONS_TABLE, OSM_METADATA, PERCENTAGES, ZONES_PAGE
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.pipeline.zones_page import zones_page
from aerialdreams.util.files import atomic_file
from aerialdreams.util.tables import read_table, write_table

SCHEMA = pa.schema(
    [
        ("patch_id", pa.string()),
        ("caption", pa.string()),
        ("variants", pa.list_(pa.string())),  # by template, in their order
    ]
)
NOWHERE = "France"  # for a patch of which OpenStreetMap knows nothing: all of FLAIR lies there
SEASONS = ("winter", "spring", "summer", "autumn")  # of the north, from December on
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December")  # fmt: skip
# From which share on a class is named with which words.
AMOUNTS = ((0.6, "mostly "), (0.4, "half "), (0.2, "much "), (0.05, "some "), (0, "a little "))
# What CLIP's tokenizer splits before it looks words up: each of these is a token or more.
CLIP_PIECES = re.compile(r"[^\W\d_]+|\d|(?:[^\s\w]|_)+")
CLIP_TOKENS = 77 - 2  # less start and end


def main(params: Params) -> str:
    index, percentages, places = read_index(), read_table(PERCENTAGES), read_table(OSM_METADATA)
    ids = index["patch_id"].tolist()
    for path, table in ((PERCENTAGES, percentages), (OSM_METADATA, places)):
        if table["patch_id"].tolist() != ids:
            raise UserError(
                f"{path}: is of other patches than the index; `dvc repro` makes it anew"
            )
    names = [land_cover.name for land_cover in params.classes]
    rows = []
    for patch, shares, place in zip(
        index.to_dict("records"),
        percentages[names].to_dict("records"),
        places.to_dict("records"),
        strict=True,
    ):
        fields = fields_of(patch, shares, place, params.captions)
        variants = [fill(sentences, fields) for sentences in params.captions.templates]
        chosen = variants[choice(params.captions.seed, patch["patch_id"], len(variants))]
        if patch["split"] != "train":  # what is measured should not hang on the draw
            chosen = variants[0]
        rows.append({"patch_id": patch["patch_id"], "caption": chosen, "variants": variants})
    credit = f"{IGN_CREDIT}; place names {OSM_CREDIT}"
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
        page = zones_page(index.assign(caption=captions), places, credit)
        partial.write_text(page, encoding="utf-8")
    long = sum(len(CLIP_PIECES.findall(caption)) > CLIP_TOKENS for caption in captions)
    return (
        f"{len(rows)} captions, {len(set(captions))} different, the longest of"
        f" {max(map(len, captions))} letters; at least {long} are longer than CLIP's 77 tokens"
    )


def fields_of(
    patch: dict[str, Any], shares: dict[str, float], place: dict[str, Any], stage: Captions
) -> dict[str, str]:
    """What a template may speak of; a field is empty where nothing is known.

    Args:
        patch: the patch's row of the index.
        shares: share of each class, 0 to 1, by its name, in the order of the ids.
        place: the patch's row of OpenStreetMap metadata.
        stage: levels of the place, floor, numbers of classes and features.

    Returns:
        See params.CAPTION_FIELDS. `place` has the finest level first and no name twice; `classes`
        go by area, largest first, equal areas by id.
    """
    known = {key: value for key, value in place.items() if isinstance(value, str)}
    known["nearest_place"] = known.pop("place", "")  # `place` is the whole address in a template
    named = list(dict.fromkeys(known[level] for level in stage.place if known.get(level)))
    fields = {level: known.get(level, "") for level in PLACE_LEVELS}
    fields |= _date_fields(patch.get("date"))
    return fields | {
        "place": ", ".join(named) or NOWHERE,
        "classes": ", ".join(_classes(shares, stage)),
        "features": ", ".join(_features(place, stage.most_features)),
    }


def _classes(shares: dict[str, float], stage: Captions) -> list[str]:
    order = sorted(shares, key=lambda name: -shares[name])  # stable: equal areas stay by id
    above = [name for name in order if shares[name] * 100 >= stage.floor_percent and shares[name]]
    # A patch of nineteen tiny parts may have none above the floor: then its largest.
    chosen = (above or order[:1])[: stage.most_classes]
    if stage.amounts == "numbers":
        return [f"{name} {shares[name]:.0%}" for name in chosen]
    if stage.amounts == "words":
        return [next(w for floor, w in AMOUNTS if shares[n] >= floor) + n for n in chosen]
    return chosen


def _features(place: dict[str, Any], most: int) -> list[str]:
    """Named waters, then what there is most of, in OpenStreetMap's own words."""
    counted = sorted(dict(place["features"]).items(), key=lambda pair: (-pair[1], pair[0]))
    kinds = [key.partition("=")[2].replace("_", " ") for key, _ in counted]
    words = [*place["waterways"], *(kind for kind in kinds if kind not in ("yes", "no"))]
    return list(dict.fromkeys(words))[:most]


def _date_fields(date: Any) -> dict[str, str]:
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)", date) if isinstance(date, str) else None
    if not match:
        return {"date": "", "month": "", "season": ""}
    month = int(match[2])
    return {
        "date": match[0],
        "month": f"{MONTHS[month - 1]} {match[1]}",
        "season": SEASONS[month % 12 // 3],
    }


def fill(sentences: list[str], fields: dict[str, str]) -> str:
    """A template's sentences with their fields, without those of which a field is empty; in NFC."""
    filled = [
        sentence.format(**fields)
        for sentence in sentences
        if all(fields[name] for _, name, _, _ in Formatter().parse(sentence) if name)
    ]
    return unicodedata.normalize("NFC", " ".join(filled))


def choice(seed: int, patch_id: str, count: int) -> int:
    """Which of some variants a patch gets, 0 to count - 1, the same on every machine."""
    digest = hashlib.sha256(f"{seed} {patch_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % count


if __name__ == "__main__":
    run_stage("captions", __doc__, main)
