"""evaluate-FID: how good the generated images are, beside the real ones and an untrained model's.

Reads   data/generated/, data/dataset/, models/segmenter/, and the FID Inception if it is there
Writes  metrics/evaluation.json; metrics/iou_{validation,test}.csv for plots;
        data/agreement.parquet, each image's agreement with its mask; the same numbers on the run in
        MLflow that trained the model

The judge (train-segmenter) reads land cover from images: agreement with the mask that was asked
for. Distances compare features of image sets: with the FID Inception they are FID and KID, with
the judge's features they are named so.
"""

import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from aerialdreams.dataset import Patch, count_patches, in_batches, read_patches
from aerialdreams.errors import UserError
from aerialdreams.files import whole_file, write_json
from aerialdreams.generated import AGREEMENT, GENERATED, HELD_OUT, MANIFEST, SOURCES
from aerialdreams.metrics import (
    NEIGHBOURS,
    agreement,
    agreement_interval,
    confusion,
    density_coverage,
    frechet_distance,
    kernel_distance,
    kernel_distance_interval,
    nearest,
    share_error,
)
from aerialdreams.params import EvaluateFid, Params
from aerialdreams.patches import read_image, resize_image, resize_mask
from aerialdreams.progress import progress
from aerialdreams.segmenter import SEGMENTER, Segmenter
from aerialdreams.stage import run_stage
from aerialdreams.tables import write_table
from aerialdreams.tracking import flatten_numbers, log_evaluation
from aerialdreams.training import set_up_torch, to_tensor

EVALUATION = Path("metrics/evaluation.json")
NOT_COMPUTED = "not computed: no weights"
JUDGE_DISTANCES = (
    "judge_frechet_distance",
    "judge_kernel_distance",
    "judge_kernel_distance_95",
    "judge_density",
    "judge_coverage",
)

AGREEMENT_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("source", pa.string()),  # real, generated or untrained
        ("patch_id", pa.string()),
        ("pixel_accuracy", pa.float64()),  # share of its pixels that the judge reads as asked
    ]
)

Images = NDArray[np.uint8]


class Inception:
    """The FID Inception of 2015 as TorchScript; its own bilinear resize to 299 pixels."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.model = torch.jit.load(path, map_location=device).eval()
        self.device = device

    def __call__(self, images: Images) -> torch.Tensor:
        """Features (batch, 2048) of RGB images (batch, height, width, 3)."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        features: torch.Tensor = self.model(pixels, return_features=True)
        return features


class Judge:
    """The segmenter as a judge of images."""

    def __init__(self, device: torch.device) -> None:
        self.model = Segmenter.load(SEGMENTER).to(device)
        self.device = device

    def __call__(self, images: Images) -> torch.Tensor:
        """Features (batch, dimensions) of RGB images (batch, height, width, 3)."""
        return self.model.features(to_tensor(images).to(self.device))

    def read(self, images: Images) -> NDArray[np.uint8]:
        """Class ids (batch, height, width)."""
        ids = self.model(to_tensor(images).to(self.device)).argmax(1) + 1
        return ids.cpu().numpy().astype(np.uint8)


def main(params: Params) -> str:
    device, stage = set_up_torch(params.torch_threads), params.evaluate_fid
    manifest = read_manifest()
    judge, inception = Judge(device), load_inception(stage, device)
    names = [land_cover.name for land_cover in params.classes]
    report: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for split in HELD_OUT:
        report[split] = evaluate(split, judge, inception, params, names, rows)
        write_iou(Path(f"metrics/iou_{split}.csv"), report[split])
    write_table(AGREEMENT, rows, AGREEMENT_SCHEMA)
    write_json(EVALUATION, report)
    sheets = [GENERATED / f"{split}.png" for split in HELD_OUT]
    run = log_evaluation(manifest["controlnet_md5"], flatten_numbers(report), sheets)
    first = report["validation"]
    return (
        f"validation mIoU {first['generated']['miou']:.3f} generated, {first['real']['miou']:.3f}"
        f" real, {first['untrained']['miou']:.3f} untrained (N = {first['generated']['n']});"
        f" FID {'computed' if inception else NOT_COMPUTED}; on MLflow's run {run}"
    )


def read_manifest() -> dict[str, Any]:
    """What generate-validation wrote of its images."""
    path = GENERATED / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; `dvc repro generate-validation`") from None
    return manifest


def load_inception(stage: EvaluateFid, device: torch.device) -> Inception | None:
    """The FID Inception where its file is there.

    Raises:
        UserError: the file is another one; random or other weights give numbers that look right.
    """
    path = Path(stage.inception_weights)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != stage.inception_sha256:
        raise UserError(
            f"{path}: sha256 is {digest}, evaluate_fid.inception_sha256 asks for"
            f" {stage.inception_sha256}; put the right file there, or none"
        )
    return Inception(path, device)


@dataclass
class Seen:
    """What is gathered of an image set, one pass over it."""

    matrices: list[NDArray[np.int64]] = field(default_factory=list)  # confusion of each image
    features: dict[str, list[NDArray[np.float64]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def of(self, space: str) -> NDArray[np.float64]:
        """Features of all images in a space, (images, dimensions)."""
        return np.concatenate(self.features[space])


@torch.no_grad()
def evaluate(
    split: str,
    judge: Judge,
    inception: Inception | None,
    params: Params,
    names: list[str],
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    """All numbers of one split; its images pass by in batches, only their features stay.

    `rows` gets one of each image for `AGREEMENT`.
    """
    spaces: dict[str, Judge | Inception] = {"judge": judge}
    if inception:
        spaces["inception"] = inception
    batch, size, count = params.evaluate_fid.batch, params.image_size, count_patches(split)
    sets = {source: Seen() for source in ("real", *SOURCES)}
    batches = in_batches(read_patches(split), batch)
    for patches in progress(batches, f"{split} judged", "batches", -(-count // batch)):
        masks = np.stack([resize_mask(patch.mask, size) for patch in patches])
        for source, seen in sets.items():
            images = np.stack([picture(split, source, patch, size) for patch in patches])
            read = judge.read(images)
            for patch, mask, ids in zip(patches, masks, read, strict=True):
                seen.matrices.append(confusion(mask, ids))
                right = float((mask == ids).mean())
                rows.append(
                    {
                        "split": split,
                        "source": source,
                        "patch_id": patch.patch_id,
                        "pixel_accuracy": right,
                    }
                )
            for name, space in spaces.items():
                seen.features[name].append(space(images).cpu().double().numpy())

    report: dict[str, Any] = {}
    for source, seen in sets.items():
        matrices = np.stack(seen.matrices)
        intervals = agreement_interval(matrices)
        report[source] = {"n": count} | agreement(matrices.sum(0), names)
        report[source] |= {f"{key}_95": value for key, value in intervals.items()}
        report[source]["class_share_error"] = share_error(matrices)
    real = sets["real"]
    train = Seen()
    batches = in_batches(read_patches("train"), batch)
    total = count_patches("train")
    for patches in progress(batches, "train seen", "batches", -(-total // batch)):
        images = np.stack([resize_image(patch.image, size) for patch in patches])
        for name, space in spaces.items():
            train.features[name].append(space(images).cpu().double().numpy())
    # As many real images of other places: no image set can be expected to come nearer.
    spread = [number * total // count for number in range(min(count, total))]
    floor = Seen(features={name: [train.of(name)[spread]] for name in spaces})
    for source in SOURCES:
        report[source]["miou_of_real"] = report[source]["miou"] / report["real"]["miou"]
        report[source] |= distances(sets[source], real, spaces)
        # Copies of what was learnt by heart would be nearer to the train split than real ones are.
        made, ground = sets[source].of("judge"), real.of("judge")
        to_train = nearest(made, train.of("judge")) / nearest(ground, train.of("judge"))
        report[source]["judge_nearest_train_of_real"] = to_train
    report["floor"] = {"n": len(spread)} | distances(floor, real, spaces)
    return report


def picture(split: str, source: str, patch: Patch, size: int) -> NDArray[np.uint8]:
    """An image of a set, RGB (size, size, 3).

    Raises:
        UserError: it is missing, damaged, or of another size than the rest.
    """
    if source == "real":
        return resize_image(patch.image, size)
    path = GENERATED / split / source / f"IMG_{patch.patch_id}.png"
    image = read_image(path)
    if image.shape != (size, size, 3):
        raise UserError(
            f"{path}: is {image.shape[1]} x {image.shape[0]}, image_size asks for {size} x {size};"
            " `dvc repro -f generate-validation`"
        )
    return image


def distances(a: Seen, real: Seen, spaces: Iterable[str]) -> dict[str, Any]:
    """Distances of an image set to the real one, by their features in each space."""
    made, ground = a.of("judge"), real.of("judge")
    count = min(len(made), len(ground))
    too_few = f"not computed: {count} images are too few"
    report: dict[str, Any] = dict.fromkeys(JUDGE_DISTANCES, too_few)
    if count > 1:
        report["judge_frechet_distance"] = frechet_distance(made, ground)
        report["judge_kernel_distance"] = kernel_distance(made, ground)
        report["judge_kernel_distance_95"] = kernel_distance_interval(made, ground)
    if count > NEIGHBOURS:
        density, coverage = density_coverage(ground, made)
        report |= {"judge_density": density, "judge_coverage": coverage}
    report |= {"fid": NOT_COMPUTED, "kid": NOT_COMPUTED}
    if "inception" in spaces:
        report["fid"] = frechet_distance(a.of("inception"), real.of("inception"))
        report["kid"] = kernel_distance(a.of("inception"), real.of("inception"))
    return report


def write_iou(path: Path, report: dict[str, Any]) -> None:
    """One split's IoU by class as a table for `dvc plots`."""
    sources = ("real", *SOURCES)
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", *sources])
        for name in report["real"]["iou"]:
            writer.writerow([name, *(f"{report[source]['iou'][name]:.6f}" for source in sources)])


if __name__ == "__main__":
    run_stage("evaluate-FID", __doc__, main)
