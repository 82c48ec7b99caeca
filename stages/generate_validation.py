"""generate-validation: images for the masks that the model has never seen.

Reads   models/controlnet/, models/base/, data/dataset/ (validation and test masks and captions)
Writes  data/generated/{validation,test}/{generated,untrained}/IMG_nnnnnn.png, where `untrained`
        is the ControlNet before its first step; data/generated/{validation,test}.png, a sheet of
        masks, real and generated images; data/generated/manifest.json, what they were made with
"""

from pathlib import Path

import numpy as np
from diffusers import StableDiffusionControlNetPipeline
from numpy.typing import NDArray

from aerialdreams.dataset import Split, in_batches, load_some, read_patches, stack
from aerialdreams.diffusion import (
    BASE,
    CONTROLNET,
    generate,
    load_base,
    load_controlnet,
    make_pipeline,
)
from aerialdreams.files import path_md5, whole_folder, write_json
from aerialdreams.generated import GENERATED, HELD_OUT, MANIFEST, SOURCES
from aerialdreams.params import Params
from aerialdreams.patches import IGN_CREDIT, OSM_CREDIT, read_image, write_image
from aerialdreams.pictures import grid
from aerialdreams.progress import progress
from aerialdreams.stage import run_stage
from aerialdreams.training import set_up_torch


def main(params: Params) -> str:
    device, stage = set_up_torch(params.torch_threads), params.generate_validation
    pipeline = make_pipeline(load_base().to(device), load_controlnet().to(device))
    counts = {}
    with whole_folder(GENERATED) as folder:
        for split in HELD_OUT:
            for source in SOURCES:
                (folder / split / source).mkdir(parents=True)
            counts[split] = generate_split(pipeline, split, folder / split, params)
            looks = load_some(split, stage.grid_rows, params.image_size)
            paths = [folder / split / f"generated/IMG_{number}.png" for number in looks.patch_ids]
            columns = [list(looks.images), [read_image(path) for path in paths]]
            write_image(folder / f"{split}.png", grid(list(looks.masks), columns, params.classes))
        manifest = {
            "synthetic": True,
            "controlnet_md5": path_md5(CONTROLNET),
            "base_md5": path_md5(BASE),
            "params": stage.model_dump(mode="json"),
            "images": counts,
            "credits": [f"Masks: {IGN_CREDIT}", f"Place names in captions: {OSM_CREDIT}"],
        }
        write_json(folder / MANIFEST, manifest)
    return f"{sum(counts.values())} masks painted ({', '.join(f'{counts[s]} {s}' for s in counts)})"


def generate_split(
    pipeline: StableDiffusionControlNetPipeline, split: str, folder: Path, params: Params
) -> int:
    """Write the images of all patches of a split; gives their number."""
    stage, done = params.generate_validation, 0
    patches = stack(read_patches(split), params.image_size)
    batches = list(in_batches(range(len(patches.patch_ids)), stage.batch))
    for rows in progress(batches, f"{split} images", "batch", len(batches)):
        # A batch of another size rounds otherwise: fill the last one up with its last patch.
        filled = rows + [rows[-1]] * (stage.batch - len(rows))
        batch = Split(
            [patches.patch_ids[row] for row in filled],
            patches.images[filled],
            patches.masks[filled],
            [patches.captions[row] for row in filled],
        )
        for source in SOURCES:
            for patch_id, image in zip(
                batch.patch_ids[: len(rows)], paint(pipeline, batch, source, params), strict=False
            ):
                write_image(folder / source / f"IMG_{patch_id}.png", image)
        done += len(rows)
    return done


def paint(
    pipeline: StableDiffusionControlNetPipeline, batch: Split, source: str, params: Params
) -> NDArray[np.uint8]:
    """Images of a batch, by the trained ControlNet or as before its first step.

    A ControlNet ends in convolutions that begin as zeros (Zhang et al. 2023), so that untrained it
    adds nothing to the base model: that is what a conditioning scale of 0 gives.
    """
    stage = params.generate_validation
    return generate(
        pipeline,
        batch.masks,
        batch.captions,
        batch.patch_ids,
        stage.seed,
        num_inference_steps=stage.steps,
        guidance_scale=stage.guidance,
        controlnet_conditioning_scale=stage.conditioning_scale if source == "generated" else 0.0,
    )


if __name__ == "__main__":
    run_stage("generate-validation", __doc__, main)
