"""encode-latents: what the ControlNet learns from, coded once by the base model.

Reads   data/dataset/ (train), models/base/
Writes  data/latents/, one file for each train shard: `mean` and `std` of each image's code, its
        caption's embedding `text`, its `mask` at the models' size; and empty.safetensors, the
        embedding of the empty caption. A run that was killed goes on with the shards it has.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from aerialdreams.dataset import DATASET, Patch, in_batches, read_shard, shards
from aerialdreams.diffusion import BASE, Base, embed, load_base
from aerialdreams.files import fingerprint, kept_folder, whole_file
from aerialdreams.latents import EMPTY, LATENTS
from aerialdreams.params import Params
from aerialdreams.patches import resize_image, resize_mask
from aerialdreams.progress import progress
from aerialdreams.stage import run_stage, scratch
from aerialdreams.training import set_up_torch, to_tensor


def main(params: Params) -> str:
    base = load_base().to(set_up_torch(params.torch_threads))
    paths, size = shards("train"), params.image_size
    settings = [params.encode_latents, size, params.torch_threads]
    key = fingerprint(settings, __file__, [DATASET, BASE])
    counts = []
    with kept_folder(LATENTS, scratch(), key) as folder:
        save(folder / EMPTY, {"text": embed(base, [""]).cpu()})
        for path in progress(paths, "shards encoded", "shards", len(paths)):
            place = folder / f"{path.stem}.safetensors"
            counts.append(encode_shard(base, path, place, size, params.encode_latents.batch))
        total = sum(file.stat().st_size for file in folder.iterdir())
    count, cut = (sum(column) for column in zip(*counts, strict=True))
    return (
        f"{count} images and captions encoded in {len(paths)} shards, {total / 1e6:.1f} MB; {cut}"
        f" captions cut at {base.tokenizer.model_max_length} tokens"
    )


def encode_shard(base: Base, path: Path, place: Path, size: int, batch: int) -> tuple[int, int]:
    """Encode one shard of the dataset; gives its numbers of patches and of captions cut."""
    parts: dict[str, list[torch.Tensor]] = {"mean": [], "std": [], "text": [], "mask": []}
    count = cut = 0
    for patches in in_batches(read_shard(path), batch):
        captions = [patch.caption for patch in patches]
        lengths = map(len, base.tokenizer(captions).input_ids)
        count += len(patches)
        cut += sum(length > base.tokenizer.model_max_length for length in lengths)
        if place.exists():  # a killed run made it
            continue
        mean, std = encode(base, patches, size)
        masks = np.stack([resize_mask(patch.mask, size) for patch in patches])
        parts["mean"].append(mean)
        parts["std"].append(std)
        parts["text"].append(embed(base, captions).cpu())
        parts["mask"].append(torch.from_numpy(masks))
    if not place.exists():
        save(place, {name: torch.cat(values) for name, values in parts.items()})
    return count, cut


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as one safetensors file, whole or not."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as partial:
        save_file(contiguous, partial)


@torch.no_grad()
def encode(base: Base, patches: list[Patch], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the images' codes, each (patches, channels, h, w), without scaling."""
    images = np.stack([resize_image(patch.image, size) for patch in patches])
    posterior = base.vae.encode(to_tensor(images).to(base.vae.device)).latent_dist
    return posterior.mean.cpu(), posterior.std.cpu()


if __name__ == "__main__":
    run_stage("encode-latents", __doc__, main)
