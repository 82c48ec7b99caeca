"""tiff-to-png: red, green and blue of each image as a PNG, and further bands as PNGs beside it.

Reads   data/patches.parquet, data/raw/, numbers and value range of the bands
Writes  data/images/IMG_nnnnnn.png: RGB, at full resolution; with further bands among the params'
        bands, IMG_nnnnnn_near_infrared.png and IMG_nnnnnn_height.png: grey

A killed run resumes with the images that are missing.
"""

from pathlib import Path

import numpy as np

from aerialdreams.data.images import band_path, image_path, write_bands
from aerialdreams.data.index import read_index
from aerialdreams.data.spec import DatasetSpec, FurtherBand
from aerialdreams.data.tiles import read_tile, tile_band, tile_rgb
from aerialdreams.params import Params
from aerialdreams.paths import IMAGES, INDEX, RAW
from aerialdreams.pipeline.parallel import parallel_map
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.util.files import fingerprint
from aerialdreams.util.scratch import resumable_folder


def main(params: Params) -> str:
    index = read_index(["patch_id", "image_path"])
    spec, further = params.dataset_spec, params.further_bands.names
    # The index has the hash of every tile, so data/raw itself need not be hashed.
    decisive = [spec.bands, spec.value_range, spec.height_unit, spec.height_metres, further]
    key = fingerprint(decisive, __file__, [INDEX])
    with resumable_folder(IMAGES, scratch_dir(), key) as folder:
        tasks = (
            (RAW / row.image_path, image_path(row.patch_id, folder), spec, further)
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
    bands = f" of {len(params.bands)} bands" if further else ""
    return f"{len(sizes)} PNG images{bands}, {sum(sizes) / 1e6:.1f} MB"


def convert(task: tuple[Path, Path, DatasetSpec, tuple[FurtherBand, ...]]) -> int:
    """Write the PNGs of a tile unless they exist; returns their size in bytes."""
    tiff, png, spec, further = task
    if not png.exists():  # it is written last
        tile = read_tile(tiff)
        rgb = tile_rgb(tile, spec.bands, spec.value_range)
        bands = [tile_band(tile, name, spec) for name in further]
        write_bands(png, np.dstack([rgb, *bands]), further)
    return sum(path.stat().st_size for path in (png, *(band_path(png, name) for name in further)))


if __name__ == "__main__":
    run_stage("tiff-to-png", __doc__, main)
