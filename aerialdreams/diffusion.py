"""Latent diffusion as the pipeline's stages share it, on diffusers' models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from aerialdreams.classes import CLASS_COUNT, LandCoverClass, palette
from aerialdreams.dataset import Split
from aerialdreams.errors import UserError
from aerialdreams.params import GenerateValidation
from aerialdreams.training import generator

BASE = Path("models/base")
CONTROLNET = Path("models/controlnet")
UNET = "unet"  # folder beside the ControlNet's weights, where the decoder was trained with it
COLOUR_PLANES = 3

diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()


@dataclass
class Base:
    """The parts of a Stable Diffusion pipeline in diffusers' layout."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler

    def to(self, device: torch.device) -> "Base":
        """Move the networks; none of them is trained from here on."""
        for model in (self.vae, self.text_encoder, self.unet):
            model.requires_grad_(False).eval().to(device)
        return self


def load_base(folder: Path = BASE) -> Base:
    """Read a base model in diffusers' layout.

    Raises:
        UserError: a part is missing or damaged.
    """
    try:
        return Base(
            vae=AutoencoderKL.from_pretrained(folder / "vae"),
            text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
            scheduler=DDPMScheduler.from_pretrained(folder / "scheduler"),
        )
    except (OSError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{folder}: no base model ({message}); `dvc checkout` it") from None


def load_controlnet(folder: Path = CONTROLNET) -> ControlNetModel:
    """Read a ControlNet in diffusers' layout.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        return ControlNetModel.from_pretrained(folder).eval()
    except (OSError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{folder}: no ControlNet ({message}); `dvc checkout` it") from None


def with_trained_unet(base: Base, folder: Path = CONTROLNET) -> Base:
    """The base model with the UNet that was trained beside a ControlNet, if one was."""
    if not (folder / UNET).is_dir():
        return base
    unet = UNet2DConditionModel.from_pretrained(folder / UNET)
    return replace(base, unet=unet.requires_grad_(False).eval().to(base.unet.device))


def new_controlnet(
    unet: UNet2DConditionModel, channels: list[int], condition: str, seed: int
) -> ControlNetModel:
    """A ControlNet that does nothing yet: its outputs are zero until it is trained.

    Args:
        unet: the base model's, from which the weights of the encoder are copied.
        channels: widths of the network that takes the mask down to the latent's size; each after
            the first halves it.
        condition: "one_hot", a plane for each class, or "colours", the mask in its LUT's colours.
        seed: of that network's weights.
    """
    torch.manual_seed(seed)
    planes = CLASS_COUNT if condition == "one_hot" else COLOUR_PLANES
    controlnet = ControlNetModel.from_unet(
        unet,
        conditioning_channels=planes,
        conditioning_embedding_out_channels=tuple(channels),
    )
    # With torch's own start each layer would hand on a third of its signal and the mask would be
    # noticed thousands of steps later. He et al. 2015 (arXiv 1502.01852) keeps its strength; the
    # last layer stays zero, as ControlNet wants it.
    embedding = controlnet.controlnet_cond_embedding
    for layer in (embedding.conv_in, *embedding.blocks):
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if condition == "one_hot":  # only one of the planes is 1 at a pixel
        with torch.no_grad():
            embedding.conv_in.weight *= CLASS_COUNT**0.5
    return controlnet


def condition_of(masks: Tensor, planes: int, classes: list[LandCoverClass]) -> Tensor:
    """Masks as a ControlNet takes them.

    Args:
        masks: class ids, uint8, shape (batch, height, width).
        planes: the ControlNet's `conditioning_channels`: 19 for one-hot masks, 3 for colours.
        classes: the class table, for their colours.

    Returns:
        Shape (batch, planes, height, width), on the masks' device: 0 or 1, channel = class id - 1;
        or red, green, blue in 0..1, as diffusers' pipelines make them of a picture.
    """
    if planes == CLASS_COUNT:
        hot = torch.nn.functional.one_hot(masks.long() - 1, CLASS_COUNT)
        return hot.permute(0, 3, 1, 2).float()
    table = torch.frombuffer(bytearray(palette(classes)), dtype=torch.uint8).reshape(256, 3)
    return (table.to(masks.device)[masks.long()] / 255).permute(0, 3, 1, 2).contiguous()


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids, shape (batch, tokens), cut and padded to the text encoder's length."""
    tokens: Tensor = tokenizer(
        captions, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return tokens


@torch.no_grad()
def embed(base: Base, captions: list[str]) -> Tensor:
    """Text embeddings, shape (batch, tokens, width), on the text encoder's device."""
    return embed_tokens(base, tokenize(base.tokenizer, captions))


@torch.no_grad()
def embed_tokens(base: Base, tokens: Tensor) -> Tensor:
    """As `embed`, of token ids, shape (batch, tokens)."""
    embedding: Tensor = base.text_encoder(tokens.to(base.text_encoder.device)).last_hidden_state
    return embedding


def draw_epsilon(seed: int, step: int, shape: tuple[int, ...], first: int = 0) -> Tensor:
    """What draws a step's codes, mean + deviation x epsilon, (batch, ...); see `draw_noise`."""
    return torch.stack(
        [
            torch.randn(shape[1:], generator=generator(seed, "codes", step, place))
            for place in range(first, first + shape[0])
        ]
    )


def draw_noise(
    seed: int, step: int, shape: tuple[int, ...], timesteps: int, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise of a shape (batch, ...) and timesteps (batch,) of a training step.

    The i-th sample's are a function of (seed, step, i), so that they do not depend on how a batch
    is spread over processes.

    Args:
        seed: the training's.
        step: the step's number.
        shape: of the batch, or of a part of it.
        timesteps: of the noise schedule.
        first: the part's first sample.
    """
    noise, times = [], []
    for place in range(first, first + shape[0]):
        draw = generator(seed, "noise", step, place)
        noise.append(torch.randn(shape[1:], generator=draw))
        times.append(torch.randint(timesteps, (), generator=draw))
    return torch.stack(noise), torch.stack(times)


def target_of(scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """What the network is to predict, by the scheduler's prediction type.

    Raises:
        UserError: the type is neither epsilon nor v_prediction.
    """
    match scheduler.config["prediction_type"]:
        case "epsilon":
            return noise
        case "v_prediction":
            velocity: Tensor = scheduler.get_velocity(latents, noise, times)
            return velocity
        case other:
            raise UserError(f"{BASE}/scheduler: prediction_type {other!r} is not known")


class Order(NamedTuple):
    """An image that is asked for."""

    name: str  # with the seed, it decides the noise that the image begins with
    mask: NDArray[np.uint8]  # class ids, (size, size), at the image's size
    prompt: str


@torch.no_grad()
def generate(
    base: Base,
    controlnet: ControlNetModel | None,
    orders: Sequence[Order],
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
        "scheduler": sampler(base, settings.scheduler),
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
        generator=[generator(settings.seed, "image", order.name) for order in orders],
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        output_type="np",
        **condition,
    ).images
    return np.rint(images * 255).astype(np.uint8)


def sampler(base: Base, name: str) -> Any:
    """One of diffusers' samplers, for the base's schedule of noise.

    None of them draws noise after the first; "trailing" begins at pure noise, as training does
    (Lin et al. 2024, arXiv 2305.08891).
    """
    kinds = {
        "ddim": DDIMScheduler,
        "dpm++": DPMSolverMultistepScheduler,
        "unipc": UniPCMultistepScheduler,
    }
    return kinds[name].from_config(base.scheduler.config, timestep_spacing="trailing")


def orders_of(split: Split) -> list[Order]:
    """A split's masks with their captions, each patch's image its own."""
    return [Order(*row) for row in zip(split.patch_ids, split.masks, split.captions, strict=True)]
