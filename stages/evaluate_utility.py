"""evaluate-utility: train segmenters on generated and on real images, and compare them.

Reads   data/dataset/ (validation and test), data/generated/{validation,composed}/, data/composed/
Writes  metrics/utility.json; the same numbers in the MLflow run that trained the model

Segmenters like train-segmenter's are trained for the same number of steps on the validation masks
with the real images, with one or more generated images of each mask, or with both, from several
seeds each. They are tested on the real test images, whose domains neither they nor the ControlNet
have seen. `miou_of_real` is 1 if a set trains a segmenter as well as real images do. Sets of N
generated images per mask have names that end in _N, but for N = 1. If there are composed masks, two
more sets are the images generated for these alone, and with the real images. If there are further
bands, `real_all_bands` and `generated_all_bands` train segmenters that see them all; the latter are
compared with the former. A killed run resumes from its last checkpoint.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset

from aerialdreams.data.composition import read_composed, read_composed_mask
from aerialdreams.data.dataset import (
    Patch,
    count_patches,
    decode_bands,
    decode_png,
    open_split,
    read_patches,
)
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.data.land_cover import class_ids
from aerialdreams.evaluation.metrics import (
    agreement,
    agreement_resamples,
    confusion,
    interval,
    miou_of_real,
)
from aerialdreams.generation.outputs import COMPOSED_IMAGES, MANIFEST, chosen_rows, read_generated
from aerialdreams.models.segmenter import Segmenter
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.params import Params
from aerialdreams.paths import DATASET, GENERATED, UTILITY
from aerialdreams.pipeline.distributed import Distributed, start_processes
from aerialdreams.pipeline.identity import training_identity
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.pipeline.tracking import flatten_numbers, log_evaluation
from aerialdreams.training.losses import class_weights
from aerialdreams.training.segmenter import SegmentationPatches, SegmenterSettings, train_segmenter
from aerialdreams.util.batched import batched
from aerialdreams.util.files import read_json, write_json
from aerialdreams.util.prefetch import map_ahead
from aerialdreams.util.progress import progress
from aerialdreams.util.scratch import work_folder
from aerialdreams.util.torch_setup import configure_torch

BATCH = 16  # test images per batch
COMPOSED_SETS = ("composed", "real_composed")
ALL_BANDS_SETS = ("real_all_bands", "generated_all_bands")


def main(params: Params) -> str:
    configure_torch(params.compute.threads, params.compute.deterministic)
    distributed, device = start_processes("stages.evaluate_utility", params.runtime.processes)
    manifest = read_json(GENERATED / MANIFEST)
    rows = open_split("validation").select(chosen_rows("validation", manifest["params"]["masks"]))
    real = Patches(rows, params.image_size, folder=None)
    parts = dict[str, list[Patches | ComposedPatches]](real=[real])
    for count in params.evaluate_utility.generated_per_real:
        folders = ["generated", *(f"sample-{number}" for number in range(2, count + 1))]
        generated: list[Patches | ComposedPatches]
        generated = [Patches(rows, params.image_size, folder) for folder in folders]
        suffix = "" if count == 1 else f"_{count}"
        parts |= {f"generated{suffix}": generated, f"both{suffix}": [real, *generated]}
    composed = ComposedPatches(params.image_size)
    if len(composed):
        parts |= dict(zip(COMPOSED_SETS, ([composed], [real, composed]), strict=True))
    if further := params.further_bands.names:
        all_bands = [Patches(rows, params.image_size, f, further) for f in (None, "generated")]
        parts |= {name: [own] for name, own in zip(ALL_BANDS_SETS, all_bands, strict=True)}
    training_sets: dict[str, SegmentationPatches] = {
        name: ConcatDataset(patches) for name, patches in parts.items()
    }
    identity = identity_of(params) if distributed.is_main else {}
    unfinished = work_folder(scratch_dir(), "evaluate-utility", identity)
    with distributed.shared_folder(unfinished) as work:
        # Sets without composed masks have the same masks, and so the same class weights.
        weights = dict.fromkeys(parts, weights_of([real], params))
        for name in parts.keys() & COMPOSED_SETS:
            weights[name] = weights_of(parts[name], params)
        models = train_own(training_sets, weights, work, params, distributed, device)
        matrices = distributed.gather(
            list(confusion_matrices(models, params, distributed, device).items())
        )
    if not distributed.is_main:
        return ""
    by_set: dict[str, list[NDArray[np.int64]]] = {name: [] for name in training_sets}
    for (name, _), counts in sorted(matrices, key=lambda entry: entry[0][1]):
        by_set[name].append(counts)
    report = summarise(
        {name: np.array(by_seed) for name, by_seed in by_set.items()},
        [land_cover.name for land_cover in params.classes],
    )
    for name, patches in parts.items():
        report[name]["n"] = sum(len(part) for part in patches)
    write_json(UTILITY, report)
    log_evaluation(manifest["controlnet_md5"], flatten_numbers({"utility": report}), [])
    scores = ", ".join(f"{report[name]['miou']:.3f} from {name} images" for name in training_sets)
    count = report["real"]["n_test"]
    seeds = params.evaluate_utility.seeds
    return f"mIoU on {count} real test patches: {scores}; {seeds} seeds"


def identity_of(params: Params) -> dict[str, Any]:
    """Everything that determines the weights of the segmenters; see `training_identity`."""
    decisive_params = params.evaluate_utility.model_dump(mode="json") | {
        "segmenter": params.train_segmenter.model_dump(mode="json"),
        "image_size": params.image_size,
    }
    rooms = ("data", "models", "training", "generation")
    return training_identity(decisive_params, [DATASET, GENERATED], [__file__], rooms)


Key = tuple[str, int]  # name of the training set, index of the seed


def train_own(
    training_sets: dict[str, SegmentationPatches],
    weights: dict[str, torch.Tensor],
    work: Path,
    params: Params,
    distributed: Distributed,
    device: torch.device,
) -> dict[Key, Segmenter]:
    """Train this rank's share of the segmenters, one for each training set and seed.

    Args:
        training_sets: the sets by name.
        weights: of each set, class weights of the loss, (classes,).
        work: folder for checkpoints.
        params: all params.
        distributed: the processes that share the work.
        device: where to train.
    """
    segmenter, models = params.train_segmenter, dict[Key, Segmenter]()
    seeds = range(params.evaluate_utility.seeds)
    keys = [(name, index) for index in seeds for name in training_sets]
    for name, index in distributed.share(keys):
        settings = SegmenterSettings(
            seed=segmenter.seed + 1 + index,
            channels=segmenter.channels,
            class_ids=class_ids(params.classes),
            steps=params.evaluate_utility.steps,
            batch_size=segmenter.batch_size,
            learning_rate=segmenter.learning_rate,
            bands=len(params.bands) if name in ALL_BANDS_SETS else 3,
        )
        folder = work / f"{name}-{index}"
        folder.mkdir(exist_ok=True)
        models[name, index], _ = train_segmenter(
            training_sets[name],
            weights[name],
            settings,
            folder,
            params.runtime.checkpoint_every,
            params.runtime.loaders,
            device,
        )
    return models


class Patches(SegmentationPatches):
    """Validation masks with images of one kind.

    Args:
        rows: of the validation split.
        size: height and width of the images, pixels.
        folder: of generated images, see data/generated; None for the real images.
        further: bands to read after red, green and blue.
    """

    def __init__(
        self, rows: Any, size: int, folder: str | None, further: tuple[str, ...] = ()
    ) -> None:
        self.rows, self.size, self.folder, self.further = rows, size, folder, further

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        row = self.rows[index]
        if self.folder:
            image = read_generated(
                "validation", self.folder, row["patch_id"], self.size, self.further
            )
        else:
            bands = decode_bands(row)[..., : 3 + len(self.further)]
            image = resize_image(bands, self.size)
        return image, resize_mask(decode_png(row["mask"]["bytes"]), self.size)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """One patch's mask."""
        return resize_mask(decode_png(self.rows[index]["mask"]["bytes"]), self.size)


class ComposedPatches(SegmentationPatches):
    """Composed masks with their generated images.

    Args:
        size: height and width of the images, pixels.
    """

    def __init__(self, size: int) -> None:
        self.ids, self.size = [row.patch_id for row in read_composed()], size

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image = read_generated(COMPOSED_IMAGES, "generated", self.ids[index], self.size)
        return image, self.mask(index)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """One mask."""
        return read_composed_mask(self.ids[index], self.size)


def weights_of(parts: list[Patches | ComposedPatches], params: Params) -> torch.Tensor:
    """Class weights of a training set, (classes,)."""
    masks = (part.mask(row) for part in parts for row in range(len(part)))
    return class_weights(masks, class_ids(params.classes))


@torch.no_grad()
def confusion_matrices(
    models: dict[Key, Segmenter], params: Params, distributed: Distributed, device: torch.device
) -> dict[Key, NDArray[np.int64]]:
    """Test segmenters on the real test images, in one pass over the images.

    Args:
        models: the segmenters.
        params: all params.
        distributed: the processes that share the work.
        device: where the segmenters are.

    Returns:
        Confusion matrices of each segmenter, (images, classes, classes).
    """
    size = params.image_size

    def load(patch: Patch) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return resize_image(patch.bands, size), resize_mask(patch.mask, size)

    matrices: dict[Key, list[NDArray[np.int64]]] = {key: [] for key in models}
    batches = batched(map_ahead(load, read_patches("test"), params.runtime.loaders), BATCH)
    if distributed.is_main:
        total = -(-count_patches("test") // BATCH)
        batches = progress(batches, "test images segmented", "batches", total)
    ids = class_ids(params.classes)
    for batch in batches:
        images, masks = zip(*batch, strict=True)
        inputs = images_to_tensor(np.stack(images)).to(device)
        for key, model in models.items():
            logits = model(inputs[:, : model.bands])
            predicted = np.array(ids, np.uint8)[logits.argmax(1).cpu().numpy()]
            matrices[key] += [
                confusion(mask, prediction, ids)
                for mask, prediction in zip(masks, predicted, strict=True)
            ]
    return {key: np.array(values) for key, values in matrices.items()}


def summarise(matrices: dict[str, NDArray[np.int64]], names: list[str]) -> dict[str, Any]:
    """Metrics of each training set, means over the seeds.

    The intervals are of these means: test images and seeds are both resampled (bootstrap), the same
    ones for all sets. With few seeds they are too narrow; use 5 or more for a decision.

    Args:
        matrices: confusion matrices by training set, (seeds, images, classes, classes).
        names: names of the classes, in order of their ids.
    """
    report: dict[str, Any] = {}
    resamples = {}
    for name, by_seed in matrices.items():
        scores = [agreement(images.sum(0), names) for images in by_seed]
        by_class = {
            c: float(np.mean([score["iou"][c] for score in scores])) for c in scores[0]["iou"]
        }
        mious = np.stack([agreement_resamples(images)["miou"] for images in by_seed])
        count, resampled = mious.shape
        seeds = np.random.default_rng(1).integers(0, count, (count, resampled))
        resamples[name] = np.take_along_axis(mious, seeds, 0).mean(0)
        by_seed_scores = [score["miou"] for score in scores]
        report[name] = {"n": 0, "n_test": by_seed.shape[1], "miou": float(np.mean(by_seed_scores))}
        report[name] |= {"miou_95": interval(resamples[name]), "miou_by_seed": by_seed_scores}
        report[name] |= {"iou": by_class}
    for name in matrices.keys() - {"real", "real_all_bands"}:
        real = "real_all_bands" if name in ALL_BANDS_SETS else "real"
        report[name] |= miou_of_real(
            report[name]["miou"], report[real]["miou"], resamples[name], resamples[real]
        )
    return report


if __name__ == "__main__":
    run_stage("evaluate-utility", __doc__, main)
