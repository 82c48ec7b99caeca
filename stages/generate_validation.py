"""generate-validation: images for the masks of the validation and test splits, and composed masks.

Reads   models/controlnet/, models/adapted_base/, data/composed/, data/dataset/ (masks and captions
        of validation and test)
Writes  data/generated/{validation,test}/
          generated/     IMG_nnnnnn.png, and .tif with the georeference of its patch, if it has
                         one; GROUP-ZONE.vrt shows all images of a zone as one. With further bands,
                         these are in IMG_nnnnnn_near_infrared.png, IMG_nnnnnn_height.png and the
                         GeoTIFFs, and GROUP-ZONE-colour-infrared.vrt shows near infrared, red and
                         green
          sample-2/ ...  the same from other noise, if samples is above 1
          style-1/ ...   the same with a phrase of `styles` added to the caption
          untrained/     by the ControlNet before its first training step
          masks/         the masks as GeoTIFFs
        data/generated/composed/generated/, an image for each composed mask
        data/generated/{validation,test,composed}.png, sheets of masks, real and generated images,
        and with further bands the same in colour infrared and of heights;
        data/generated/manifest.json, models and settings that made them

A killed run continues with the images that are complete.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import ControlNetModel
from numpy.typing import NDArray

from aerialdreams.data.composition import ComposedMask, read_composed, read_composed_mask
from aerialdreams.data.contact_sheet import band_views, image_grid
from aerialdreams.data.dataset import (
    Square,
    evenly_spaced,
    read_patches,
    stack_patches,
)
from aerialdreams.data.images import read_bands, read_image, resize_mask, write_bands, write_image
from aerialdreams.data.rasters import write_geotiff
from aerialdreams.generation.batch import GenerationRequest, generate_batch
from aerialdreams.generation.outputs import (
    COMPOSED_IMAGES,
    MANIFEST,
    chosen_rows,
    evaluated_splits,
    extra_rows,
    write_vrts,
)
from aerialdreams.models.controlnet import load_controlnet, with_finetuned_unet
from aerialdreams.models.families import BaseModel, load_base
from aerialdreams.models.model_info import ModelInfo
from aerialdreams.models.sampling import Sampling
from aerialdreams.param_groups.models import GenerateValidation
from aerialdreams.params import Params
from aerialdreams.paths import ADAPTED_BASE, COMPOSED, CONTROLNET, DATASET, GENERATED
from aerialdreams.pipeline.distributed import start_processes
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.util.batched import batched
from aerialdreams.util.files import dvc_md5, fingerprint, write_json
from aerialdreams.util.prefetch import map_ahead
from aerialdreams.util.progress import progress
from aerialdreams.util.scratch import resumable_folder
from aerialdreams.util.torch_setup import configure_torch, inference_autocast


class Output(NamedTuple):
    """An image to generate."""

    patch_id: str
    square: Square | None  # on the ground
    folder: str  # generated, sample-2, style-1, untrained, ...
    request: GenerationRequest


class Task(NamedTuple):
    """A batch of images to generate: rows of the split, and where their images go."""

    rows: list[int]
    folder: str
    sample: int
    style: str


class Models(NamedTuple):
    """Everything that images are generated with."""

    base: BaseModel
    finetuned: BaseModel  # the base, with the UNet trained along with the ControlNet if any
    controlnet: ControlNetModel
    info: ModelInfo
    sampling: Sampling
    hashes: dict[str, str]


def main(params: Params) -> str:
    configure_torch(params.compute.threads, params.compute.deterministic)
    distributed, device = start_processes("stages.generate_validation", params.runtime.processes)
    stage, splits = params.generate_validation, evaluated_splits()
    models = load_models(params, device)
    decisive = [
        *(stage, params.image_size, params.inference_precision, params.compute, params.classes),
        models.hashes,
    ]
    key = fingerprint(decisive, __file__, [DATASET, COMPOSED]) if distributed.is_main else ""
    rows_of = {split: chosen_rows(split, stage.masks) for split in splits}
    counts = {split: len(rows) for split, rows in rows_of.items()}
    tasks_of = {split: list_tasks(rows, stage) for split, rows in rows_of.items()}
    loaders = {split: partial(load_batch, split, params) for split in splits}
    if composed := read_composed():
        counts[COMPOSED_IMAGES] = len(composed)
        tasks_of[COMPOSED_IMAGES] = list_composed_tasks(len(composed), stage.batch_size)
        loaders[COMPOSED_IMAGES] = partial(load_composed, composed, params.image_size)
    with (
        distributed.shared_folder(resumable_folder(GENERATED, scratch_dir(), key)) as folder,
        inference_autocast(device, params.inference_precision),
    ):
        for split, tasks in tasks_of.items():
            # Batches are the same for any number of ranks, and so are the images' bytes.
            own = distributed.share(tasks)
            batches = map_ahead(loaders[split], own, params.runtime.loaders)
            if distributed.is_main:
                batches = progress(batches, f"{split} images", "batches", len(own))
            for batch in batches:
                generate_outputs(folder / split, batch, models, params)
        distributed.barrier()
        if distributed.is_main:
            for split in splits:
                write_sheet(folder, split, params)
            if composed:
                write_composed_sheet(folder, composed, params)
            write_manifest(folder, models, params, counts)
            write_vrts(folder, splits, params.further_bands)
    by_split = ", ".join(f"{count} {split}" for split, count in counts.items())
    return (
        f"images for {sum(counts.values())} masks generated ({by_split}),"
        f" {len(list_folders(stage))} per mask"
    )


def load_models(params: Params, device: torch.device) -> Models:
    """Base model, ControlNet and the settings to sample with."""
    stage, info = params.generate_validation, ModelInfo.load(CONTROLNET)
    base = load_base().to(device)
    return Models(
        base=base,
        finetuned=with_finetuned_unet(base),
        controlnet=load_controlnet().to(device),
        info=info,
        sampling=info.sampling.override(
            sampler=stage.sampler,
            steps=stage.steps,
            guidance=stage.guidance,
            conditioning_scale=stage.conditioning_scale,
        ),
        hashes={"controlnet_md5": dvc_md5(CONTROLNET), "base_md5": dvc_md5(ADAPTED_BASE)},
    )


def list_folders(stage: GenerateValidation) -> list[tuple[str, int, str]]:
    """The images of each mask: folder, number of the sample, phrase added to the caption."""
    samples = [(f"sample-{n}", n, "") for n in range(2, stage.samples + 1)]
    styles = [(f"style-{n}", 1, style) for n, style in enumerate(stage.styles, 1)]
    return [("generated", 1, ""), *samples, *styles, ("untrained", 1, "")]


def list_tasks(rows: list[int], stage: GenerateValidation) -> list[Task]:
    """The batches of a split: rows of one folder each.

    Consecutive tasks are of different kinds, so that a consecutive share has its part of each.
    """
    extra = extra_rows(rows, stage.extra_masks)
    tasks = []
    for number in range(-(-len(rows) // stage.batch_size)):
        for folder, sample, style in list_folders(stage):
            own = rows if folder == "generated" else extra
            batch = own[number * stage.batch_size : (number + 1) * stage.batch_size]
            if batch:
                tasks.append(Task(batch, folder, sample, style))
    return tasks


def list_composed_tasks(count: int, batch_size: int) -> list[Task]:
    """The batches of the composed masks, which get one image each."""
    rows = list(range(count))
    return [Task(batch, "generated", 1, "") for batch in batched(rows, batch_size)]


def load_batch(split: str, params: Params, task: Task) -> list[Output]:
    """The requests of a batch."""
    return [
        Output(
            patch.patch_id,
            patch.square,
            task.folder,
            GenerationRequest(
                patch.patch_id if task.sample == 1 else f"{patch.patch_id} {task.sample}",
                resize_mask(patch.mask, params.image_size),
                f"{patch.caption} {task.style}".strip(),
            ),
        )
        for patch in read_patches(split, task.rows)
    ]


def load_composed(composed: list[ComposedMask], size: int, task: Task) -> list[Output]:
    """The requests of a batch of composed masks."""
    outputs = []
    for patch_id, _, caption in (composed[row] for row in task.rows):
        request = GenerationRequest(patch_id, read_composed_mask(patch_id, size), caption)
        outputs.append(Output(patch_id, None, task.folder, request))
    return outputs


def generate_outputs(folder: Path, batch: list[Output], models: Models, params: Params) -> None:
    """Generate the images of a batch and write them, unless a killed run has already."""
    stage = params.generate_validation
    paths = [folder / output.folder / f"IMG_{output.patch_id}.png" for output in batch]
    # The PNG of the colours is written last: where it exists, the other files do.
    if all(path.exists() for path in paths):
        return
    # Batches of another size are rounded differently: fill a short one with its last request.
    requests = [output.request for output in batch]
    requests += [requests[-1]] * (stage.batch_size - len(requests))
    trained = batch[0].folder != "untrained"
    images = generate_batch(
        models.finetuned if trained else models.base,
        models.controlnet if trained else None,
        models.info.conditioning,
        requests,
        models.sampling,
        stage.seed,
        stage.negative_prompt,
    )
    for output, path, image in zip(batch, paths, images, strict=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        if stage.geotiff and trained and output.square:
            write_geotiffs(folder, output, output.square, image, models, params)
        write_bands(path, image, params.further_bands.names)


def write_geotiffs(
    folder: Path,
    output: Output,
    square: Square,
    image: NDArray[np.uint8],
    models: Models,
    params: Params,
) -> None:
    """Write an image, and once its mask, as GeoTIFFs with the georeference of the patch."""
    request = output.request
    reference, credits = square.reference(len(image)), credit_lines(params)
    tags = {
        "SYNTHETIC": "YES",
        "TIFFTAG_IMAGEDESCRIPTION": "Synthetic: made by AerialDreams, shows no real place",
        "PROMPT": request.prompt,
        "SEED": f"{params.generate_validation.seed} {request.noise_key}",
        "CONTROLNET_MD5": models.hashes["controlnet_md5"],
        "CREDITS": "; ".join(credits),
    }
    name = f"IMG_{output.patch_id}.tif"
    write_geotiff(
        folder / output.folder / name, image, reference, tags, further=params.further_bands
    )
    if output.folder == "generated":
        path = folder / "masks" / name.replace("IMG", "MSK")
        write_geotiff(path, request.mask, reference, {"CREDITS": credits[0]}, params.classes)


def credit_lines(params: Params) -> list[str]:
    """What masks and captions derive from."""
    return [
        f"{what}: {credit}"
        for what, credit in zip(("Masks", "Place names in captions"), params.credits, strict=False)
    ]


def write_manifest(folder: Path, models: Models, params: Params, counts: dict[str, int]) -> None:
    """Write what the images were made with."""
    stage = params.generate_validation
    manifest = {
        "synthetic": True,
        **models.hashes,
        "params": stage.model_dump(mode="json") | asdict(models.sampling),
        "images": counts,
        "credits": credit_lines(params),
    }
    write_json(folder / MANIFEST, manifest)


def write_sheet(folder: Path, split: str, params: Params) -> None:
    """Write a sheet of some masks with their real and generated images."""
    stage = params.generate_validation
    rows = chosen_rows(split, stage.masks)
    shown = [rows[number] for number in evenly_spaced(stage.grid_rows, len(rows))]
    patches = stack_patches(read_patches(split, shown), params.image_size)
    paths = [folder / split / f"generated/IMG_{patch_id}.png" for patch_id in patches.patch_ids]
    further, masks = params.further_bands.names, list(patches.masks)
    generated = np.stack([read_bands(path, further) for path in paths])
    highest = max(1, int(patches.images[..., -1].max()))  # of the heights, if height is a band
    real_views = band_views(patches.images, further, highest)
    for name, images in band_views(generated, further, highest).items():
        columns = [list(real_views[name]), list(images)]
        write_image(folder / f"{split}{name}.png", image_grid(masks, columns, params.classes))


def write_composed_sheet(folder: Path, composed: list[ComposedMask], params: Params) -> None:
    """Write a sheet of some composed masks with their images."""
    rows = evenly_spaced(params.generate_validation.grid_rows, len(composed))
    ids = [composed[row].patch_id for row in rows]
    masks = [read_composed_mask(patch_id, params.image_size) for patch_id in ids]
    paths = [folder / COMPOSED_IMAGES / f"generated/IMG_{patch_id}.png" for patch_id in ids]
    images = [read_image(path) for path in paths]
    write_image(folder / f"{COMPOSED_IMAGES}.png", image_grid(masks, [images], params.classes))


if __name__ == "__main__":
    run_stage("generate-validation", __doc__, main)
