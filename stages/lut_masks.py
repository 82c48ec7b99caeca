"""lut-masks: each mask as a paletted PNG, label map and colour picture in one file.

Reads   data/patches.parquet, data/raw/, the class table
Writes  data/masks/MSK_nnnnnn.png, pixel = class id 1..19, palette = the class table's colours
"""

from pathlib import Path

from aerialdreams.classes import LandCoverClass
from aerialdreams.files import whole_folder
from aerialdreams.parallel import map_patches
from aerialdreams.params import Params
from aerialdreams.patches import MASKS, RAW, read_index, read_tile, write_mask
from aerialdreams.stage import run_stage


def main(params: Params) -> str:
    index = read_index()
    with whole_folder(MASKS) as folder:
        tasks = [
            (RAW / row.mask_path, folder / f"MSK_{row.patch_id}.png", params.classes)
            for row in index.itertuples()
        ]
        sizes = list(map_patches(convert, tasks, "masks", params.runtime.workers))
    return f"{len(sizes)} paletted PNG masks, {sum(sizes) / 1e6:.1f} MB"


def convert(task: tuple[Path, Path, list[LandCoverClass]]) -> int:
    """Write one mask; gives its size in bytes."""
    tiff, png, classes = task
    write_mask(png, read_tile(tiff).bands[0], classes)
    return png.stat().st_size


if __name__ == "__main__":
    run_stage("lut-masks", __doc__, main)
