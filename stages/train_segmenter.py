"""train-segmenter: the judge, a U-Net that reads land cover from images.

Reads   data/patches.parquet, data/images/, data/masks/ (train), of which source `trained` learns;
        no caption, so that another wording leaves the judge as it is. Or IGN's published weights
Writes  models/segmenter/; with further bands, models/segmenter/all_bands/, a second judge, which
        sees them too; metrics/segmenter.csv, the losses of a judge that was trained here
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.images import (
    image_path,
    mask_path,
    read_bands,
    read_mask,
    resize_image,
    resize_mask,
)
from aerialdreams.data.index import read_index
from aerialdreams.data.land_cover import class_ids
from aerialdreams.data.spec import DatasetSpec
from aerialdreams.models.ign_segmenter import WEIGHTS_FILE, IgnSegmenter
from aerialdreams.models.segmenter import Segmenter
from aerialdreams.param_groups.models import PublishedWeights
from aerialdreams.params import Params
from aerialdreams.paths import ALL_BANDS, IMAGES, INDEX, MASKS, SEGMENTER, SEGMENTER_LOSSES
from aerialdreams.pipeline.identity import training_identity
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.training.loss_curves import LossCurve, write_curve
from aerialdreams.training.losses import class_weights
from aerialdreams.training.segmenter import SegmentationPatches, SegmenterSettings, train_segmenter
from aerialdreams.util.download import check_sha256
from aerialdreams.util.files import atomic_folder, refuse_overlap
from aerialdreams.util.hub import download_snapshot
from aerialdreams.util.progress import progress
from aerialdreams.util.scratch import work_folder
from aerialdreams.util.torch_setup import configure_torch

COLOURS = "colours"  # folder of the judge's checkpoints


def main(params: Params) -> str:
    stage, further = params.train_segmenter, params.further_bands.names
    bands: dict[str, tuple[str, ...]] = {}  # that a judge sees beside red, green and blue
    if stage.source == "trained":
        bands[COLOURS] = ()
    if further:
        bands[ALL_BANDS] = further
    unfinished = (
        work_folder(scratch_dir(), "train-segmenter", identity_of(params))
        if bands
        else nullcontext()
    )
    judge: Segmenter | IgnSegmenter
    with unfinished as work:
        trained = train(bands, work, params) if work else {}
        if stage.source == "ign":
            judge, text, curve = load_ign(stage.ign), IGN_CARD, []
            summary = f"IGN's U-Net{size_of(judge)}, sha256 {stage.ign.sha256[:12]}, is the judge"
        else:
            judge, losses, count = trained[COLOURS]
            text, curve = card(params.dataset_spec), losses.means()
            summary = (
                f"U-Net{size_of(judge)} trained for {stage.steps} steps on {count} patches, loss"
                f" {curve[-1][1]:.3f}"
            )
        with atomic_folder(SEGMENTER) as folder:
            judge.save(folder)
            (folder / "README.md").write_text(text, encoding="utf-8")
            if further:
                (folder / ALL_BANDS).mkdir()
                trained[ALL_BANDS].model.save(folder / ALL_BANDS)
        write_curve(SEGMENTER_LOSSES, curve)
    return summary + (f"; a second one for all {len(params.bands)} bands" if further else "")


class Trained(NamedTuple):
    """A judge that was trained here, its losses, and how many patches it was trained on."""

    model: Segmenter
    losses: LossCurve
    patches: int


def identity_of(params: Params) -> dict[str, Any]:
    """What decides the weights: checkpoints are only continued with the same."""
    decisive = params.train_segmenter.model_dump(mode="json", exclude={"source", "ign"}) | {
        "image_size": params.image_size,
        "classes": class_ids(params.classes),
        "bands": params.bands,
    }
    rooms = ("data", "models", "training")
    return training_identity(decisive, [INDEX, IMAGES, MASKS], [__file__], rooms)


def train(bands: dict[str, tuple[str, ...]], work: Path, params: Params) -> dict[str, Trained]:
    """Train judges, or resume from their checkpoints.

    Args:
        bands: what each judge sees beside red, green and blue, by the judge's name.
        work: folder of their checkpoints.
        params: all params.
    """
    stage, patches = params.train_segmenter, TrainPatches(params.image_size)
    device = configure_torch(params.compute.threads, params.compute.deterministic)
    settings = SegmenterSettings(
        seed=stage.seed,
        channels=stage.channels,
        class_ids=class_ids(params.classes),
        steps=stage.steps,
        batch_size=stage.batch_size,
        learning_rate=stage.learning_rate,
    )
    masks = progress(patches.masks(), "masks counted", "masks", len(patches))
    weights = class_weights(masks, settings.class_ids)
    judges = {}
    for name, further in bands.items():
        folder = work / name
        folder.mkdir(exist_ok=True)
        model, losses = train_segmenter(
            TrainPatches(params.image_size, further),
            weights,
            replace(settings, bands=3 + len(further)),
            folder,
            params.runtime.checkpoint_every,
            params.runtime.loaders,
            device,
        )
        judges[name] = Trained(model, losses, len(patches))
    return judges


def size_of(judge: Segmenter | IgnSegmenter) -> str:
    """How many weights a judge has, for the summary."""
    return f" of {sum(p.numel() for p in judge.parameters()) / 1e6:.2f} M weights"


def load_ign(ign: PublishedWeights) -> IgnSegmenter:
    """IGN's published segmenter."""
    if ign.file:
        path = Path(ign.file)
        refuse_overlap("train_segmenter.ign.file", path, SEGMENTER)
    else:
        key = "train_segmenter.ign.id"
        path = download_snapshot(key, ign.id, ign.revision, [WEIGHTS_FILE]) / WEIGHTS_FILE
    check_sha256(path, ign.sha256)
    return IgnSegmenter.from_checkpoint(path)


class TrainPatches(SegmentationPatches):
    """Images, with further bands if there are any, and masks of the train split.

    Args:
        size: height and width, pixels.
        further: bands to read after red, green and blue.
    """

    def __init__(self, size: int, further: tuple[str, ...] = ()) -> None:
        index = read_index()
        self.ids = index.loc[index["split"] == "train", "patch_id"].tolist()
        self.size, self.further = size, further

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image = read_bands(image_path(self.ids[row]), self.further)
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
