"""evaluate-FID: evaluate generated images against real ones and an untrained baseline.

Reads   data/generated/, data/dataset/, models/segmenter/, models/adapted_base/vae/; the FID
        Inception if its weights are set
Writes  metrics/evaluation.json; metrics/iou_{validation,test}.csv, plots of per-class IoU;
        metrics/confusion.json, pixels by true class (row) and predicted class (column);
        data/agreement.parquet, pixel accuracy of each image; the same numbers in the MLflow run
        that trained the model

The segmenter of train-segmenter, the judge, predicts land cover from images, and its predictions
are compared with the masks. With further bands, a second judge sees all of them, and NDVI and
heights are compared by class. Power spectra compare textures by class. Distances compare image sets
in a feature space: those in the FID Inception's are FID and KID, the names of those in the
segmenter's start with judge_. Each number NAME has a 95 % confidence interval NAME_95, but those of
NDVI and heights have none. See docs/evaluation.md.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from diffusers import AutoencoderKL

from aerialdreams.data.dataset import count_patches, evenly_spaced, read_patches
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.data.land_cover import class_ids
from aerialdreams.evaluation.bands import band_sums
from aerialdreams.evaluation.batches import Judges, batch_sets, load_batch
from aerialdreams.evaluation.feature_spaces import (
    Images,
    InceptionFeatures,
    SegmenterFeatures,
    load_inception,
)
from aerialdreams.evaluation.image_sets import NOT_COMPUTED, FeatureSpaces, ImageSet, evaluate
from aerialdreams.generation.batch import reconstruct
from aerialdreams.generation.outputs import (
    EVALUATED_SETS,
    EVALUATED_SPLITS,
    MANIFEST,
    chosen_rows,
    evaluated_splits,
    extra_rows,
)
from aerialdreams.models.latent_diffusion import load_vae
from aerialdreams.models.linear_autoencoder import LinearAutoencoder
from aerialdreams.param_groups.models import GenerateValidation
from aerialdreams.params import Params
from aerialdreams.paths import (
    AGREEMENT,
    ALL_BANDS,
    CONFUSION,
    EVALUATION,
    GENERATED,
    IOU_TABLES,
    SEGMENTER,
)
from aerialdreams.pipeline.distributed import Distributed, start_processes
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.pipeline.tracking import flatten_numbers, log_evaluation
from aerialdreams.util.batched import batched
from aerialdreams.util.files import atomic_file, read_json, write_json
from aerialdreams.util.prefetch import map_ahead
from aerialdreams.util.progress import progress
from aerialdreams.util.tables import write_table
from aerialdreams.util.torch_setup import configure_torch, inference_autocast

AGREEMENT_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("source", pa.string()),  # real, reconstructed, generated or untrained
        ("patch_id", pa.string()),
        ("pixel_accuracy", pa.float64()),  # share of pixels predicted as in the mask
    ]
)

Loaded = TypeVar("Loaded")


def main(params: Params) -> str:
    configure_torch(params.compute.threads, params.compute.deterministic)
    distributed, device = start_processes("stages.evaluate_FID", params.runtime.processes)
    stage, manifest = params.evaluate_fid, read_json(GENERATED / MANIFEST)
    segmenter = SegmenterFeatures(device, class_ids(params.classes))
    inception = load_inception(
        stage.inception_weights,
        stage.inception_sha256,
        Path(params.raw_patches.downloads),
        device,
    )
    spaces: dict[str, SegmenterFeatures | InceptionFeatures] = {"judge": segmenter}
    if inception:
        spaces["inception"] = inception
    judges = Judges(segmenter)
    if params.further_bands.names:
        folder = SEGMENTER / ALL_BANDS
        judges = Judges(segmenter, SegmenterFeatures(device, class_ids(params.classes), folder))
    vae = load_vae().to(device)
    generated = GenerateValidation(
        **{name: manifest["params"][name] for name in GenerateValidation.model_fields}
    )
    train = train_features(spaces, params, distributed)
    names = [land_cover.name for land_cover in params.classes]
    report: dict[str, Any] = {}
    matrices: dict[str, dict[str, list[list[int]]]] = {}
    rows: list[dict[str, Any]] = []
    splits = evaluated_splits()
    for split in splits:
        sets, agreements = evaluation_sets(
            split, generated, judges, spaces, vae, params, distributed
        )
        if not distributed.is_main:
            continue
        rows += agreements
        report[split] = evaluate(sets, train, generated.samples, names, params.further_bands)
        matrices[split] = {
            source: np.sum(sets[source].matrices, axis=0).tolist()
            for source in ("real", *EVALUATED_SETS)
        }
        write_iou(IOU_TABLES[split], report[split])
    if not distributed.is_main:
        return ""
    for split in set(EVALUATED_SPLITS) - set(splits):
        write_iou(IOU_TABLES[split], {})
    write_table(AGREEMENT, rows, AGREEMENT_SCHEMA)
    write_json(EVALUATION, report)
    write_json(CONFUSION, matrices)
    # With these files in MLflow, `aerialdreams compare` needs nothing else.
    files = [GENERATED / f"{split}.png" for split in splits]
    files += [Path("params.yaml"), EVALUATION, AGREEMENT, GENERATED / MANIFEST]
    run = log_evaluation(manifest["controlnet_md5"], flatten_numbers(report), files)
    scores = report[splits[0]]
    sources = ("generated", "real", "reconstructed", "untrained")
    means = ", ".join(f"{scores[source]['miou']:.3f} {source}" for source in sources)
    return (
        f"{splits[0]} mIoU {means} (N = {scores['generated']['n']});"
        f" FID {'computed' if inception else NOT_COMPUTED}; logged to MLflow run {run}"
    )


def train_features(spaces: FeatureSpaces, params: Params, distributed: Distributed) -> ImageSet:
    """The train split's features. Each rank computes a share; only rank 0 gets all of them."""
    size, batch_size = params.image_size, params.evaluate_fid.batch_size
    batches = list(batched(range(count_patches("train")), batch_size))
    own_batches = distributed.share(batches)

    def load(rows: list[int]) -> Images:
        patches = read_patches("train", rows)
        return np.stack([resize_image(patch.image, size) for patch in patches])

    loaded = map_ahead(load, own_batches, params.runtime.loaders)
    parts = []
    for images in show_progress(loaded, "train features", len(own_batches), distributed):
        parts.append(ImageSet())
        parts[-1].add_features(images, spaces)
    train = ImageSet()
    for part in distributed.gather(parts):
        train.extend(part)
    return train


def floor_set(count: int, params: Params, distributed: Distributed) -> ImageSet:
    """Power and bands of evenly spaced train images; only rank 0 gets all of them.

    Args:
        count: images, as many as the evaluated split has.
        params: all params.
        distributed: the processes that share the work.
    """
    size, batch_size = params.image_size, params.evaluate_fid.batch_size
    ids, further = class_ids(params.classes), params.further_bands
    rows = evenly_spaced(count, count_patches("train"))
    own_batches = distributed.share(list(batched(rows, batch_size)))

    def load(rows: list[int]) -> ImageSet:
        patches = list(read_patches("train", rows))
        images = np.stack([resize_image(patch.bands, size) for patch in patches])
        masks = np.stack([resize_mask(patch.mask, size) for patch in patches])
        part = ImageSet()
        part.add_power(images, masks, ids)
        if further.names:
            part.bands.append(band_sums(images, images, masks, ids, further))
        return part

    loaded = map_ahead(load, own_batches, params.runtime.loaders)
    parts = list(show_progress(loaded, "train spectra", len(own_batches), distributed))
    floor = ImageSet()
    for part in distributed.gather(parts):
        floor.extend(part)
    return floor


@torch.no_grad()
def evaluation_sets(
    split: str,
    generated: GenerateValidation,
    judges: Judges,
    spaces: FeatureSpaces,
    vae: AutoencoderKL | LinearAutoencoder,
    params: Params,
    distributed: Distributed,
) -> tuple[dict[str, ImageSet], list[dict[str, Any]]]:
    """Collect the statistics of a split's image sets; only rank 0 gets all of them.

    Args:
        split: validation or test.
        generated: the params with which the images were generated.
        judges: predict the land cover of the images.
        spaces: feature spaces by name.
        vae: the base model's.
        params: all params.
        distributed: the processes that share the work.

    Returns:
        The image sets by name: real, those of EVALUATED_SETS, sample-2, ..., sample-1, the first
        samples of the masks that have several, and floor, see `floor_set`. And a row of
        AGREEMENT_SCHEMA for each image whose land cover was predicted.
    """
    rows = chosen_rows(split, generated.masks)
    extra = set(extra_rows(rows, generated.extra_masks))
    own_batches = distributed.share(list(batched(rows, params.evaluate_fid.batch_size)))
    size, further = params.image_size, params.further_bands
    load = partial(load_batch, split, extra, generated.samples, size, further.names)
    loaded = map_ahead(load, own_batches, params.runtime.loaders)
    parts = []
    for batch in show_progress(loaded, f"{split} evaluated", len(own_batches), distributed):
        if batch.extra:
            with inference_autocast(judges.colours.device, params.inference_precision):
                real = batch.images["real"][batch.extra]
                batch.images["reconstructed"] = reconstruct(vae, real)
        parts.append(batch_sets(batch, judges, spaces, further))
    sets: dict[str, ImageSet] = defaultdict(ImageSet)
    agreements = []
    for part, batch_rows in distributed.gather(parts):
        agreements += [{"split": split} | row for row in batch_rows]
        for source, image_set in part.items():
            sets[source].extend(image_set)
    sets["floor"] = floor_set(len(rows), params, distributed)
    return sets, agreements


def show_progress(
    batches: Iterator[Loaded], description: str, count: int, distributed: Distributed
) -> Iterator[Loaded]:
    """Iterate over the batches, and show progress on rank 0."""
    return progress(batches, description, "batches", count) if distributed.is_main else batches


def write_iou(path: Path, report: dict[str, Any]) -> None:
    """Write one split's per-class IoU as a table for `dvc plots`."""
    sources = ("real", *EVALUATED_SETS)
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", *sources])
        for name in report["real"]["iou"] if report else ():
            scores = [report[source]["iou"].get(name) for source in sources]
            writer.writerow([name, *("" if iou is None else f"{iou:.6f}" for iou in scores)])


if __name__ == "__main__":
    run_stage("evaluate-FID", __doc__, main)
