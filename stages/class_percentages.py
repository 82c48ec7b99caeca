"""class-percentages: how much of each patch each class covers.

Reads   data/patches.parquet, data/masks/, the class table
Writes  data/class_percentages.parquet: patch_id and one column for each class, by its name, with
        the exact share of the patch's pixels, 0 to 1
"""

from pathlib import Path

import pyarrow as pa

from aerialdreams.classes import class_fractions
from aerialdreams.parallel import map_patches
from aerialdreams.params import Params
from aerialdreams.patches import IGN_CREDIT, MASKS, PERCENTAGES, read_index, read_mask
from aerialdreams.stage import run_stage
from aerialdreams.tables import write_table


def main(params: Params) -> str:
    patch_ids = read_index()["patch_id"].tolist()
    paths = [MASKS / f"MSK_{patch_id}.png" for patch_id in patch_ids]
    names = [land_cover.name for land_cover in params.classes]
    shares = list(map_patches(measure, paths, "masks measured", params.runtime.workers))
    rows = [
        {"patch_id": patch_id} | dict(zip(names, share, strict=True))
        for patch_id, share in zip(patch_ids, shares, strict=True)
    ]
    schema = pa.schema([("patch_id", pa.string()), *((name, pa.float64()) for name in names)])
    write_table(PERCENTAGES, rows, schema, IGN_CREDIT)
    seen = sum(any(row[name] for row in rows) for name in names)
    return f"{len(rows)} masks measured, {seen} of {len(names)} classes seen"


def measure(path: Path) -> list[float]:
    """Share of each class in one mask, in the order of the ids."""
    return class_fractions(read_mask(path)).tolist()


if __name__ == "__main__":
    run_stage("class-percentages", __doc__, main)
