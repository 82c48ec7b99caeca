"""Compare tiff-to-png with `gdal_translate -of PNG` under `xargs -P`, on the same files and cores.

Usage   python -m benchmarks.tiff_to_png FOLDER [--patches N]
FOLDER has FLAIR tiles; they are linked under new numbers until there are N patches. Needs
gdal_translate on the PATH (Debian's gdal-bin). Also measures reading the TIFFs, which is a lower
bound; time and size of Pillow's compression settings; and the stages lut-masks and
class-percentages.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL
from PIL import Image

from aerialdreams.data.flair import METADATA, PATCH_NAME
from aerialdreams.data.index import read_index
from aerialdreams.data.tiles import read_tile
from aerialdreams.params import Params, load_params
from aerialdreams.paths import RAW
from aerialdreams.pipeline.parallel import available_cpus, parallel_map
from stages import class_percentages, lut_masks, patch_index, tiff_to_png

ROUNDS = 3
CORES = available_cpus()
COMPRESSION_SETTINGS = {  # of Pillow
    "level 1": {"compress_level": 1},
    "level 3": {"compress_level": 3},
    "level 6": {"compress_level": 6},
    "level 9": {"compress_level": 9},
    "huffman only": {"compress_type": zlib.Z_HUFFMAN_ONLY},
    "runs (ours)": {"compress_type": zlib.Z_RLE},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patches", type=int, default=400)
    arguments = parser.parse_args()
    params, tiles = load_params(), arguments.folder.resolve()
    scratch = Path(tempfile.mkdtemp(prefix="aerialdreams-"))
    os.chdir(scratch)
    try:
        link_tiles(tiles, arguments.patches)
        (RAW / METADATA).write_text("{}")
        run(params)
    finally:
        shutil.rmtree(scratch)


def link_tiles(folder: Path, count: int) -> None:
    """Fill data/raw with `count` patches by repeating those of the folder under new numbers."""
    pairs = [
        (image, image.parent.parent / "msk" / image.name.replace("IMG", "MSK"))
        for image in sorted(folder.rglob("IMG_*.tif"))
    ]
    for number in range(count):
        for tile in pairs[number % len(pairs)]:
            kind = PATCH_NAME.fullmatch(tile.name)
            assert kind is not None
            # Three domains, one per split.
            domain = ("D038_2021", "D014_2020", "D022_2021")[number % 3]
            target = RAW / f"{domain}/Z1_UA/{kind[1]}_{number:06d}.tif"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(tile)


def run(params: Params) -> None:
    """Measure all variants alternately; print a table and a line of JSON."""
    seconds: dict[str, list[float]] = {}

    def measure(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    measure("patch-index", lambda: patch_index.main(params))
    images = [RAW / path for path in read_index()["image_path"]]
    for _ in range(ROUNDS):
        measure("reading only", lambda: list(read_all(images, params)))
        measure("ours", lambda: tiff_to_png.main(params))
        measure("peer", lambda: gdal_translate(images))
        measure("masks", lambda: lut_masks.main(params))
        measure("percentages", lambda: class_percentages.main(params))
    best = {name: min(times) for name, times in seconds.items()}
    ours = sum(file.stat().st_size for file in Path("data/images").iterdir())
    peer = sum(file.stat().st_size for file in Path("peer").iterdir())
    count = len(images)
    print(f"{count} patches, {CORES} cores, best of {ROUNDS} alternating rounds")
    for name, time_taken in best.items():
        print(f"{name:16} {time_taken:8.2f} s {count / time_taken:8.1f} patches/s")
    print(f"bytes: ours {ours / 1e6:.1f} MB, peer {peer / 1e6:.1f} MB ({ours / peer - 1:+.1%})")
    for name, (milliseconds, kilobytes) in measure_compression(images[:12]).items():
        print(f"Pillow, {name:14} {milliseconds:7.1f} ms {kilobytes:7.1f} kB per patch, one core")
    version = subprocess.run(["gdal_translate", "--version"], capture_output=True, text=True)
    report = {
        "ours": count / best["ours"],
        "peer": count / best["peer"],
        "ratio": best["peer"] / best["ours"],
        "units": "images/s",
        "bytes_ratio": ours / peer,
        "floor": count / best["reading only"],
        "images_over_masks_and_percentages": best["ours"] / (best["masks"] + best["percentages"]),
        "patches": count,
        "versions": {"pillow": PIL.__version__, "gdal": version.stdout.split(",")[0]},
        "cores": CORES,
    }
    print(json.dumps(report))


def read_all(images: list[Path], params: Params) -> Iterator[int]:
    """Read tiles with the same workers and discard them."""
    return parallel_map(read, images, len(images), "read", workers=params.runtime.workers)


def read(path: Path) -> int:
    """Read a tile and return its number of values."""
    return read_tile(path).bands.size


def gdal_translate(images: list[Path]) -> None:
    """The peer: one process per image, as many at once as there are cores."""
    shutil.rmtree("peer", ignore_errors=True)
    Path("peer").mkdir()
    command = "gdal_translate -q -of PNG -b 1 -b 2 -b 3 {} peer/$(basename {} .tif).png"
    subprocess.run(
        ["xargs", "-P", str(CORES), "-I{}", "sh", "-c", command],
        input="\n".join(map(str, images)),
        text=True,
        check=True,
    )


def measure_compression(images: list[Path]) -> dict[str, tuple[float, float]]:
    """Milliseconds and kilobytes per patch with each of Pillow's settings."""
    pictures = [Image.fromarray(read_tile(p).bands[:3].transpose(1, 2, 0).copy()) for p in images]
    report = {}
    for name, settings in COMPRESSION_SETTINGS.items():
        start, size = time.perf_counter(), 0
        for picture in pictures:
            file = io.BytesIO()
            picture.save(file, "PNG", **settings)
            size += file.tell()
        seconds = time.perf_counter() - start
        report[name] = (1000 * seconds / len(pictures), size / 1000 / len(pictures))
    return report


if __name__ == "__main__":
    main()
