"""evaluate-FID: how good the generated images are, beside the real ones and an untrained model's.

Reads   data/generated/, data/dataset/, models/segmenter/, and the FID Inception if it is there
Writes  metrics/evaluation.json; metrics/iou_{validation,test}.csv for plots; the same
        numbers on the run in MLflow that trained the model

The judge (train-segmenter) reads land cover from images: agreement with the mask that was asked
for. Distances compare features of image sets: with the FID Inception they are FID and KID, with
the judge's features they are named so.
"""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aerialdreams.dataset import load_some, load_split
from aerialdreams.errors import UserError
from aerialdreams.files import whole_file, write_json
from aerialdreams.generated import GENERATED, HELD_OUT, MANIFEST, SOURCES
from aerialdreams.metrics import agreement, confusion, frechet_distance, kernel_distance
from aerialdreams.params import EvaluateFid, Params
from aerialdreams.patches import read_image
from aerialdreams.progress import progress
from aerialdreams.segmenter import SEGMENTER, Segmenter
from aerialdreams.stage import run_stage
from aerialdreams.tracking import flatten_numbers, log_evaluation
from aerialdreams.training import set_up_torch, to_tensor

EVALUATION = Path("metrics/evaluation.json")
NOT_COMPUTED = "not computed: no weights"

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
    for split in HELD_OUT:
        report[split] = evaluate(split, judge, inception, params, names)
        write_iou(Path(f"metrics/iou_{split}.csv"), report[split])
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


@torch.no_grad()
def evaluate(
    split: str, judge: Judge, inception: Inception | None, params: Params, names: list[str]
) -> dict[str, Any]:
    """All numbers of one split."""
    real = load_split(split, params.image_size)
    count = len(real.patch_ids)
    sets = {"real": real.images}
    for source in SOURCES:
        paths = [GENERATED / split / source / f"IMG_{number}.png" for number in real.patch_ids]
        sets[source] = np.stack([read_image(path) for path in paths])
    train = load_some("train", count, params.image_size).images

    report: dict[str, Any] = {}
    batch = params.evaluate_fid.batch
    for source, images in progress(sets.items(), f"{split} judged", "sets", len(sets)):
        seen = np.concatenate([judge.read(images[i : i + batch]) for i in range(0, count, batch)])
        report[source] = {"n": count} | agreement(confusion(real.masks, seen), names)
    spaces: dict[str, Judge | Inception] = {"judge": judge}
    if inception:
        spaces["inception"] = inception
    of_real = features(real.images, spaces, batch)
    for source in SOURCES:
        report[source]["miou_of_real"] = report[source]["miou"] / report["real"]["miou"]
        report[source] |= distances(features(sets[source], spaces, batch), of_real)
    # As many real images of other places: no image set can be expected to come nearer.
    report["floor"] = {"n": len(train)} | distances(features(train, spaces, batch), of_real)
    return report


@torch.no_grad()
def features(
    images: Images, spaces: dict[str, Judge | Inception], batch: int
) -> dict[str, NDArray[np.float64]]:
    """Features of all images in each space, (images, dimensions), in float64."""
    starts = range(0, len(images), batch)
    return {
        name: torch.cat([space(images[i : i + batch]).cpu().double() for i in starts]).numpy()
        for name, space in spaces.items()
    }


def distances(
    a: dict[str, NDArray[np.float64]], b: dict[str, NDArray[np.float64]]
) -> dict[str, Any]:
    """Fréchet and kernel distance of two image sets, by their features in each space."""
    report: dict[str, Any] = {
        "judge_frechet_distance": frechet_distance(a["judge"], b["judge"]),
        "judge_kernel_distance": kernel_distance(a["judge"], b["judge"]),
        "fid": NOT_COMPUTED,
        "kid": NOT_COMPUTED,
    }
    if "inception" in a:
        report["fid"] = frechet_distance(a["inception"], b["inception"])
        report["kid"] = kernel_distance(a["inception"], b["inception"])
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
