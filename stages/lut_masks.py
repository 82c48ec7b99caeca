"""lut-masks: each mask as a paletted PNG, label map and colour picture in one file.

Reads   data/patches.parquet, data/raw/, the class table
Writes  data/masks/MSK_nnnnnn.png, pixel = class id 1..19, palette = the class table's colours
"""

from pathlib import Path

from aerialdreams.data.images import write_mask
from aerialdreams.data.index import read_index
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.data.tiles import read_tile
from aerialdreams.params import Params
from aerialdreams.paths import INDEX, MASKS, RAW
from aerialdreams.pipeline.parallel import parallel_map
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.util.files import fingerprint, resumable_folder


def main(params: Params) -> str:
    index = read_index(["patch_id", "mask_path"])
    # The index holds each tile's hash, so that it stands for all of data/raw.
    key = fingerprint(params.classes, __file__, [INDEX])
    with resumable_folder(MASKS, scratch_dir(), key) as folder:
        tasks = (
            (RAW / row.mask_path, folder / f"MSK_{row.patch_id}.png", params.classes)
            for row in index.itertuples()
        )
        runtime = params.runtime
        converted = parallel_map(
            convert,
            tasks,
            len(index),
            "masks",
            workers=runtime.workers,
            scheduler=runtime.scheduler,
        )
        sizes = list(converted)
    return f"{len(sizes)} paletted PNG masks, {sum(sizes) / 1e6:.1f} MB"


def convert(task: tuple[Path, Path, list[LandCoverClass]]) -> int:
    """Write one mask; gives its size in bytes."""
    tiff, png, classes = task
    if not png.exists():  # else a killed run made it
        write_mask(png, read_tile(tiff).bands[0], classes)
    return png.stat().st_size


if __name__ == "__main__":
    run_stage("lut-masks", __doc__, main)
