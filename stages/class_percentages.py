"""class-percentages: the share of each class in each patch.

Reads   data/patches.parquet, which has the pixel counts; the class table
Writes  data/class_percentages.parquet: patch_id, and one column per class, named after it, with its
        share of the patch's pixels that have a class, 0 to 1
        metrics/class_frequencies.csv: the percentage of each class in each split, beside the one
        of the train split that the dataset's publisher states
"""

import csv

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aerialdreams.data.index import SPLITS, read_index
from aerialdreams.params import Params
from aerialdreams.paths import FREQUENCIES, PERCENTAGES
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.util.files import atomic_file
from aerialdreams.util.tables import write_table


def main(params: Params) -> str:
    index = read_index()
    names = [land_cover.name for land_cover in params.classes]
    pixels = np.stack(index["pixels"].to_list())
    shares = pixels / pixels.sum(1, keepdims=True)
    rows = [
        {"patch_id": patch_id} | dict(zip(names, share, strict=True))
        for patch_id, share in zip(index["patch_id"], shares.tolist(), strict=True)
    ]
    schema = pa.schema([("patch_id", pa.string()), *((name, pa.float64()) for name in names)])
    write_table(PERCENTAGES, rows, schema, params.dataset_spec.credit)
    in_split = {split: shares[index["split"] == split] for split in SPLITS}
    write_frequencies(
        names,
        {split: rows.mean(0) for split, rows in in_split.items() if len(rows)},
        params.dataset_spec.published_percentages,
    )
    num_present = int((shares.max(0) > 0).sum())
    return f"{len(rows)} patches, {num_present} of {len(names)} classes present"


def write_frequencies(
    names: list[str], shares: dict[str, NDArray[np.float64]], published: list[float]
) -> None:
    """Write the percentage of each class in each split, one row per class.

    Args:
        names: of the classes.
        shares: by split, the share of each class, 0 to 1, (classes,); empty splits are missing.
        published: each class's percentage of the train split as its publisher states it, or [].
    """
    with atomic_file(FREQUENCIES) as partial, partial.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["class", *SPLITS, "published"])
        for number, name in enumerate(names):
            percentages = [
                f"{100 * shares[split][number]:.4f}" if split in shares else "" for split in SPLITS
            ]
            stated = f"{published[number]:.2f}" if published else ""
            writer.writerow([name, *percentages, stated])


if __name__ == "__main__":
    run_stage("class-percentages", __doc__, main)
