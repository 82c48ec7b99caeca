"""generate-validation: images for the masks that the model has never seen.

Reads   models/controlnet/, models/base/, data/dataset/ (validation and test masks and captions)
Writes  data/generated/{validation,test}/{generated,untrained}/IMG_nnnnnn.png, where `untrained`
        is the ControlNet before its first step; data/generated/{validation,test}.png, a sheet of
        masks, real and generated images; data/generated/manifest.json, what they were made with
"""

from pathlib import Path

from diffusers import ControlNetModel

from aerialdreams.dataset import Split, in_batches, load_some, read_patches, stack
from aerialdreams.diffusion import (
    BASE,
    CONTROLNET,
    Base,
    generate,
    load_base,
    load_controlnet,
    with_trained_unet,
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
    base, controlnet = load_base().to(device), load_controlnet().to(device)
    trained = with_trained_unet(base)
    counts = {}
    with whole_folder(GENERATED) as folder:
        for split in HELD_OUT:
            for source in SOURCES:
                (folder / split / source).mkdir(parents=True)
            counts[split] = generate_split(base, trained, controlnet, split, folder / split, params)
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
    base: Base,
    trained: Base,
    controlnet: ControlNetModel,
    split: str,
    folder: Path,
    params: Params,
) -> int:
    """Write the images of all patches of a split; gives their number."""
    stage, done = params.generate_validation, 0
    patches = stack(read_patches(split), params.image_size)
    batches = list(in_batches(range(len(patches.patch_ids)), stage.batch))
    for rows in progress(batches, f"{split} images", "batches", len(batches)):
        # A batch of another size rounds otherwise: fill the last one up with its last patch.
        filled = rows + [rows[-1]] * (stage.batch - len(rows))
        batch = Split(
            [patches.patch_ids[row] for row in filled],
            patches.images[filled],
            patches.masks[filled],
            [patches.captions[row] for row in filled],
        )
        for source, model, control in zip(
            SOURCES, (trained, base), (controlnet, None), strict=True
        ):
            images = generate(model, control, batch, stage, params.classes)[: len(rows)]
            for patch_id, image in zip(batch.patch_ids, images, strict=False):
                write_image(folder / source / f"IMG_{patch_id}.png", image)
        done += len(rows)
    return done


if __name__ == "__main__":
    run_stage("generate-validation", __doc__, main)
