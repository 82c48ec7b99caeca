"""captions: one sentence for each patch, of where it lies and what covers it.

Reads   data/class_percentages.parquet, data/osm_metadata.parquet
Writes  data/captions.parquet: patch_id, caption

Place names: © OpenStreetMap contributors, ODbL 1.0.
"""

import unicodedata
from typing import Any

import pyarrow as pa

from aerialdreams.errors import UserError
from aerialdreams.params import Captions, Params
from aerialdreams.patches import CAPTIONS, IGN_CREDIT, OSM_CREDIT, OSM_METADATA, PERCENTAGES
from aerialdreams.stage import run_stage
from aerialdreams.tables import read_table, write_table

SCHEMA = pa.schema([("patch_id", pa.string()), ("caption", pa.string())])
NOWHERE = "France"  # for a patch of which the extract knows nothing: all of FLAIR lies there


def main(params: Params) -> str:
    percentages, places = read_table(PERCENTAGES), read_table(OSM_METADATA)
    if percentages["patch_id"].tolist() != places["patch_id"].tolist():
        raise UserError(
            f"{PERCENTAGES} and {OSM_METADATA} list other patches; `dvc repro` makes them anew"
        )
    names = [land_cover.name for land_cover in params.classes]
    rows = []
    for shares, place in zip(
        percentages.to_dict("records"), places.to_dict("records"), strict=True
    ):
        text = caption({name: shares[name] for name in names}, place, params.captions)
        rows.append({"patch_id": shares["patch_id"], "caption": text})
    write_table(CAPTIONS, rows, SCHEMA, f"{IGN_CREDIT}; place names {OSM_CREDIT}")
    different = len({row["caption"] for row in rows})
    longest = max(len(row["caption"]) for row in rows)
    return f"{len(rows)} captions, {different} different, the longest of {longest} letters"


def caption(shares: dict[str, float], place: dict[str, Any], stage: Captions) -> str:
    """A patch's caption.

    Args:
        shares: share of each class, 0 to 1, by its name, in the order of the ids.
        place: the patch's row of OpenStreetMap metadata.
        stage: template, levels of the place, and floor.

    Returns:
        The template filled with the place, finest level first and no name twice, and the classes
        by area, largest first, equal areas by id. Unicode in NFC.
    """
    levels = [place.get(level) for level in stage.place]
    named = list(dict.fromkeys(name for name in levels if isinstance(name, str)))
    order = sorted(shares, key=lambda name: -shares[name])  # stable: equal areas stay by id
    above = [name for name in order if shares[name] * 100 >= stage.floor_percent and shares[name]]
    text = stage.template.format(
        place=", ".join(named) or NOWHERE,
        # A patch of nineteen tiny parts may have none above the floor: then its largest.
        classes=", ".join(above or order[:1]),
    )
    return unicodedata.normalize("NFC", text)


if __name__ == "__main__":
    run_stage("captions", __doc__, main)
