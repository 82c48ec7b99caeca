"""Generate one batch of images."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from numpy.typing import NDArray

from aerialdreams.data.dataset import Split
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.models.conditioning import condition_of
from aerialdreams.models.stable_diffusion import StableDiffusion, make_sampler
from aerialdreams.params import GenerateValidation
from aerialdreams.util.seeding import seeded_generator


class GenerationRequest(NamedTuple):
    """An image that is asked for."""

    name: str  # with the seed, it decides the noise that the image begins with
    mask: NDArray[np.uint8]  # class ids, (size, size), at the image's size
    prompt: str


@torch.no_grad()
def generate_batch(
    base: StableDiffusion,
    controlnet: ControlNetModel | None,
    orders: Sequence[GenerationRequest],
    settings: GenerateValidation,
    classes: list[LandCoverClass],
) -> NDArray[np.uint8]:
    """Images for a batch of masks, by diffusers' own pipelines.

    Args:
        base: the base model.
        controlnet: what makes it follow the masks. None is a ControlNet before its first step: its
            outputs are all zero then (Zhang et al. 2023), which leaves the base model alone.
        orders: masks of one size, with their prompts.
        settings: seed, scheduler, steps, guidance, negative prompt and conditioning scale.
        classes: the class table.

    Returns:
        RGB in 0..255, shape (batch, size, size, 3).
    """
    parts: dict[str, Any] = {
        "vae": base.vae,
        "text_encoder": base.text_encoder,
        "tokenizer": base.tokenizer,
        "unet": base.unet,
        "scheduler": make_sampler(base, settings.scheduler),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    masks = np.stack([order.mask for order in orders])
    if controlnet is None:
        pipeline = StableDiffusionPipeline(**parts)
        condition: dict[str, Any] = {"height": masks.shape[1], "width": masks.shape[2]}
    else:
        pipeline = StableDiffusionControlNetPipeline(controlnet=controlnet, **parts)
        planes = controlnet.config["conditioning_channels"]
        condition = {
            "image": condition_of(torch.from_numpy(masks), planes, classes),
            "controlnet_conditioning_scale": settings.conditioning_scale,
        }
    pipeline.set_progress_bar_config(disable=True)
    if settings.guidance > 1:
        condition["negative_prompt"] = [settings.negative_prompt] * len(orders)
    images: NDArray[np.float32] = pipeline(
        prompt=[order.prompt for order in orders],
        generator=[seeded_generator(settings.seed, "image", order.name) for order in orders],
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        output_type="np",
        **condition,
    ).images
    return np.rint(images * 255).astype(np.uint8)


def requests_from_split(split: Split) -> list[GenerationRequest]:
    """A split's masks with their captions, each patch's image its own."""
    return [
        GenerationRequest(*row)
        for row in zip(split.patch_ids, split.masks, split.captions, strict=True)
    ]
