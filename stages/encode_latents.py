"""encode-latents: images and captions of the train split, encoded once by the base model.

Reads   data/dataset/ (train, and some validation patches), models/adapted_base/
Writes  data/latents/, one file per train shard: `mean` and `std` of the VAE's posterior of each
        image, in one or all eight orientations; `text`, the embeddings of its captions, with SDXL
        also `pooled`; `mask`, at the size of the models' images. The same of some validation
        patches, for the validation loss, and empty.safetensors, the embedding of the empty caption

A killed run continues with the shards that are complete.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
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
from aerialdreams.errors import UserError
from aerialdreams.models.families import BaseModel, encode_prompts, load_base
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.params import Params
from aerialdreams.paths import ADAPTED_BASE, DATASET, EMPTY_CAPTION, LATENTS
from aerialdreams.pipeline.distributed import start_processes
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.util.batched import batched
from aerialdreams.util.files import atomic_file, fingerprint
from aerialdreams.util.prefetch import map_ahead
from aerialdreams.util.progress import progress
from aerialdreams.util.scratch import resumable_folder
from aerialdreams.util.torch_setup import DTYPES, configure_torch, inference_autocast

VALIDATION_SHARD = "validation-00000.safetensors"


def main(params: Params) -> str:
    configure_torch(params.compute.threads, params.compute.deterministic)
    distributed, device = start_processes("stages.encode_latents", params.runtime.processes)
    stage, base = params.encode_latents, load_base().to(device)
    if base.image_bands != len(params.bands):
        raise UserError(
            f"{ADAPTED_BASE}: its autoencoder takes images of {base.image_bands} bands, and `bands`"
            f" names {len(params.bands)}; run `dvc repro`"
        )
    settings = EncodeSettings(
        params.image_size,
        ORIENTATIONS if stage.all_orientations else 1,
        stage.batch_size,
        DTYPES[stage.precision],
        params.runtime.loaders,
    )
    decisive = [stage, params.image_size, params.inference_precision, params.compute]
    key = fingerprint(decisive, __file__, [DATASET, ADAPTED_BASE]) if distributed.is_main else ""
    paths = shard_paths("train")
    with (
        distributed.shared_folder(resumable_folder(LATENTS, scratch_dir(), key)) as folder,
        inference_autocast(device, params.inference_precision),
    ):
        own = distributed.share(paths)
        for path in (
            progress(own, "shards encoded", "shards", len(own)) if distributed.is_main else own
        ):
            encoded = folder / f"{path.stem}.safetensors"
            if not encoded.exists():  # else an earlier, killed run has written it
                save(encoded, encode(base, read_shard(path), settings))
        if distributed.is_main:
            empty = encode_prompts(base, [""])
            save(
                folder / EMPTY_CAPTION,
                {name: rows.cpu().to(settings.dtype) for name, rows in empty.items()},
            )
            validation = evenly_spaced_patches("validation", stage.validation_patches)
            once = replace(settings, orientations=1)
            save(folder / VALIDATION_SHARD, encode(base, validation, once))
    if not distributed.is_main:
        return ""  # rank 0 alone knows that the folder is in its place
    captions = [caption for path in paths for caption in read_captions(path)]
    megabytes = sum(file.stat().st_size for file in LATENTS.iterdir()) / 1e6
    orientations = f" in {ORIENTATIONS} orientations" if stage.all_orientations else ""
    return (
        f"images{orientations} and their {len(captions)} captions encoded in {len(paths)} shards,"
        f" {megabytes:.1f} MB; {count_truncated(base, captions)} captions truncated to"
        f" {base.tokenizer.model_max_length} tokens"
    )


@dataclass(frozen=True)
class EncodeSettings:
    """How patches are encoded.

    Attributes:
        image_size: height and width of the models' images, pixels.
        orientations: in how many orientations each image is encoded, 1 or 8.
        batch_size: patches that are encoded at once.
        dtype: of the stored latents and embeddings.
        workers: threads that decode images ahead; 0 for none.
    """

    image_size: int
    orientations: int
    batch_size: int
    dtype: torch.dtype
    workers: int


def count_truncated(base: BaseModel, captions: list[str]) -> int:
    """How many captions have more tokens than the text encoder takes."""
    lengths = map(len, base.tokenizer(captions).input_ids)
    return sum(length > base.tokenizer.model_max_length for length in lengths)


@torch.no_grad()
def encode(
    base: BaseModel, patches: Iterable[Patch], settings: EncodeSettings
) -> dict[str, torch.Tensor]:
    """Latents, text embeddings and masks of some patches.

    Returns:
        `mean` and `std` of the posteriors, unscaled, (patches, orientations, channels, h, w);
        `text`, (patches, captions of each, tokens, width), and with SDXL `pooled`, (patches,
        captions of each, width); `mask`, class ids, uint8, (patches, size, size).
    """
    dtype, device = settings.dtype, base.vae.device

    def load(patch: Patch) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[str]]:
        size = settings.image_size
        return resize_image(patch.bands, size), resize_mask(patch.mask, size), patch.captions

    columns: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
    for batch in batched(map_ahead(load, patches, settings.workers), settings.batch_size):
        images, masks, captions = zip(*batch, strict=True)
        posteriors = [
            base.vae.encode(
                images_to_tensor(np.stack([orient(image, number) for image in images])).to(device)
            ).latent_dist
            for number in range(settings.orientations)
        ]
        columns["mean"].append(torch.stack([p.mean for p in posteriors], 1).cpu().to(dtype))
        columns["std"].append(torch.stack([p.std for p in posteriors], 1).cpu().to(dtype))
        texts = [encode_prompts(base, list(variant)) for variant in zip(*captions, strict=True)]
        for name in texts[0]:
            columns[name].append(torch.stack([text[name] for text in texts], 1).cpu().to(dtype))
        columns["mask"].append(torch.from_numpy(np.stack(masks)))
    return {name: torch.cat(tensors) for name, tensors in columns.items()}


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as one safetensors file."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as partial:
        save_file(contiguous, partial)


if __name__ == "__main__":
    run_stage("encode-latents", __doc__, main)
