"""tiff-to-png: the red, green and blue bands of each image as a PNG.

Reads   data/patches.parquet, data/raw/
Writes  data/images/IMG_nnnnnn.png, 512 x 512 RGB
"""

from pathlib import Path

from aerialdreams.files import fingerprint, kept_folder
from aerialdreams.parallel import map_patches
from aerialdreams.params import Params
from aerialdreams.patches import IMAGES, INDEX, RAW, read_index, read_tile, write_image
from aerialdreams.stage import run_stage, scratch


def main(params: Params) -> str:
    index = read_index(["patch_id", "image_path"])
    # The index holds each tile's hash, so that it stands for all of data/raw.
    key = fingerprint([], __file__, [INDEX])
    with kept_folder(IMAGES, scratch(), key) as folder:
        tasks = (
            (RAW / row.image_path, folder / f"IMG_{row.patch_id}.png") for row in index.itertuples()
        )
        sizes = list(map_patches(convert, tasks, len(index), "images", params.runtime))
    return f"{len(sizes)} PNG images, {sum(sizes) / 1e6:.1f} MB"


def convert(task: tuple[Path, Path]) -> int:
    """Write one PNG; gives its size in bytes."""
    tiff, png = task
    if not png.exists():  # else a killed run made it
        write_image(png, read_tile(tiff).bands[:3].transpose(1, 2, 0))
    return png.stat().st_size


if __name__ == "__main__":
    run_stage("tiff-to-png", __doc__, main)
