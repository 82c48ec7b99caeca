"""evaluate-utility: what generated images are worth as training data for a segmenter.

Reads   data/dataset/ (validation and test), data/generated/validation/
Writes  metrics/utility.json; the same numbers on the run in MLflow that trained the model

Segmenters are trained on the validation patches' masks with the real images, the generated ones, or
both, for the same number of steps. Then they segment the real images of the test patches, which are
of other domains, unknown to them and to the ControlNet. All of it from several seeds.
`miou_of_real` is 1 if generated images train a segmenter as well as photographs do.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset

from aerialdreams.data.dataset import (
    Patch,
    count_patches,
    decode_png,
    open_split,
    read_patches,
)
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.evaluation.metrics import (
    agreement,
    agreement_draws,
    confusion,
    interval,
    miou_of_real,
)
from aerialdreams.generation.outputs import MANIFEST, chosen_rows, read_generated
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

BATCH = 16  # test images that are read at a time


def main(params: Params) -> str:
    configure_torch(params.compute.threads, params.compute.deterministic)
    distributed, device = start_processes("stages.evaluate_utility", params.runtime.processes)
    manifest = read_json(GENERATED / MANIFEST)
    rows = open_split("validation").select(chosen_rows("validation", manifest["params"]["masks"]))
    real, generated = (Patches(rows, params.image_size, source) for source in (False, True))
    training_sets: dict[str, SegmentationPatches] = {
        "real": real,
        "generated": generated,
        "both": ConcatDataset([real, generated]),
    }
    identity = identity_of(params) if distributed.is_main else {}
    unfinished = work_folder(scratch_dir(), "evaluate-utility", identity)
    with distributed.shared_folder(unfinished) as work:
        # The masks, and so the weights, are the same in all training sets.
        weights = class_weights(real.mask(row) for row in range(len(real)))
        models = train_own(training_sets, weights, work, params, distributed, device)
        matrices = distributed.gather(list(examine(models, params, distributed, device).items()))
    if not distributed.is_main:
        return ""
    by_set: dict[str, list[NDArray[np.int64]]] = {name: [] for name in training_sets}
    for (name, _), counts in sorted(matrices, key=lambda entry: entry[0][1]):
        by_set[name].append(counts)
    report = summarise(
        {name: np.array(by_seed) for name, by_seed in by_set.items()},
        [land_cover.name for land_cover in params.classes],
    )
    sizes = {"real": len(real), "generated": len(generated), "both": 2 * len(real)}
    for name, size in sizes.items():
        report[name]["n"] = size
    write_json(UTILITY, report)
    log_evaluation(manifest["controlnet_md5"], flatten_numbers({"utility": report}), [])
    scores = ", ".join(f"{report[name]['miou']:.3f} from {name} images" for name in training_sets)
    count = report["real"]["n_test"]
    seeds = params.evaluate_utility.seeds
    return f"mIoU on {count} real test patches: {scores}; {seeds} seeds"


def identity_of(params: Params) -> dict[str, Any]:
    """What decides the weights of the segmenters."""
    decisive = params.evaluate_utility.model_dump(mode="json") | {
        "segmenter": params.train_segmenter.model_dump(mode="json"),
        "image_size": params.image_size,
    }
    rooms = ("data", "models", "training", "generation")
    return training_identity(decisive, [DATASET, GENERATED], [__file__], rooms)


Key = tuple[str, int]  # name of a training set, and number of the seed


def train_own(
    training_sets: dict[str, SegmentationPatches],
    weights: torch.Tensor,
    work: Path,
    params: Params,
    distributed: Distributed,
    device: torch.device,
) -> dict[Key, Segmenter]:
    """This rank's share of the segmenters: one for each training set and seed."""
    segmenter, models = params.train_segmenter, dict[Key, Segmenter]()
    seeds = range(params.evaluate_utility.seeds)
    keys = [(name, number) for number in seeds for name in training_sets]
    for name, number in distributed.share(keys):
        settings = SegmenterSettings(
            seed=segmenter.seed + 1 + number,
            channels=segmenter.channels,
            num_classes=len(params.classes),
            steps=params.evaluate_utility.steps,
            batch_size=segmenter.batch_size,
            learning_rate=segmenter.learning_rate,
        )
        folder = work / f"{name}-{number}"
        folder.mkdir(exist_ok=True)
        models[name, number], _ = train_segmenter(
            training_sets[name],
            weights,
            settings,
            folder,
            params.runtime.checkpoint_every,
            params.runtime.loaders,
            device,
        )
    return models


class Patches(SegmentationPatches):
    """The validation patches' masks with their real or their generated images."""

    def __init__(self, rows: Any, size: int, generated: bool) -> None:
        self.rows, self.size, self.generated = rows, size, generated

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        row = self.rows[index]
        if self.generated:
            image = read_generated("validation", "generated", row["patch_id"], self.size)
        else:
            image = resize_image(decode_png(row["image"]["bytes"]), self.size)
        return image, resize_mask(decode_png(row["mask"]["bytes"]), self.size)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """One patch's mask."""
        return resize_mask(decode_png(self.rows[index]["mask"]["bytes"]), self.size)


@torch.no_grad()
def examine(
    models: dict[Key, Segmenter], params: Params, distributed: Distributed, device: torch.device
) -> dict[Key, NDArray[np.int64]]:
    """Confusion matrices of segmenters on the real test images, in one pass over these.

    Returns:
        By segmenter, (images, 19, 19).
    """
    size = params.image_size

    def load(patch: Patch) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return resize_image(patch.image, size), resize_mask(patch.mask, size)

    matrices: dict[Key, list[NDArray[np.int64]]] = {key: [] for key in models}
    batches = batched(map_ahead(load, read_patches("test"), params.runtime.loaders), BATCH)
    if distributed.is_main:
        total = -(-count_patches("test") // BATCH)
        batches = progress(batches, "test images segmented", "batches", total)
    for batch in batches:
        images, masks = zip(*batch, strict=True)
        inputs = images_to_tensor(np.stack(images)).to(device)
        for key, model in models.items():
            predicted = (model(inputs).argmax(1).cpu().numpy() + 1).astype(np.uint8)
            matrices[key] += [
                confusion(mask, ids) for mask, ids in zip(masks, predicted, strict=True)
            ]
    return {key: np.array(values) for key, values in matrices.items()}


def summarise(matrices: dict[str, NDArray[np.int64]], names: list[str]) -> dict[str, Any]:
    """The numbers of each lesson; intervals hold over test images and over seeds.

    Args:
        matrices: of each lesson, by seed and test image, (seeds, images, 19, 19).
        names: of the classes.
    """
    report: dict[str, Any] = {}
    draws = {}
    for name, by_seed in matrices.items():
        scores = [agreement(one.sum(0), names)["miou"] for one in by_seed]
        # Test images are drawn alike for all; each draw is of a seed, drawn too.
        drawn = np.stack([agreement_draws(one)["miou"] for one in by_seed])
        chosen = np.random.default_rng(1).integers(0, len(by_seed), drawn.shape[1])
        draws[name] = drawn[chosen, np.arange(drawn.shape[1])]
        report[name] = {"n": 0, "n_test": by_seed.shape[1], "miou": float(np.mean(scores))}
        report[name] |= {"miou_95": interval(draws[name]), "miou_by_seed": scores}
    for name in ("generated", "both"):
        mious = report[name]["miou"], report["real"]["miou"]
        report[name] |= miou_of_real(*mious, draws[name], draws["real"])
    return report


if __name__ == "__main__":
    run_stage("evaluate-utility", __doc__, main)
