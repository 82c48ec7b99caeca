"""class-percentages: the share of each class in each patch.

Reads   data/patches.parquet, which has the pixel counts; the class table
Writes  data/class_percentages.parquet: patch_id, and one column per class, named after it, with its
        share of the patch's pixels, 0 to 1
        metrics/class_frequencies.csv: the percentage of each class in each split, beside the one
        that IGN publishes for FLAIR's train split
"""

import csv

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aerialdreams.data.credits import IGN_CREDIT
from aerialdreams.data.flair import PATCH_SIZE, TRAIN_PERCENTAGES
from aerialdreams.data.index import SPLITS, read_index
from aerialdreams.params import Params
from aerialdreams.paths import FREQUENCIES, PERCENTAGES
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.util.files import atomic_file
from aerialdreams.util.tables import write_table


def main(params: Params) -> str:
    index = read_index()
    names = [land_cover.name for land_cover in params.classes]
    shares = np.stack(index["pixels"].to_list()) / PATCH_SIZE**2
    rows = [
        {"patch_id": patch_id} | dict(zip(names, share, strict=True))
        for patch_id, share in zip(index["patch_id"], shares.tolist(), strict=True)
    ]
    schema = pa.schema([("patch_id", pa.string()), *((name, pa.float64()) for name in names)])
    write_table(PERCENTAGES, rows, schema, IGN_CREDIT)
    write_frequencies(names, {split: shares[index["split"] == split].mean(0) for split in SPLITS})
    num_present = int((shares.max(0) > 0).sum())
    return f"{len(rows)} patches, {num_present} of {len(names)} classes present"


def write_frequencies(names: list[str], shares: dict[str, NDArray[np.float64]]) -> None:
    """Write the percentage of each class in each split, one row per class.

    Args:
        names: of the classes.
        shares: by split, the share of each class, 0 to 1, (classes,).
    """
    with atomic_file(FREQUENCIES) as partial, partial.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["class", *SPLITS, "flair_train"])
        for number, name in enumerate(names):
            percentages = [f"{100 * shares[split][number]:.4f}" for split in SPLITS]
            writer.writerow([name, *percentages, f"{TRAIN_PERCENTAGES[number]:.2f}"])


if __name__ == "__main__":
    run_stage("class-percentages", __doc__, main)
