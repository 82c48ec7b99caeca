"""evaluate-utility: train segmenters on generated and on real images, and compare them.

Reads   data/dataset/ (validation and test), data/generated/validation/
Writes  metrics/utility.json; the same numbers in the MLflow run that trained the model

Segmenters like train-segmenter's are trained for the same number of steps on the validation masks
with the real images, the generated images, or both, from several seeds each. They are tested on the
real test images, whose domains neither they nor the ControlNet have seen. `miou_of_real` is 1 if
generated images train a segmenter as well as real ones. A killed run resumes from its last
checkpoint.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset

from aerialdreams.data.dataset import count_patches, decode_png, open_split, read_patches
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.evaluation.metrics import (
    agreement,
    agreement_resamples,
    confusion,
    interval,
    miou_of_real,
)
from aerialdreams.generation.outputs import MANIFEST, read_generated
from aerialdreams.models.segmenter import Segmenter
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.params import Params
from aerialdreams.paths import DATASET, GENERATED, UTILITY
from aerialdreams.pipeline.identity import training_identity
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.pipeline.tracking import flatten_numbers, log_evaluation
from aerialdreams.training.losses import class_weights
from aerialdreams.training.segmenter import SegmentationPatches, SegmenterSettings, train_segmenter
from aerialdreams.util.batched import batched
from aerialdreams.util.files import read_json, write_json
from aerialdreams.util.progress import progress
from aerialdreams.util.scratch import work_folder
from aerialdreams.util.torch_setup import configure_torch

BATCH = 16  # test images per batch


def main(params: Params) -> str:
    device, stage = configure_torch(params.torch_threads), params.evaluate_utility
    decisive_params = stage.model_dump(mode="json") | {
        "segmenter": params.train_segmenter.model_dump(mode="json"),
        "image_size": params.image_size,
    }
    rooms = ("data", "models", "training", "generation")
    identity = training_identity(decisive_params, [DATASET, GENERATED], [__file__], rooms)
    size, rows = params.image_size, open_split("validation")
    real, generated = Patches(rows, size, generated=False), Patches(rows, size, generated=True)
    training_sets: dict[str, SegmentationPatches] = {
        "real": real,
        "generated": generated,
        "both": ConcatDataset([real, generated]),
    }
    names = [land_cover.name for land_cover in params.classes]
    with work_folder(scratch_dir(), "evaluate-utility", identity) as work:
        # All training sets have the same masks, and so the same class weights.
        weights = class_weights(real.mask(row) for row in range(len(real)))
        models = train_all(training_sets, weights, work, params, device)
        report = summarise(confusion_by_seed(models, size, device), names)
    counts = (("real", len(real)), ("generated", len(generated)), ("both", 2 * len(real)))
    for name, count in counts:
        report[name]["n"] = count
    write_json(UTILITY, report)
    manifest = read_json(GENERATED / MANIFEST)
    log_evaluation(manifest["controlnet_md5"], flatten_numbers({"utility": report}), [])
    scores = ", ".join(f"{report[name]['miou']:.3f} from {name} images" for name in training_sets)
    count = report["real"]["n_test"]
    return f"mIoU on {count} real test patches: {scores}; {stage.seeds} seeds"


def train_all(
    training_sets: dict[str, SegmentationPatches],
    weights: torch.Tensor,
    work: Path,
    params: Params,
    device: torch.device,
) -> dict[str, list[Segmenter]]:
    """Train a segmenter on each set from each seed.

    Args:
        training_sets: the sets by name.
        weights: class weights of the loss, (classes,).
        work: folder for checkpoints.
        params: all params.
        device: where to train.

    Returns:
        The segmenters by the set's name, in order of the seeds.
    """
    segmenter, models = params.train_segmenter, dict[str, list[Segmenter]]()
    for seed in range(params.evaluate_utility.seeds):
        settings = SegmenterSettings(
            seed=segmenter.seed + 1 + seed,
            channels=segmenter.channels,
            num_classes=len(params.classes),
            steps=params.evaluate_utility.steps,
            batch_size=segmenter.batch_size,
            learning_rate=segmenter.learning_rate,
        )
        for name, patches in training_sets.items():
            folder = work / f"{name}-{seed}"
            folder.mkdir(exist_ok=True)
            model, _ = train_segmenter(
                patches,
                weights,
                settings,
                folder,
                params.runtime.checkpoint_every,
                params.runtime.loaders,
                device,
            )
            models.setdefault(name, []).append(model)
    return models


class Patches(SegmentationPatches):
    """Validation masks, with either their real or their generated images."""

    def __init__(self, rows: Any, size: int, generated: bool) -> None:
        self.rows, self.size, self.generated = rows, size, generated

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        row = self.rows[position]
        if self.generated:
            image = read_generated("validation", "generated", row["patch_id"], self.size)
        else:
            image = resize_image(decode_png(row["image"]), self.size)
        return image, resize_mask(decode_png(row["mask"]), self.size)

    def mask(self, position: int) -> NDArray[np.uint8]:
        """One patch's mask."""
        return resize_mask(decode_png(self.rows[position]["mask"]), self.size)


@torch.no_grad()
def confusion_by_seed(
    segmenters: dict[str, list[Segmenter]], size: int, device: torch.device
) -> dict[str, NDArray[np.int64]]:
    """Test all segmenters on the real test images, in one pass over the images.

    Args:
        segmenters: by the name of their training set, in order of the seeds.
        size: height and width of the images, pixels.
        device: where the segmenters are.

    Returns:
        Confusion matrices by the name of the training set, (seeds, images, 19, 19).
    """
    matrices: dict[str, list[list[NDArray[np.int64]]]]
    matrices = {name: [[] for _ in models] for name, models in segmenters.items()}
    batches = batched(read_patches("test"), BATCH)
    total = -(-count_patches("test") // BATCH)
    for patches in progress(batches, "test predicted", "batches", total):
        images = images_to_tensor(np.stack([resize_image(patch.image, size) for patch in patches]))
        masks = [resize_mask(patch.mask, size) for patch in patches]
        for name, models in segmenters.items():
            for seed, model in enumerate(models):
                predicted = model(images.to(device)).argmax(1).cpu().numpy() + 1
                pairs = zip(masks, predicted.astype(np.uint8), strict=True)
                matrices[name][seed] += [confusion(mask, ids) for mask, ids in pairs]
    return {name: np.array(by_seed) for name, by_seed in matrices.items()}


def summarise(matrices: dict[str, NDArray[np.int64]], names: list[str]) -> dict[str, Any]:
    """Metrics of each training set. The intervals cover both test images and seeds.

    Args:
        matrices: confusion matrices by the name of the training set, (seeds, images, 19, 19).
        names: names of the classes, in order of their ids.
    """
    report: dict[str, Any] = {}
    resamples = {}
    for name, by_seed in matrices.items():
        scores = [agreement(images.sum(0), names)["miou"] for images in by_seed]
        # Each resample is of one seed, drawn at random. All sets use the same images and seeds.
        mious = np.stack([agreement_resamples(images)["miou"] for images in by_seed])
        seeds = np.random.default_rng(1).integers(0, len(by_seed), mious.shape[1])
        resamples[name] = mious[seeds, np.arange(mious.shape[1])]
        report[name] = {"n": 0, "n_test": by_seed.shape[1], "miou": float(np.mean(scores))}
        report[name] |= {"miou_95": interval(resamples[name]), "miou_by_seed": scores}
    real = report["real"]["miou"]
    for name in ("generated", "both"):
        report[name] |= miou_of_real(report[name]["miou"], real, resamples[name], resamples["real"])
    return report


if __name__ == "__main__":
    run_stage("evaluate-utility", __doc__, main)
