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

from aerialdreams.dataset import (
    DATASET,
    Patch,
    in_batches,
    read_captions,
    read_shard,
    shards,
    some_patches,
)
from aerialdreams.diffusion import BASE, Base, embed, load_base
from aerialdreams.files import fingerprint, kept_folder, whole_file
from aerialdreams.latents import EMPTY, LATENTS
from aerialdreams.params import EncodeLatents, Params
from aerialdreams.patches import resize_image, resize_mask
from aerialdreams.progress import progress
from aerialdreams.stage import run_stage, scratch
from aerialdreams.training import DTYPES, WAYS, set_up_torch, to_tensor, turned

HELD_OUT = "validation-held-out.safetensors"


def main(params: Params) -> str:
    base = load_base().to(set_up_torch(params.torch_threads))
    stage, size = params.encode_latents, params.image_size
    key = fingerprint([stage, size, params.torch_threads], __file__, [DATASET, BASE])
    count = cut = 0
    with kept_folder(LATENTS, scratch(), key) as folder:
        save(folder / EMPTY, {"text": embed(base, [""]).cpu().to(DTYPES[stage.precision])})
        paths = shards("train")
        for path in progress(paths, "shards encoded", "shards", len(paths)):
            captions = read_captions(path)
            lengths = map(len, base.tokenizer(captions).input_ids)
            count += len(captions)
            cut += sum(length > base.tokenizer.model_max_length for length in lengths)
            place = folder / f"{path.stem}.safetensors"
            if not place.exists():  # else a killed run made it
                save(place, encode_all(base, read_shard(path), stage, size, stage.turns))
        held_out = some_patches("validation", stage.held_out)
        save(folder / HELD_OUT, encode_all(base, held_out, stage, size, turns=False))
        total = sum(file.stat().st_size for file in folder.iterdir())
    ways = f" in {WAYS} positions" if stage.turns else ""
    return (
        f"images{ways} and their {count} captions encoded in {len(paths)} shards,"
        f" {total / 1e6:.1f} MB; {cut} captions cut at {base.tokenizer.model_max_length} tokens"
    )


def encode_all(
    base: Base, patches: Iterable[Patch], stage: EncodeLatents, size: int, turns: bool
) -> dict[str, torch.Tensor]:
    """What is kept of some patches, by name; see aerialdreams.latents.Latents."""
    parts: dict[str, list[torch.Tensor]] = {"mean": [], "std": [], "text": [], "mask": []}
    for batch in in_batches(patches, stage.batch):
        for name, tensor in encode(base, batch, size, turns):
            kept = tensor.cpu()
            parts[name].append(kept.to(DTYPES[stage.precision]) if name != "mask" else kept)
    return {name: torch.cat(values) for name, values in parts.items()}


@torch.no_grad()
def encode(
    base: Base, patches: list[Patch], size: int, turns: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a batch of patches, by name.

    `mean` and `std` of the images' codes, each (patches, ways, channels, h, w), without scaling;
    `text`, (patches, captions of each, tokens, width); `mask`, (patches, size, size).
    """
    images = [resize_image(patch.image, size) for patch in patches]
    ways = range(WAYS if turns else 1)
    codes = [
        base.vae.encode(
            to_tensor(np.stack([turned(image, way) for image in images])).to(base.vae.device)
        ).latent_dist
        for way in ways
    ]
    yield "mean", torch.stack([code.mean for code in codes], 1)
    yield "std", torch.stack([code.std for code in codes], 1)
    variants = zip(*(patch.captions for patch in patches), strict=True)
    yield "text", torch.stack([embed(base, list(captions)) for captions in variants], 1)
    masks = np.stack([resize_mask(patch.mask, size) for patch in patches])
    yield "mask", torch.from_numpy(masks)


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as one safetensors file, whole or not."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as partial:
        save_file(contiguous, partial)


if __name__ == "__main__":
    run_stage("encode-latents", __doc__, main)
