"""encode-latents: what the ControlNet learns from, coded once by the base model.

Reads   data/dataset/ (train), models/base/
Writes  data/latents/, one file for each train shard: `mean` and `std` of each image's code, its
        caption's embedding `text`; and empty.safetensors, the embedding of the empty caption
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from aerialdreams.dataset import Patch, in_batches, read_shard, shards
from aerialdreams.diffusion import LATENTS, Base, embed, load_base
from aerialdreams.files import whole_folder
from aerialdreams.params import Params
from aerialdreams.patches import resize_image
from aerialdreams.progress import progress
from aerialdreams.stage import run_stage
from aerialdreams.training import set_up_torch, to_tensor


def main(params: Params) -> str:
    base = load_base().to(set_up_torch(params.torch_threads))
    paths, count, cut = shards("train"), 0, 0
    with whole_folder(LATENTS) as folder:
        save_file({"text": embed(base, [""]).cpu()}, folder / "empty.safetensors")
        for path in progress(paths, "shards encoded", "shards", len(paths)):
            batch = params.encode_latents.batch
            number, too_long = encode_shard(base, path, folder, params.image_size, batch)
            count, cut = count + number, cut + too_long
        size = sum(file.stat().st_size for file in folder.iterdir())
    return (
        f"{count} images and captions encoded in {len(paths)} shards, {size / 1e6:.1f} MB; {cut}"
        f" captions cut at {base.tokenizer.model_max_length} tokens"
    )


def encode_shard(base: Base, path: Path, folder: Path, size: int, batch: int) -> tuple[int, int]:
    """Encode one shard of the dataset; gives its numbers of patches and of captions cut."""
    parts: dict[str, list[torch.Tensor]] = {"mean": [], "std": [], "text": []}
    cut = 0
    for patches in in_batches(read_shard(path), batch):
        mean, std = encode(base, patches, size)
        parts["mean"].append(mean)
        parts["std"].append(std)
        captions = [patch.caption for patch in patches]
        parts["text"].append(embed(base, captions).cpu())
        lengths = map(len, base.tokenizer(captions).input_ids)
        cut += sum(length > base.tokenizer.model_max_length for length in lengths)
    tensors = {name: torch.cat(values).contiguous() for name, values in parts.items()}
    save_file(tensors, folder / f"{path.stem}.safetensors")
    return len(tensors["mean"]), cut


@torch.no_grad()
def encode(base: Base, patches: list[Patch], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the images' codes, each (patches, channels, h, w), without scaling."""
    images = np.stack([resize_image(patch.image, size) for patch in patches])
    posterior = base.vae.encode(to_tensor(images).to(base.vae.device)).latent_dist
    return posterior.mean.cpu(), posterior.std.cpu()


if __name__ == "__main__":
    run_stage("encode-latents", __doc__, main)
