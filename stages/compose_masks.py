"""compose-masks: further masks, in which chosen classes have chosen shares of the pixels.

Reads   data/patches.parquet, data/class_percentages.parquet, data/masks/ (train)
Writes  data/composed/MSK_composed-nnnnnn.png: class ids and palette, as in data/masks
        data/composed/masks.csv: each mask's patch_id, the train patch it started from, its caption
        data/composed/README.md: what the masks derive from

Masks of the train split that have the chosen classes are chosen more often, and parcels of these
classes are cut out of them and pasted into others, so that images of rare classes can be generated
for training. Without `compose_masks.masks` there are none.
"""

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from aerialdreams.data.composition import (
    ComposedMask,
    Parcel,
    choose_masks,
    compose_masks,
    find_parcels,
)
from aerialdreams.data.images import mask_path, read_mask, write_mask
from aerialdreams.data.index import read_index
from aerialdreams.data.land_cover import class_ids, class_pixel_counts
from aerialdreams.errors import UserError
from aerialdreams.params import Params
from aerialdreams.paths import COMPOSED, COMPOSED_TABLE, PERCENTAGES
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.util.files import atomic_folder
from aerialdreams.util.progress import progress
from aerialdreams.util.tables import read_table

DONORS = 500  # masks of each class that parcels are cut out of, at most


def main(params: Params) -> str:
    stage, names = params.compose_masks, [land_cover.name for land_cover in params.classes]
    ids = dict(zip(names, class_ids(params.classes), strict=True))
    random = np.random.default_rng(stage.seed)
    with atomic_folder(COMPOSED) as folder:
        rows = list[ComposedMask]()
        counts = np.zeros(len(names), np.int64)
        if stage.masks:
            present = read_table(PERCENTAGES).set_index("patch_id").loc[train_patches()]
            parcels = {
                ids[name]: parcels_of(ids[name], present[name], random) for name in stage.shares
            }
            shares = {ids[name]: percent / 100 for name, percent in stage.shares.items()}
            chosen = choose_masks(
                present[list(stage.shares)].to_numpy(), [*shares.values()], stage.masks, stage.seed
            )
            starts = [str(present.index[row]) for row in chosen]
            composed = compose_masks(
                (read_mask(mask_path(patch_id)) for patch_id in starts), parcels, shares, stage.seed
            )
            numbered = enumerate(zip(starts, composed, strict=True), start=1)
            for number, (start, mask) in progress(numbered, "masks composed", "masks", stage.masks):
                patch_id = f"composed-{number:06}"
                write_mask(mask_path(patch_id, folder), mask, params.classes)
                pixels = class_pixel_counts(mask, list(ids.values()))
                counts += pixels
                share = dict(zip(names, (pixels / max(1, pixels.sum())).tolist(), strict=True))
                caption = params.captions.form.caption(share)
                rows.append(ComposedMask(patch_id, start, caption))
        write_list(folder, rows)
        credit = f"Masks derived from {params.dataset_spec.credit}.\n"
        (folder / "README.md").write_text(credit, encoding="utf-8")
    if not rows:
        return "0 masks composed"
    percent = dict(zip(names, 100 * counts / counts.sum(), strict=True))
    reached = ", ".join(f"{name} {percent[name]:.2f} %" for name in stage.shares)
    return f"{len(rows)} masks composed, with {reached} of the pixels"


def train_patches() -> list[str]:
    """The train split's patches."""
    index = read_index(["patch_id", "split"])
    return list(index["patch_id"][index["split"] == "train"])


def parcels_of(
    class_id: int, present: "pd.Series[float]", random: np.random.Generator
) -> list[Parcel]:
    """Parcels of a class from up to DONORS masks of the train split.

    Args:
        class_id: of the class.
        present: its share of each train patch, by patch_id; named after the class.
        random: decides which masks.

    Raises:
        UserError: the train split has none.
    """
    parcels = [
        parcel
        for patch_id in random.permutation(list(present.index[present > 0]))[:DONORS]
        for parcel in find_parcels(read_mask(mask_path(str(patch_id))), class_id)
    ]
    if not parcels:
        raise UserError(
            f"compose_masks.shares: {present.name!r} has no parcel in the train split that could be"
            " copied"
        )
    return parcels


def write_list(folder: Path, rows: list[ComposedMask]) -> None:
    """Write which masks there are."""
    with (folder / COMPOSED_TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(ComposedMask._fields)
        writer.writerows(rows)


if __name__ == "__main__":
    run_stage("compose-masks", __doc__, main)
