"""encode-latents: images and captions of the train split, encoded once by the base model.

Reads   data/dataset/ (train, and some validation patches), models/base/
Writes  data/latents/, one file per train shard: `mean` and `std` of the VAE's posterior of each
        image, in one or all eight orientations; `text`, the embeddings of its captions; `mask`, at
        the size of the models' images. The same of some validation patches, for the validation
        loss, and empty.safetensors, the embedding of the empty caption

A killed run continues with the shards that are complete.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from aerialdreams.data.augmentation import ORIENTATIONS, orient
from aerialdreams.data.dataset import (
    Patch,
    evenly_spaced_patches,
    read_captions,
    read_shard,
    shard_paths,
)
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.models.stable_diffusion import (
    StableDiffusion,
    encode_prompts,
    load_stable_diffusion,
)
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.params import Params
from aerialdreams.paths import BASE, DATASET, EMPTY_CAPTION, LATENTS
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.util.batched import batched
from aerialdreams.util.files import atomic_file, fingerprint
from aerialdreams.util.progress import progress
from aerialdreams.util.scratch import resumable_folder
from aerialdreams.util.torch_setup import DTYPES, configure_torch

VALIDATION_SHARD = "validation-00000.safetensors"


def main(params: Params) -> str:
    base = load_stable_diffusion().to(
        configure_torch(params.compute.threads, params.compute.deterministic)
    )
    stage, size, dtype = (
        params.encode_latents,
        params.image_size,
        DTYPES[params.encode_latents.precision],
    )
    orientations = ORIENTATIONS if stage.all_orientations else 1
    key = fingerprint([stage, size, params.compute], __file__, [DATASET, BASE])
    num_captions = num_truncated = 0
    with resumable_folder(LATENTS, scratch_dir(), key) as folder:
        save(folder / EMPTY_CAPTION, {"text": encode_prompts(base, [""]).cpu().to(dtype)})
        paths = shard_paths("train")
        for path in progress(paths, "shards encoded", "shards", len(paths)):
            captions = read_captions(path)
            num_captions += len(captions)
            num_truncated += count_truncated(base, captions)
            encoded = folder / f"{path.stem}.safetensors"
            if not encoded.exists():  # else an earlier, killed run has written it
                patches = read_shard(path)
                save(encoded, encode(base, patches, size, orientations, stage.batch_size, dtype))
        validation = evenly_spaced_patches("validation", stage.validation_patches)
        save(folder / VALIDATION_SHARD, encode(base, validation, size, 1, stage.batch_size, dtype))
        megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    in_orientations = f" in {orientations} orientations" if orientations > 1 else ""
    return (
        f"images{in_orientations} and their {num_captions} captions encoded in {len(paths)} shards,"
        f" {megabytes:.1f} MB; {num_truncated} captions truncated to"
        f" {base.tokenizer.model_max_length} tokens"
    )


def count_truncated(base: StableDiffusion, captions: list[str]) -> int:
    """How many captions have more tokens than the text encoder takes."""
    lengths = map(len, base.tokenizer(captions).input_ids)
    return sum(length > base.tokenizer.model_max_length for length in lengths)


@torch.no_grad()
def encode(
    base: StableDiffusion,
    patches: Iterable[Patch],
    size: int,
    orientations: int,
    batch_size: int,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """Latents, text embeddings and masks of some patches.

    Args:
        base: the encoders.
        patches: images, masks and captions.
        size: height and width of the models' images, pixels.
        orientations: in how many orientations each image is encoded, 1 or 8.
        batch_size: patches that are encoded at once.
        dtype: of latents and embeddings.

    Returns:
        `mean` and `std` of the posteriors, unscaled, (patches, orientations, channels, h, w);
        `text`, (patches, captions of each, tokens, width); `mask`, class ids, uint8, (patches,
        size, size).
    """
    columns: dict[str, list[torch.Tensor]] = {"mean": [], "std": [], "text": [], "mask": []}
    for batch in batched(patches, batch_size):
        images = [resize_image(patch.image, size) for patch in batch]
        posteriors = [
            base.vae.encode(
                images_to_tensor(np.stack([orient(image, number) for image in images])).to(
                    base.vae.device
                )
            ).latent_dist
            for number in range(orientations)
        ]
        columns["mean"].append(torch.stack([p.mean for p in posteriors], 1).cpu().to(dtype))
        columns["std"].append(torch.stack([p.std for p in posteriors], 1).cpu().to(dtype))
        variants = zip(*(patch.captions for patch in batch), strict=True)
        texts = [encode_prompts(base, list(captions)) for captions in variants]
        columns["text"].append(torch.stack(texts, 1).cpu().to(dtype))
        masks = np.stack([resize_mask(patch.mask, size) for patch in batch])
        columns["mask"].append(torch.from_numpy(masks))
    return {name: torch.cat(tensors) for name, tensors in columns.items()}


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as one safetensors file."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as partial:
        save_file(contiguous, partial)


if __name__ == "__main__":
    run_stage("encode-latents", __doc__, main)
