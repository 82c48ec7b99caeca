"""evaluate-utility: what generated images are good for, in the training of a segmenter.

Reads   data/dataset/ (validation and test), data/generated/validation/
Writes  metrics/utility.json; the same numbers on the run in MLflow that trained the model

Segmenters like train-segmenter's learn from the validation patches' masks, with the real images,
the generated ones, or both, for as many steps each; then they read the real images of the test
patches, other domains that neither they nor the ControlNet have seen. That is done from several
seeds. Generated images are worth what a segmenter learns from them: `miou_of_real` is 1 where they
teach as well as photographs do. A run that was killed goes on.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aerialdreams.dataset import DATASET, Split, load_split
from aerialdreams.files import fingerprint, write_json
from aerialdreams.generated import GENERATED, MANIFEST, UTILITY, read_json
from aerialdreams.metrics import agreement, agreement_draws, confusion, interval
from aerialdreams.params import Params
from aerialdreams.patches import read_image
from aerialdreams.segmenter import Segmenter
from aerialdreams.segmenter_training import learn
from aerialdreams.stage import run_stage, scratch
from aerialdreams.tracking import flatten_numbers, log_evaluation
from aerialdreams.training import Checkpoint, set_up_torch, to_tensor

BATCH = 16  # test images that are read at a time


def main(params: Params) -> str:
    device, stage = set_up_torch(params.torch_threads), params.evaluate_utility
    settings = [stage, params.train_segmenter, params.image_size, params.torch_threads]
    key = fingerprint(settings, __file__, [DATASET, GENERATED])
    lessons, test = load_lessons(params.image_size), load_split("test", params.image_size)
    matrices: dict[str, list[NDArray[np.int64]]] = {name: [] for name in lessons}
    checkpoints: list[Checkpoint] = []
    for seed in range(stage.seeds):
        pupil = {"seed": params.train_segmenter.seed + 1 + seed, "steps": stage.steps}
        how = params.train_segmenter.model_copy(update=pupil)
        for name, (images, masks) in lessons.items():
            place = scratch() / f"evaluate-utility-{key}-{name}-{seed}.pt"
            every = params.runtime.checkpoint_every
            model, _, checkpoint = learn(images, masks, how, place, every, device)
            matrices[name].append(examine(model, test, device))
            checkpoints.append(checkpoint)
    names = [land_cover.name for land_cover in params.classes]
    report = summarise({name: np.stack(some) for name, some in matrices.items()}, names)
    for name, (images, _) in lessons.items():
        report[name]["n"] = len(images)
    write_json(UTILITY, report)
    for checkpoint in checkpoints:
        checkpoint.remove()
    manifest = read_json(GENERATED / MANIFEST)
    log_evaluation(manifest["controlnet_md5"], flatten_numbers({"utility": report}), [])
    said = ", ".join(f"{report[name]['miou']:.3f} from {name} images" for name in lessons)
    return f"mIoU on {len(test.masks)} real test patches: {said}; {stage.seeds} seeds"


def load_lessons(size: int) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Images and masks to learn from, by name."""
    real = load_split("validation", size)
    folder = GENERATED / "validation/generated"
    made = np.stack([read_image(folder / f"IMG_{number}.png") for number in real.patch_ids])
    both = np.concatenate([real.images, made]), np.concatenate([real.masks, real.masks])
    return {"real": (real.images, real.masks), "generated": (made, real.masks), "both": both}


@torch.no_grad()
def examine(model: Segmenter, test: Split, device: torch.device) -> NDArray[np.int64]:
    """The confusion of each test image, (images, 19, 19)."""
    matrices = []
    for first in range(0, len(test.images), BATCH):
        some = slice(first, first + BATCH)
        read = model(to_tensor(test.images[some]).to(device)).argmax(1).cpu().numpy() + 1
        pairs = zip(test.masks[some], read.astype(np.uint8), strict=True)
        matrices += [confusion(mask, ids) for mask, ids in pairs]
    return np.stack(matrices)


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
        report[name]["miou_of_real"] = report[name]["miou"] / report["real"]["miou"]
        report[name]["miou_of_real_95"] = interval(draws[name] / draws["real"])
    return report


if __name__ == "__main__":
    run_stage("evaluate-utility", __doc__, main)
