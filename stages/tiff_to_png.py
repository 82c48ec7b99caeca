"""tiff-to-png: red, green and blue of each image as a PNG.

Reads   data/patches.parquet, data/raw/, numbers and value range of the bands
Writes  data/images/IMG_nnnnnn.png: RGB, at full resolution

A killed run resumes with the images that are missing.
"""

from pathlib import Path

from aerialdreams.data.images import image_path, write_image
from aerialdreams.data.index import read_index
from aerialdreams.data.spec import Bands
from aerialdreams.data.tiles import read_tile, tile_rgb
from aerialdreams.params import Params
from aerialdreams.paths import IMAGES, INDEX, RAW
from aerialdreams.pipeline.parallel import parallel_map
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.util.files import fingerprint
from aerialdreams.util.scratch import resumable_folder


def main(params: Params) -> str:
    index = read_index(["patch_id", "image_path"])
    spec = params.dataset_spec
    # The index has the hash of every tile, so data/raw itself need not be hashed.
    key = fingerprint([spec.bands, spec.value_range], __file__, [INDEX])
    with resumable_folder(IMAGES, scratch_dir(), key) as folder:
        tasks = (
            (RAW / row.image_path, image_path(row.patch_id, folder), spec.bands, spec.value_range)
            for row in index.itertuples()
        )
        runtime = params.runtime
        converted = parallel_map(
            convert,
            tasks,
            len(index),
            "images",
            workers=runtime.workers,
            scheduler=runtime.scheduler,
        )
        sizes = list(converted)
    return f"{len(sizes)} PNG images, {sum(sizes) / 1e6:.1f} MB"


def convert(task: tuple[Path, Path, Bands, tuple[float, float]]) -> int:
    """Write the PNG of a tile unless it exists; returns its size in bytes."""
    tiff, png, bands, value_range = task
    if not png.exists():
        write_image(png, tile_rgb(read_tile(tiff), bands, value_range))
    return png.stat().st_size


if __name__ == "__main__":
    run_stage("tiff-to-png", __doc__, main)
