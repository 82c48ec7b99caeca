"""encode-latents: what the ControlNet learns from, coded once by the base model.

Reads   data/dataset/ (train, and some validation patches), models/base/
Writes  data/latents/, one file for each train shard: `mean` and `std` of each image's code, in
        one or all eight positions; `text`, its captions' embeddings; its `mask` at the models'
        size. The same of some validation patches, for the held-out loss; and empty.safetensors,
        the embedding of the empty caption. A run that was killed goes on with the shards it has.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from aerialdreams.data.augmentation import ORIENTATIONS, orient
from aerialdreams.data.dataset import (
    Patch,
    batched,
    evenly_spaced_patches,
    read_captions,
    read_shard,
    shards,
)
from aerialdreams.data.images import images_to_tensor, resize_image, resize_mask
from aerialdreams.models.stable_diffusion import (
    StableDiffusion,
    encode_prompts,
    load_stable_diffusion,
)
from aerialdreams.params import EncodeLatents, Params
from aerialdreams.paths import BASE, DATASET, LATENTS
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.training.latents import EMPTY
from aerialdreams.util.files import atomic_file, fingerprint, resumable_folder
from aerialdreams.util.progress import progress
from aerialdreams.util.torch_setup import DTYPES, configure_torch

HELD_OUT = "validation-held-out.safetensors"


def main(params: Params) -> str:
    base = load_stable_diffusion().to(configure_torch(params.torch_threads))
    stage, size = params.encode_latents, params.image_size
    key = fingerprint([stage, size, params.torch_threads], __file__, [DATASET, BASE])
    count = cut = 0
    with resumable_folder(LATENTS, scratch_dir(), key) as folder:
        save(folder / EMPTY, {"text": encode_prompts(base, [""]).cpu().to(DTYPES[stage.precision])})
        paths = shards("train")
        for path in progress(paths, "shards encoded", "shards", len(paths)):
            captions = read_captions(path)
            lengths = map(len, base.tokenizer(captions).input_ids)
            count += len(captions)
            cut += sum(length > base.tokenizer.model_max_length for length in lengths)
            place = folder / f"{path.stem}.safetensors"
            if not place.exists():  # else a killed run made it
                save(place, encode_all(base, read_shard(path), stage, size, stage.turns))
        held_out = evenly_spaced_patches("validation", stage.held_out)
        save(folder / HELD_OUT, encode_all(base, held_out, stage, size, turns=False))
        total = sum(file.stat().st_size for file in folder.iterdir())
    ways = f" in {ORIENTATIONS} positions" if stage.turns else ""
    return (
        f"images{ways} and their {count} captions encoded in {len(paths)} shards,"
        f" {total / 1e6:.1f} MB; {cut} captions cut at {base.tokenizer.model_max_length} tokens"
    )


def encode_all(
    base: StableDiffusion, patches: Iterable[Patch], stage: EncodeLatents, size: int, turns: bool
) -> dict[str, torch.Tensor]:
    """What is kept of some patches, by name; see aerialdreams.latents.Latents."""
    parts: dict[str, list[torch.Tensor]] = {"mean": [], "std": [], "text": [], "mask": []}
    for batch in batched(patches, stage.batch):
        for name, tensor in encode(base, batch, size, turns):
            kept = tensor.cpu()
            parts[name].append(kept.to(DTYPES[stage.precision]) if name != "mask" else kept)
    return {name: torch.cat(values) for name, values in parts.items()}


@torch.no_grad()
def encode(
    base: StableDiffusion, patches: list[Patch], size: int, turns: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a batch of patches, by name.

    `mean` and `std` of the images' codes, each (patches, ways, channels, h, w), without scaling;
    `text`, (patches, captions of each, tokens, width); `mask`, (patches, size, size).
    """
    images = [resize_image(patch.image, size) for patch in patches]
    ways = range(ORIENTATIONS if turns else 1)
    codes = [
        base.vae.encode(
            images_to_tensor(np.stack([orient(image, way) for image in images])).to(base.vae.device)
        ).latent_dist
        for way in ways
    ]
    yield "mean", torch.stack([code.mean for code in codes], 1)
    yield "std", torch.stack([code.std for code in codes], 1)
    variants = zip(*(patch.captions for patch in patches), strict=True)
    yield "text", torch.stack([encode_prompts(base, list(captions)) for captions in variants], 1)
    masks = np.stack([resize_mask(patch.mask, size) for patch in patches])
    yield "mask", torch.from_numpy(masks)


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as one safetensors file, whole or not."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as partial:
        save_file(contiguous, partial)


if __name__ == "__main__":
    run_stage("encode-latents", __doc__, main)
