"""lut-masks: each mask as a paletted PNG, label map and colour picture in one file.

Reads   data/patches.parquet, data/raw/, the class table
Writes  data/masks/MSK_nnnnnn.png, pixel = class id 1..19, palette = the class table's colours
"""

from pathlib import Path

from aerialdreams.classes import LandCoverClass
from aerialdreams.files import fingerprint, kept_folder
from aerialdreams.parallel import map_patches
from aerialdreams.params import Params
from aerialdreams.patches import INDEX, MASKS, RAW, read_index, read_tile, write_mask
from aerialdreams.stage import run_stage, scratch


def main(params: Params) -> str:
    index = read_index(["patch_id", "mask_path"])
    # The index holds each tile's hash, so that it stands for all of data/raw.
    key = fingerprint(params.classes, __file__, [INDEX])
    with kept_folder(MASKS, scratch(), key) as folder:
        tasks = (
            (RAW / row.mask_path, folder / f"MSK_{row.patch_id}.png", params.classes)
            for row in index.itertuples()
        )
        sizes = list(map_patches(convert, tasks, len(index), "masks", params.runtime))
    return f"{len(sizes)} paletted PNG masks, {sum(sizes) / 1e6:.1f} MB"


def convert(task: tuple[Path, Path, list[LandCoverClass]]) -> int:
    """Write one mask; gives its size in bytes."""
    tiff, png, classes = task
    if not png.exists():  # else a killed run made it
        write_mask(png, read_tile(tiff).bands[0], classes)
    return png.stat().st_size


if __name__ == "__main__":
    run_stage("lut-masks", __doc__, main)
