"""generate-validation: images for the masks that the model has never seen.

Reads   models/controlnet/, models/base/, data/dataset/ (validation and test masks and captions)
Writes  data/generated/{validation,test}/generated/IMG_nnnnnn.png and .tif, a GeoTIFF that lies
        where its mask lies, and DOMAIN-ZONE.vrt, all of a zone as one; the same in sample-2/ and
        so on, other images for the same mask, and in style-1/ and so on; untrained/, by the
        ControlNet before its first step; masks/, the masks as GeoTIFF; {validation,test}.png, a
        sheet of masks, real and generated images; manifest.json, what they were made with. A run
        that was killed goes on with the images it has.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from affine import Affine
from diffusers import ControlNetModel
from numpy.typing import NDArray

from aerialdreams.data.contact_sheet import image_grid
from aerialdreams.data.credits import IGN_CREDIT, OSM_CREDIT
from aerialdreams.data.dataset import (
    Patch,
    batched,
    count_patches,
    load_evenly_spaced,
    read_patches,
    read_zones,
)
from aerialdreams.data.flair import PIXEL, SIDE
from aerialdreams.data.images import read_image, resize_mask, write_image
from aerialdreams.data.rasters import LAMBERT_93, GeoReference, write_geotiff, write_vrt
from aerialdreams.generation.batch import GenerationRequest, generate_batch
from aerialdreams.generation.outputs import HELD_OUT, MANIFEST
from aerialdreams.models.controlnet import load_controlnet, with_finetuned_unet
from aerialdreams.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from aerialdreams.params import GenerateValidation, Params
from aerialdreams.paths import BASE, CONTROLNET, DATASET, GENERATED
from aerialdreams.pipeline.launch import is_launched, launch_processes
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.training.distributed import init_distributed
from aerialdreams.util.files import dvc_md5, fingerprint, resumable_folder, write_json
from aerialdreams.util.progress import progress
from aerialdreams.util.torch_setup import configure_torch

CREDITS = [f"Masks: {IGN_CREDIT}", f"Place names in captions: {OSM_CREDIT}"]


class Picture(NamedTuple):
    """An image to be made: of which patch, as which of its images."""

    patch: Patch
    folder: str  # generated, sample-2, style-1, untrained, ...
    order: GenerationRequest


def main(params: Params) -> str:
    if params.runtime.processes > 1 and not is_launched():
        launch_processes("stages.generate_validation", params.runtime.processes)
    configure_torch(params.torch_threads)
    state = PartialState(cpu=not torch.cuda.is_available())
    stage = params.generate_validation
    team = init_distributed(state.num_processes)
    base, controlnet = load_stable_diffusion().to(state.device), load_controlnet().to(state.device)
    models = {True: (with_finetuned_unet(base), controlnet), False: (base, None)}
    hashes = {"controlnet_md5": dvc_md5(CONTROLNET), "base_md5": dvc_md5(BASE)}
    settings = [stage, params.image_size, params.torch_threads, params.classes, hashes]
    key = team.agree(fingerprint(settings, __file__, [DATASET]) if team.first else None)
    counts: dict[str, int] = {}
    kept = scratch_dir() / f"{GENERATED.name}.{key}"
    with (
        resumable_folder(GENERATED, scratch_dir(), key)
        if team.first
        else nullcontext(kept) as folder
    ):
        team.any(False)  # nobody begins before the first one has made the folder
        for split in HELD_OUT:
            counts[split] = count_patches(split)
            # A batch is the same whoever paints it: its bytes do not hang on their number.
            batches = list_batches(split, stage, params.image_size)
            total = -(-counts[split] * len(kinds(stage)) // stage.batch)
            for number, batch in enumerate(
                progress(batches, f"{split} images", "batches", total) if team.first else batches
            ):
                if number % team.count == team.rank:
                    paint(folder / split, batch, models, hashes, params)
        team.any(False)  # all are done
        if team.first:
            for split in HELD_OUT:
                write_sheet(folder, split, params)
            manifest = {
                "synthetic": True,
                **hashes,
                "params": stage.model_dump(mode="json"),
                "images": counts,
                "credits": CREDITS,
            }
            write_json(folder / MANIFEST, manifest)
            write_vrts(folder)
    said = ", ".join(f"{counts[split]} {split}" for split in counts)
    return f"{sum(counts.values())} masks painted ({said}), {len(kinds(stage))} images of each"


def kinds(stage: GenerateValidation) -> list[tuple[str, int, str]]:
    """What is made of each mask: folder, number of the sample, style."""
    samples = [(f"sample-{n}", n, "") for n in range(2, stage.samples + 1)]
    styles = [(f"style-{n}", 1, style) for n, style in enumerate(stage.styles, 1)]
    return [("generated", 1, ""), *samples, *styles, ("untrained", 1, "")]


def list_batches(split: str, stage: GenerateValidation, size: int) -> Iterator[list[Picture]]:
    """A split's images in batches of one kind each, patch by patch, read as they are needed."""
    for patches in batched(read_patches(split), stage.batch):
        for folder, sample, style in kinds(stage):
            yield [
                Picture(
                    patch,
                    folder,
                    GenerationRequest(
                        patch.patch_id if sample == 1 else f"{patch.patch_id} {sample}",
                        resize_mask(patch.mask, size),
                        f"{patch.caption} {style}".strip(),
                    ),
                )
                for patch in patches
            ]


def paint(
    folder: Path,
    batch: list[Picture],
    models: dict[bool, tuple[StableDiffusion, ControlNetModel | None]],
    hashes: dict[str, str],
    params: Params,
) -> None:
    """Make the images of a batch, and write those that a killed run did not."""
    stage = params.generate_validation
    paths = [folder / p.folder / f"IMG_{p.patch.patch_id}.png" for p in batch]
    # The PNG comes last: where it is, the rest is.
    if all(path.exists() for path in paths):
        return
    # A batch of another size rounds otherwise: fill a short one up with its last order.
    orders = [picture.order for picture in batch]
    orders += [orders[-1]] * (stage.batch - len(orders))
    base, controlnet = models[batch[0].folder != "untrained"]
    images = generate_batch(base, controlnet, orders, stage, params.classes)
    for picture, path, image in zip(batch, paths, images, strict=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        if stage.geotiff and controlnet:
            write_placed(folder, picture, image, hashes, params)
        write_image(path, image)


def write_placed(
    folder: Path,
    picture: Picture,
    image: NDArray[np.uint8],
    hashes: dict[str, str],
    params: Params,
) -> None:
    """An image and its mask as GeoTIFFs, on the patch's ground."""
    patch, order = picture.patch, picture.order
    pixel = PIXEL * SIDE / len(image)
    placed = GeoReference(Affine(pixel, 0, patch.origin[0], 0, -pixel, patch.origin[1]), LAMBERT_93)
    tags = {
        "SYNTHETIC": "YES",
        "TIFFTAG_IMAGEDESCRIPTION": "Synthetic: made by AerialDreams, shows no real place",
        "PROMPT": order.prompt,
        "SEED": f"{params.generate_validation.seed} {order.name}",
        "CONTROLNET_MD5": hashes["controlnet_md5"],
        "CREDITS": "; ".join(CREDITS),
    }
    name = f"IMG_{patch.patch_id}.tif"
    write_geotiff(folder / picture.folder / name, image, placed, tags)
    if picture.folder == "generated":
        place = folder / "masks" / name.replace("IMG", "MSK")
        write_geotiff(place, order.mask, placed, {"CREDITS": CREDITS[0]}, params.classes)


def write_vrts(folder: Path) -> None:
    """All of a zone as one picture, for each zone and kind of image."""
    for split in HELD_OUT:
        zones = read_zones(split)
        for kind in sorted(path for path in (folder / split).iterdir() if path.is_dir()):
            prefix = "MSK" if kind.name == "masks" else "IMG"
            for (domain, zone), ids in zones.items():
                files = [kind / f"{prefix}_{patch_id}.tif" for patch_id in ids]
                if files[0].exists():
                    write_vrt(kind / f"{domain}-{zone}.vrt", files)


def write_sheet(folder: Path, split: str, params: Params) -> None:
    """A sheet of some masks, real and generated images."""
    looks = load_evenly_spaced(split, params.generate_validation.grid_rows, params.image_size)
    paths = [folder / split / f"generated/IMG_{number}.png" for number in looks.patch_ids]
    columns = [list(looks.images), [read_image(path) for path in paths]]
    write_image(folder / f"{split}.png", image_grid(list(looks.masks), columns, params.classes))


if __name__ == "__main__":
    run_stage("generate-validation", __doc__, main)
