"""Cut a large raster into patches: peak memory, seconds, whether all pixels keep their place.

Usage   python -m benchmarks.cut_raster [--side 20000]
Writes a tiled GeoTIFF of three bands and its mask to a temporary folder (needs 3 GB), cuts them
with aerialdreams.data.cutting, and compares the patches with the raster. Prints a table and, as the
last line, JSON.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from aerialdreams.data.cutting import CutSettings, cut_pair
from aerialdreams.data.pairs import RasterPair
from aerialdreams.data.spec import DatasetSpec
from aerialdreams.params import load_params

PATCH = 512
TRANSFORM = Affine(0.2, 0, 700_000.1, 0, -0.2, 6_600_000.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20_000, help="height and width, pixels")
    side = parser.parse_args().side
    spec = load_params().dataset_spec.model_dump(mode="json")
    spec |= {"bands": {"red": 1, "green": 2, "blue": 3}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair = RasterPair("raster", "group", folder / "image.tif", folder / "mask.tif", None)
        for path, count in ((pair.image, 3), (pair.mask, 1)):
            write(path, count, side)
        settings = CutSettings(DatasetSpec.model_validate(spec), PATCH, 0.0, 0.0, False)
        before = peak_megabytes()
        start = time.perf_counter()
        cut = cut_pair(pair, folder / "patches", settings)
        seconds = time.perf_counter() - start
        peak = peak_megabytes()
        equal = all(check(folder, pair, patch) for patch in cut.patches)
    size = f"{side} x {side}"
    print(f"{size} pixels, {len(cut.patches)} patches, {seconds:.0f} s; all equal: {equal}")
    print(
        f"peak memory {peak:.0f} MB ({before:.0f} MB before), pixels and transforms equal: {equal}"
    )
    report = {"side": side, "patches": len(cut.patches), "seconds": seconds, "peak_mb": peak}
    print(json.dumps(report | {"before_mb": before, "equal": equal}))


def write(path: Path, count: int, side: int) -> None:
    """A raster of random blocks, written strip by strip."""
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512}
    profile |= {"compress": "LZW", "count": count, "height": side, "width": side}
    profile |= {"dtype": "uint8", "crs": "EPSG:2154", "transform": TRANSFORM}
    rng = np.random.default_rng(count)
    with rasterio.open(path, "w", **profile) as file:
        for row in range(0, side, PATCH):
            height = min(PATCH, side - row)
            blocks = rng.integers(1, 20, (count, -(-height // 16), -(-side // 16)), np.uint8)
            strip = blocks.repeat(16, 1).repeat(16, 2)[:, :height, :side]
            file.write(strip, window=Window(0, row, side, height))


def check(folder: Path, pair: RasterPair, name: str) -> bool:
    """Whether a patch's image and mask have the raster's pixels at the patch's place."""
    for path, source in (
        (folder / f"patches/group/raster/{name}.tif", pair.image),
        (folder / f"patches/group/raster/{name.replace('IMG', 'MSK')}.tif", pair.mask),
    ):
        with rasterio.open(path) as patch, rasterio.open(source) as whole:
            column, row = ~whole.transform @ (patch.transform.c, patch.transform.f)
            window = Window(round(column), round(row), PATCH, PATCH)
            exact = patch.transform == whole.transform @ Affine.translation(
                round(column), round(row)
            )
            if not exact or not np.array_equal(patch.read(), whole.read(window=window)):
                return False
    return True


def peak_megabytes() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
