"""Change pairs in bulk: time, what must stay, seams, and whether changes are obeyed.

Usage   python -m benchmarks.edit_pairs [--count N] [--keep FOLDER]
Run it after `dvc repro`. Makes N pairs (default 1,000) with `aerialdreams edit --table` from the
validation and test masks, and compares their files: pixels beyond the margin must be identical;
the gradient across the border of the blended area is compared with that elsewhere in the same
images; the judge's pixel accuracy inside the changed area with that in whole generated images.
Prints a table and, as the last line, JSON.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from scipy import ndimage

import stages  # noqa: F401  (sets the libraries' environment before they are imported)
from aerialdreams.data.land_cover import class_ids
from aerialdreams.evaluation.feature_spaces import SegmenterFeatures
from aerialdreams.evaluation.metrics import agreement, confusion
from aerialdreams.params import load_params

MARGIN = 8  # pixels, the command's default
TABLE = """\
from,to,shape,size
herbaceous vegetation,building,rectangle,14
,impervious surface,line,9
deciduous,bare soil,parcel,60
agricultural land,greenhouse,rectangle,30
,water,disc,30
plowed land,vineyard,parcel,60
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        masks, output = Path(folder) / "masks", arguments.keep or Path(folder) / "pairs"
        masks.mkdir()
        for split in ("validation", "test"):
            for path in Path(f"data/generated/{split}/masks").glob("MSK_*.tif"):
                (masks / path.name).symlink_to(path.resolve())
        table = Path(folder) / "edits.csv"
        table.write_text(TABLE)
        started = time.perf_counter()
        command = ["aerialdreams", "edit", str(masks), "--table", str(table)]
        command += ["--count", str(arguments.count), "--output", str(output)]
        command += ["--margin", str(MARGIN)]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
        result = compare(output)
    result["seconds_per_pair"] = seconds / result["pairs"]
    for key, value in result.items():
        print(f"{key:36} {value:8.3f}")
    print(json.dumps(result))


def compare(folder: Path) -> dict[str, float]:
    """Measure a folder of pairs."""
    classes = load_params().classes
    ids, class_names = class_ids(classes), [row.name for row in classes]
    judge = SegmenterFeatures(torch.device("cpu"), ids)
    identical, border, elsewhere = 0, list[float](), list[float]()
    inside, whole = np.zeros((2, len(ids), len(ids)), np.int64)  # confusion matrices
    names = sorted(path.name for path in (folder / "before").iterdir())
    for name in names:
        before, after = (read(folder / kind / name) for kind in ("before", "after"))
        old, new = (read(folder / f"mask-{kind}" / name) for kind in ("before", "after"))
        changed = old != new
        blended = ndimage.distance_transform_edt(~changed) <= MARGIN
        identical += bool((before == after).all(2)[~blended].all())
        # Between neighbours, of which one is blended and the other is not; of one class, so that
        # edges of the mask do not count.
        steps = np.abs(np.diff(after.astype(float), axis=1)).mean(2)
        same_class = new[:, 1:] == new[:, :-1]
        across = (blended[:, 1:] != blended[:, :-1]) & same_class
        border += steps[across].tolist()
        elsewhere += steps[same_class & ~across].tolist()
        with torch.no_grad():
            predicted, _ = judge.predict(np.stack([before, after]))
        inside += confusion(new[changed], predicted[1][changed], ids)
        whole += confusion(old, predicted[0], ids)
    changes, images = agreement(inside, class_names), agreement(whole, class_names)
    return {
        "pairs": len(names),
        "identical_beyond_the_margin": identical,
        "gradient_at_the_border_of_elsewhere": float(np.mean(border) / np.mean(elsewhere)),
        "pixel_accuracy_inside_changes": changes["pixel_accuracy"],
        "pixel_accuracy_of_whole_images": images["pixel_accuracy"],
        "iou_inside_changes": changes["miou"],
        "iou_of_whole_images": float(np.mean([images["iou"][name] for name in changes["iou"]])),
    }


def read(path: Path) -> NDArray[np.uint8]:
    """An image, (height, width, 3), or a mask, (height, width)."""
    with rasterio.open(path) as file:
        bands: NDArray[np.uint8] = file.read()
    return bands[0] if len(bands) == 1 else bands.transpose(1, 2, 0)


if __name__ == "__main__":
    main()
