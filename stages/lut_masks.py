"""lut-masks: each mask as a paletted PNG, which holds class ids and colours in one file.

Reads   data/patches.parquet, data/raw/, the dataset spec
Writes  data/masks/MSK_nnnnnn.png: pixel = class id, palette = the classes' colours

A killed run resumes with the masks that are missing.
"""

from pathlib import Path

from aerialdreams.data.images import mask_path, write_mask
from aerialdreams.data.index import read_index
from aerialdreams.data.spec import DatasetSpec
from aerialdreams.data.tiles import read_tile, tile_class_ids
from aerialdreams.params import Params
from aerialdreams.paths import INDEX, MASKS, RAW
from aerialdreams.pipeline.parallel import parallel_map
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.util.files import fingerprint
from aerialdreams.util.scratch import resumable_folder


def main(params: Params) -> str:
    index = read_index(["patch_id", "mask_path"])
    spec = params.dataset_spec
    # The index has the hash of every tile, so data/raw itself need not be hashed.
    key = fingerprint([spec.classes, spec.ignored], __file__, [INDEX])
    with resumable_folder(MASKS, scratch_dir(), key) as folder:
        tasks = (
            (RAW / row.mask_path, mask_path(row.patch_id, folder), spec)
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


def convert(task: tuple[Path, Path, DatasetSpec]) -> int:
    """Write the PNG of a mask unless it exists; returns its size in bytes."""
    tiff, png, spec = task
    if not png.exists():
        ids, _ = tile_class_ids(read_tile(tiff), spec)
        write_mask(png, ids, spec.classes)
    return png.stat().st_size


if __name__ == "__main__":
    run_stage("lut-masks", __doc__, main)
