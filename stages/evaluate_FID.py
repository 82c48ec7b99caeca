"""evaluate-FID: how good the generated images are, beside the real ones and an untrained model's.

Reads   data/generated/, data/dataset/, models/segmenter/; the FID Inception where it is named
Writes  metrics/evaluation.json; metrics/iou_{validation,test}.csv for plots;
        data/agreement.parquet, each image's agreement with its mask; the same numbers on the run in
        MLflow that trained the model

The judge (train-segmenter) reads land cover from images: agreement with the mask that was asked
for. Distances compare features of image sets: with the FID Inception they are FID and KID, with
the judge's features they are named so. Beside a number NAME stands its interval, NAME_95.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from aerialdreams.data.dataset import count_patches, read_patches
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.evaluation.feature_spaces import Images, Inception, Judge, load_inception
from aerialdreams.evaluation.metrics import (
    NEIGHBOURS,
    agreement,
    agreement_draws,
    confusion,
    density_coverage,
    frechet_distance,
    frechet_interval,
    interval,
    kernel_distance,
    kernel_distance_interval,
    mean_interval,
    median_ratio_interval,
    miou_of_real,
    nearest,
    share_errors,
    spread,
)
from aerialdreams.generation.outputs import (
    EVALUATED_SPLITS,
    JUDGED_SETS,
    MANIFEST,
    chosen_rows,
    extra_rows,
    read_generated,
)
from aerialdreams.params import GenerateValidation, Params
from aerialdreams.paths import AGREEMENT, EVALUATION, GENERATED, IOU_TABLES
from aerialdreams.pipeline.distributed import Distributed, start_processes
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.pipeline.tracking import flatten_numbers, log_evaluation
from aerialdreams.util.batched import batched
from aerialdreams.util.files import atomic_file, read_json, write_json
from aerialdreams.util.prefetch import map_ahead
from aerialdreams.util.progress import progress
from aerialdreams.util.tables import write_table
from aerialdreams.util.torch_setup import configure_torch

NOT_COMPUTED = "not computed: no weights"
ONE_SAMPLE = "not computed: one sample of each mask, or one mask"

AGREEMENT_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("source", pa.string()),  # real, generated or untrained
        ("patch_id", pa.string()),
        ("pixel_accuracy", pa.float64()),  # share of its pixels that the judge reads as asked
    ]
)

Loaded = TypeVar("Loaded")
Spaces = Mapping[str, Judge | Inception]  # what gives features, by its name


def main(params: Params) -> str:
    configure_torch(params.compute.threads, params.compute.deterministic)
    distributed, device = start_processes("stages.evaluate_FID", params.runtime.processes)
    stage, manifest = params.evaluate_fid, read_json(GENERATED / MANIFEST)
    judge = Judge(device)
    inception = load_inception(
        stage.inception_weights,
        stage.inception_sha256,
        Path(params.raw_patches.downloads),
        device,
    )
    spaces: Spaces = {"judge": judge, "inception": inception} if inception else {"judge": judge}
    generated = GenerateValidation(
        **{name: manifest["params"][name] for name in GenerateValidation.model_fields}
    )
    train = see_train(spaces, params, distributed)
    report: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for split in EVALUATED_SPLITS:
        sets, agreements = see_split(split, generated, judge, spaces, params, distributed)
        if not distributed.is_main:
            continue
        rows += agreements
        report[split] = evaluate(sets, train, generated.samples, params)
        write_iou(IOU_TABLES[split], report[split])
    if not distributed.is_main:
        return ""
    write_table(AGREEMENT, rows, AGREEMENT_SCHEMA)
    write_json(EVALUATION, report)
    # The files let `aerialdreams compare` read an experiment from MLflow alone.
    files = [GENERATED / f"{split}.png" for split in EVALUATED_SPLITS]
    files += [Path("params.yaml"), EVALUATION, AGREEMENT, GENERATED / MANIFEST]
    run = log_evaluation(manifest["controlnet_md5"], flatten_numbers(report), files)
    first = report["validation"]
    return (
        f"validation mIoU {first['generated']['miou']:.3f} generated, {first['real']['miou']:.3f}"
        f" real, {first['untrained']['miou']:.3f} untrained (N = {first['generated']['n']});"
        f" FID {'computed' if inception else NOT_COMPUTED}; on MLflow's run {run}"
    )


@dataclass
class Seen:
    """What is gathered of an image set.

    Attributes:
        matrices: the confusion matrix of each image.
        features: by feature space, arrays (images, dimensions).
        differences: mean absolute difference of each image to the first sample, 0 to 1.
    """

    matrices: list[NDArray[np.int64]] = field(default_factory=list)
    features: dict[str, list[NDArray[np.float64]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    differences: list[float] = field(default_factory=list)

    @torch.no_grad()
    def look(self, images: Images, spaces: Spaces) -> None:
        """Add the features of some images."""
        for name, space in spaces.items():
            self.features[name].append(space(images).cpu().double().numpy())

    def extend(self, other: "Seen") -> None:
        """Add what was gathered of the next images."""
        self.matrices += other.matrices
        self.differences += other.differences
        for name, arrays in other.features.items():
            self.features[name] += arrays

    def of(self, space: str) -> NDArray[np.float64]:
        """Features of all images in a space, (images, dimensions)."""
        return np.concatenate(self.features[space])


def see_train(spaces: Spaces, params: Params, distributed: Distributed) -> Seen:
    """The train split's features, on rank 0."""
    size, batch_size = params.image_size, params.evaluate_fid.batch_size
    batches = list(batched(range(count_patches("train")), batch_size))
    own = distributed.share(batches)

    def load(rows: list[int]) -> Images:
        patches = read_patches("train", rows)
        return np.stack([resize_image(patch.image, size) for patch in patches])

    loaded = map_ahead(load, own, params.runtime.loaders)
    parts = []
    for images in show_progress(loaded, "train seen", len(own), distributed):
        parts.append(Seen())
        parts[-1].look(images, spaces)
    train = Seen()
    for part in distributed.gather(parts):
        train.extend(part)
    return train


class Batch(NamedTuple):
    """Some patches of a split with their generated images.

    Attributes:
        patch_ids: of the patches.
        masks: class ids, (patches, size, size).
        images: by image set, those of the patches that have them: RGB, (images, size, size, 3).
        extra: numbers of the patches, within the batch, that have further samples.
    """

    patch_ids: list[str]
    masks: NDArray[np.uint8]
    images: dict[str, Images]
    extra: list[int]


def load_batch(
    split: str, generated: GenerateValidation, extra: set[int], size: int, rows: list[int]
) -> Batch:
    """Read some patches and their generated images.

    Args:
        split: validation or test.
        generated: what was generated.
        extra: rows of the split that have further samples.
        size: height and width of the images, pixels.
        rows: of the split, to read.
    """
    patches = list(read_patches(split, rows))
    ids = [patch.patch_id for patch in patches]
    numbers = [number for number, row in enumerate(rows) if row in extra]
    images = {
        "real": np.stack([resize_image(patch.image, size) for patch in patches]),
        "generated": np.stack([read_generated(split, "generated", i, size) for i in ids]),
    }
    if numbers:
        for source in ("untrained", *further_samples(generated)):
            images[source] = np.stack(
                [read_generated(split, source, ids[number], size) for number in numbers]
            )
    masks = np.stack([resize_mask(patch.mask, size) for patch in patches])
    return Batch(ids, masks, images, numbers)


def further_samples(generated: GenerateValidation) -> list[str]:
    """The folders of a mask's samples after the first."""
    return [f"sample-{number}" for number in range(2, generated.samples + 1)]


@torch.no_grad()
def see_split(
    split: str,
    generated: GenerateValidation,
    judge: Judge,
    spaces: Spaces,
    params: Params,
    distributed: Distributed,
) -> tuple[dict[str, Seen], list[dict[str, Any]]]:
    """Look at all image sets of a split. On rank 0 the result is complete.

    Returns:
        What was gathered, by image set; the first samples of the masks that have several are a set
        of their own, `sample-1`. And a row for each segmented image, for `AGREEMENT`.
    """
    rows = chosen_rows(split, generated.masks)
    extra = set(extra_rows(rows, generated.extra_masks))
    own = distributed.share(list(batched(rows, params.evaluate_fid.batch_size)))
    load = partial(load_batch, split, generated, extra, params.image_size)
    loaded = map_ahead(load, own, params.runtime.loaders)
    parts = []
    for batch in show_progress(loaded, f"{split} judged", len(own), distributed):
        parts.append(see_batch(split, batch, judge, spaces))
    sets: dict[str, Seen] = defaultdict(Seen)
    agreements = []
    for part, batch_rows in distributed.gather(parts):
        agreements += batch_rows
        for source, seen in part.items():
            sets[source].extend(seen)
    return sets, agreements


def see_batch(
    split: str, batch: Batch, judge: Judge, spaces: Spaces
) -> tuple[dict[str, Seen], list[dict[str, Any]]]:
    """What `see_split` gathers, of one batch."""
    sets: dict[str, Seen] = {source: Seen() for source in batch.images}
    rows = []
    for source in ("real", *JUDGED_SETS):
        if source not in sets:
            continue
        numbers = batch.extra if source == "untrained" else range(len(batch.patch_ids))
        for number, ids in zip(numbers, judge.read(batch.images[source]), strict=True):
            mask = batch.masks[number]
            sets[source].matrices.append(confusion(mask, ids))
            row = {"split": split, "source": source, "patch_id": batch.patch_ids[number]}
            rows.append(row | {"pixel_accuracy": float((mask == ids).mean())})
    for source, seen in sets.items():
        seen.look(batch.images[source], spaces)
    if batch.extra:
        first = batch.images["generated"][batch.extra]
        sets["sample-1"] = Seen(
            features={
                name: [array[batch.extra] for array in arrays]
                for name, arrays in sets["generated"].features.items()
            }
        )
        for source, seen in sets.items():
            if source.startswith("sample-") and source != "sample-1":
                difference = np.abs(batch.images[source].astype(float) - first) / 255
                seen.differences += difference.mean((1, 2, 3)).tolist()
    return sets, rows


def show_progress(
    batches: Iterator[Loaded], description: str, count: int, distributed: Distributed
) -> Iterator[Loaded]:
    """The batches, with progress on rank 0."""
    return progress(batches, description, "batches", count) if distributed.is_main else batches


def evaluate(sets: dict[str, Seen], train: Seen, samples: int, params: Params) -> dict[str, Any]:
    """All numbers of one split, by image set."""
    names = [land_cover.name for land_cover in params.classes]
    report: dict[str, Any] = {}
    draws = {}
    for source in ("real", *JUDGED_SETS):
        matrices = np.stack(sets[source].matrices)
        draws[source] = agreement_draws(matrices)
        report[source] = {"n": len(matrices)} | agreement(matrices.sum(0), names)
        report[source] |= {f"{key}_95": interval(some) for key, some in draws[source].items()}
        report[source] |= mean_of("class_share_error", share_errors(matrices))
    real, count = sets["real"], len(sets["real"].matrices)
    total = len(train.of("judge"))
    # As many real images of other places: no image set can be expected to come nearer.
    evenly = [number * total // count for number in range(min(count, total))]
    floor = Seen(features={name: [train.of(name)[evenly]] for name in train.features})
    for source in JUDGED_SETS:
        mious = report[source]["miou"], report["real"]["miou"]
        report[source] |= miou_of_real(*mious, draws[source]["miou"], draws["real"]["miou"])
        report[source] |= distances(sets[source], real)
        # Copies of what was learnt by heart would be nearer to the train split than real ones are.
        made, ground = (nearest(one.of("judge"), train.of("judge")) for one in (sets[source], real))
        ratio = float(np.median(made) / np.median(ground))
        report[source]["judge_nearest_train_of_real"] = ratio
        report[source]["judge_nearest_train_of_real_95"] = median_ratio_interval(made, ground)
    report["generated"] |= diversity(sets, samples)
    report["floor"] = {"n": len(evenly)} | distances(floor, real)
    return report


def mean_of(name: str, values: NDArray[np.float64]) -> dict[str, Any]:
    """The mean over images under its name, and its interval."""
    return {name: float(values.mean()), f"{name}_95": mean_interval(values)}


def diversity(sets: dict[str, Seen], samples: int) -> dict[str, Any]:
    """How far the samples of one mask lie apart, in pixels and in the judge's features."""
    if samples < 2 or len(sets["sample-1"].of("judge")) < 2:
        return {"sample_difference": ONE_SAMPLE, "judge_sample_spread": ONE_SAMPLE}
    drawn = [sets[f"sample-{number}"] for number in range(1, samples + 1)]
    pixels = np.mean([seen.differences for seen in drawn[1:]], axis=0)
    features = spread([seen.of("judge") for seen in drawn])
    return mean_of("sample_difference", pixels) | mean_of("judge_sample_spread", features)


def distances(a: Seen, real: Seen) -> dict[str, Any]:
    """Distances of an image set to the real one, by their features in each space."""
    made, ground = a.of("judge"), real.of("judge")
    count = min(len(made), len(ground))
    too_few = f"not computed: {count} images are too few"
    report = distance_pair(made, ground, "judge_frechet_distance", "judge_kernel_distance")
    if count > NEIGHBOURS:
        density, coverage = density_coverage(ground, made)
        report |= mean_of("judge_density", density) | mean_of("judge_coverage", coverage)
    else:
        report |= {"judge_density": too_few, "judge_coverage": too_few}
    if "inception" in a.features:
        report |= distance_pair(a.of("inception"), real.of("inception"), "fid", "kid")
    else:
        report |= {"fid": NOT_COMPUTED, "kid": NOT_COMPUTED}
    return report


def distance_pair(
    made: NDArray[np.float64], ground: NDArray[np.float64], frechet: str, kernel: str
) -> dict[str, Any]:
    """Both distances of two sets of features under their names, with intervals."""
    count = min(len(made), len(ground))
    if count < 4:  # halves of one image have no spread
        return dict.fromkeys((frechet, kernel), f"not computed: {count} images are too few")
    distance = frechet_distance(made, ground)
    return {
        frechet: distance,
        f"{frechet}_95": frechet_interval(made, ground, distance),
        kernel: kernel_distance(made, ground),
        f"{kernel}_95": kernel_distance_interval(made, ground),
    }


def write_iou(path: Path, report: dict[str, Any]) -> None:
    """One split's IoU by class as a table for `dvc plots`."""
    sources = ("real", *JUDGED_SETS)
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", *sources])
        for name in report["real"]["iou"]:
            writer.writerow([name, *(f"{report[source]['iou'][name]:.6f}" for source in sources)])


if __name__ == "__main__":
    run_stage("evaluate-FID", __doc__, main)
