"""train-segmenter: the judge, a U-Net that reads land cover from images.

Reads   data/patches.parquet, data/images/, data/masks/ (train), of which source `trained` learns;
        no caption, so that another wording leaves the judge as it is. Or IGN's published weights
Writes  models/segmenter/; metrics/segmenter.csv, the losses of a judge that was trained here
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.images import (
    image_path,
    mask_path,
    read_image,
    read_mask,
    resize_image,
    resize_mask,
)
from aerialdreams.data.index import read_index
from aerialdreams.data.land_cover import class_ids
from aerialdreams.data.spec import DatasetSpec
from aerialdreams.models.ign_segmenter import WEIGHTS_FILE, IgnSegmenter
from aerialdreams.params import Params
from aerialdreams.paths import IMAGES, INDEX, MASKS, SEGMENTER, SEGMENTER_LOSSES
from aerialdreams.pipeline.identity import training_identity
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.training.loss_curves import write_curve
from aerialdreams.training.losses import class_weights
from aerialdreams.training.segmenter import SegmentationPatches, SegmenterSettings, train_segmenter
from aerialdreams.util.download import check_sha256
from aerialdreams.util.files import atomic_folder, refuse_overlap
from aerialdreams.util.hub import download_snapshot
from aerialdreams.util.progress import progress
from aerialdreams.util.scratch import work_folder
from aerialdreams.util.torch_setup import configure_torch


def main(params: Params) -> str:
    if params.train_segmenter.source == "ign":
        return save_ign_segmenter(params)
    device, stage = (
        configure_torch(params.compute.threads, params.compute.deterministic),
        params.train_segmenter,
    )
    settings = SegmenterSettings(
        seed=stage.seed,
        channels=stage.channels,
        class_ids=class_ids(params.classes),
        steps=stage.steps,
        batch_size=stage.batch_size,
        learning_rate=stage.learning_rate,
    )
    patches = TrainPatches(params.image_size)
    masks = progress(patches.masks(), "masks counted", "masks", len(patches))
    decisive = settings.identity() | {"image_size": params.image_size}
    rooms = ("data", "models", "training")
    identity = training_identity(decisive, [INDEX, IMAGES, MASKS], [__file__], rooms)
    with work_folder(scratch_dir(), "train-segmenter", identity) as work:
        model, losses = train_segmenter(
            patches,
            class_weights(masks, settings.class_ids),
            settings,
            work,
            params.runtime.checkpoint_every,
            params.runtime.loaders,
            device,
        )
        with atomic_folder(SEGMENTER) as folder:
            model.save(folder)
            (folder / "README.md").write_text(card(params.dataset_spec), encoding="utf-8")
        write_curve(SEGMENTER_LOSSES, losses.means())
    size = sum(p.numel() for p in model.parameters()) / 1e6
    return (
        f"U-Net of {size:.2f} M weights trained for {stage.steps} steps on {len(patches)} patches,"
        f" loss {losses.means()[-1][1]:.3f}"
    )


def save_ign_segmenter(params: Params) -> str:
    """Save IGN's published segmenter as the segmenter of this pipeline."""
    ign = params.train_segmenter.ign
    if ign.file:
        path = Path(ign.file)
        refuse_overlap("train_segmenter.ign.file", path, SEGMENTER)
    else:
        key = "train_segmenter.ign.id"
        path = download_snapshot(key, ign.id, ign.revision, [WEIGHTS_FILE]) / WEIGHTS_FILE
    check_sha256(path, ign.sha256)
    model = IgnSegmenter.from_checkpoint(path)
    with atomic_folder(SEGMENTER) as folder:
        model.save(folder)
        (folder / "README.md").write_text(IGN_CARD, encoding="utf-8")
    write_curve(SEGMENTER_LOSSES, [])
    size = sum(p.numel() for p in model.parameters()) / 1e6
    return f"IGN's U-Net of {size:.2f} M weights, sha256 {ign.sha256[:12]}, is the judge"


class TrainPatches(SegmentationPatches):
    """Images and masks of the train split, at `size` pixels a side."""

    def __init__(self, size: int) -> None:
        index = read_index()
        self.ids = index.loc[index["split"] == "train", "patch_id"].tolist()
        self.size = size

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image = read_image(image_path(self.ids[row]))
        return resize_image(image, self.size), self.mask(row)

    def mask(self, row: int) -> NDArray[np.uint8]:
        """The mask of a patch, class ids, (size, size)."""
        return resize_mask(read_mask(mask_path(self.ids[row])), self.size)

    def masks(self) -> Iterator[NDArray[np.uint8]]:
        """All masks."""
        return (self.mask(row) for row in range(len(self)))


def card(spec: DatasetSpec) -> str:
    """The card of a judge that was trained here."""
    return f"""---
license: other
license_name: {spec.licence}
---
# A land-cover segmenter

Trained by AerialDreams to judge generated images. Derived from {spec.credit}
"""


IGN_CARD = """---
license: etalab-2.0
---
# IGN's land-cover segmenter

`IGNF/FLAIR-INC_rgb_15cl_resnet34-unet`, © IGN, Licence Ouverte 2.0 (Etalab): its weights as they
were published, in safetensors. It has learnt from FLAIR's train and validation
patches: believe its test scores.
"""

if __name__ == "__main__":
    run_stage("train-segmenter", __doc__, main)
