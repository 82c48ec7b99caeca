"""Generate one batch of images with diffusers' own pipelines."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel
from numpy.typing import NDArray

from aerialdreams.data.dataset import Split
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.families import BaseModel
from aerialdreams.models.linear_autoencoder import LinearAutoencoder
from aerialdreams.models.sampling import Sampling, make_sampler
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.util.seeding import seeded_generator


class GenerationRequest(NamedTuple):
    """One image to generate."""

    noise_key: str  # with the seed, it determines the initial noise
    mask: NDArray[np.uint8]  # class ids, (size, size), at the size of the image
    prompt: str


@torch.no_grad()
def generate_batch(
    base: BaseModel,
    controlnet: ControlNetModel | None,
    conditioning: MaskConditioning,
    requests: Sequence[GenerationRequest],
    sampling: Sampling,
    seed: int,
    negative_prompt: str = "",
) -> NDArray[np.uint8]:
    """Generate images for a batch of masks.

    Args:
        base: the base model.
        controlnet: the ControlNet, or None for one before its first training step: its residuals
            are all zero then (Zhang et al. 2023, arXiv 2302.05543), which leaves the base model.
        conditioning: how the ControlNet takes masks.
        requests: masks of one size with their prompts.
        sampling: sampler, steps, guidance and conditioning scale.
        seed: each image's initial noise is a function of it and of the request's `noise_key`.
        negative_prompt: what to steer away from; needs guidance above 1.

    Returns:
        0..255, shape (batch, size, size, bands): RGB and the further bands of the base's
        autoencoder.
    """
    masks = np.stack([request.mask for request in requests])
    prompts = [request.prompt for request in requests]
    negatives = [negative_prompt] * len(requests) if sampling.guidance > 1 else None
    arguments = base.prompt_arguments(prompts, negatives) | {
        "generator": [seeded_generator(seed, "image", request.noise_key) for request in requests],
        "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.guidance,
        "output_type": "np",
    }
    pipeline = base.pipeline(make_sampler(base, sampling.sampler), controlnet)
    if controlnet is None:
        arguments |= {"height": masks.shape[1], "width": masks.shape[2]}
    else:
        arguments["image"] = conditioning(torch.from_numpy(masks))
        arguments["controlnet_conditioning_scale"] = sampling.conditioning_scale
    pipeline.set_progress_bar_config(disable=True)
    images: NDArray[np.float32] = pipeline(**arguments).images
    return np.rint(images * 255).astype(np.uint8)


@torch.no_grad()
def reconstruct(
    vae: AutoencoderKL | LinearAutoencoder, images: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Images sent through an autoencoder, one by one to save memory: the best that it can show.

    Args:
        vae: the base model's.
        images: 0..255, (batch, height, width, bands).
    """
    results = []
    for image in images:
        tensor = images_to_tensor(image[None]).to(vae.device)
        decoded = vae.decode(vae.encode(tensor).latent_dist.mean).sample[0].float()
        pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte()
        results.append(pixels.permute(1, 2, 0).cpu().numpy())
    return np.stack(results)


def requests_from_split(split: Split) -> list[GenerationRequest]:
    """One request per patch: its mask and caption, with noise of its own."""
    rows = zip(split.patch_ids, split.masks, split.captions, strict=True)
    return [GenerationRequest(*row) for row in rows]
