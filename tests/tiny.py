"""The tiny Stable Diffusion with random weights, and what a ControlNet needs, from params."""

from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline

from aerialdreams.data.flair import PATCH_SIZE, PIXEL_SIZE
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.model_info import ModelInfo
from aerialdreams.models.sampling import Sampling
from aerialdreams.models.stable_diffusion import StableDiffusion
from aerialdreams.models.tiny import (
    new_scheduler,
    new_text_encoder,
    new_tokenizer,
    new_unet,
)
from aerialdreams.params import Params
from aerialdreams.training.controlnet import ControlledUNet, new_controlled_unet
from aerialdreams.training.linear_autoencoder import AutoencoderSettings, fit_autoencoder


def tiny_stable_diffusion(
    params: Params, captions: list[str], image_size: int, shrink: int = 4
) -> StableDiffusion:
    """The tiny base model with random weights, its UNet's levels narrower by `shrink` for speed."""
    tiny = params.base_model.tiny
    tokenizer = new_tokenizer(captions, tiny.text.vocabulary)
    settings = AutoencoderSettings(**tiny.autoencoder.model_dump())
    noise = np.random.default_rng(0).integers(0, 256, (4, image_size, image_size, 3), np.uint8)
    vae = fit_autoencoder(noise, settings, tiny.seed)
    text_encoder = new_text_encoder(
        tiny.text.width, tiny.text.layers, len(tokenizer), tiny.seed + 1
    )
    widths = [max(8, width // shrink) for width in tiny.unet.channels]
    latent_size = image_size // settings.block
    unet = new_unet(widths, settings.channels, tiny.text.width, latent_size, tiny.seed + 2)
    return StableDiffusion(vae, text_encoder, tokenizer, unet, new_scheduler(tiny.unet.prediction))


def save_stable_diffusion(base: StableDiffusion, folder: Path) -> None:
    """Save a base model in diffusers' layout, with its source.json."""
    StableDiffusionPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=base.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    (folder / "source.json").write_text('{"source": "tiny", "license": "other"}')


def conditioning_of(params: Params) -> MaskConditioning:
    """The mask conditioning that params ask for."""
    return MaskConditioning(params.train_controlnet.conditioning, tuple(params.classes))


def sampling_of(params: Params, **values: object) -> Sampling:
    """The sampling settings of params, some of them replaced."""
    return Sampling(**params.train_controlnet.sampling.model_dump()).override(**values)


def info_of(params: Params) -> ModelInfo:
    """What train-controlnet saves beside the weights."""
    pixel_size = PIXEL_SIZE * PATCH_SIZE / params.image_size
    conditioning, sampling = conditioning_of(params), sampling_of(params)
    return ModelInfo(
        image_size=params.image_size,
        pixel_size=pixel_size,
        conditioning=conditioning,
        sampling=sampling,
        ignored=(),
        credit="FLAIR #1 © IGN",
        captions=params.captions.form,
    )


def new_model(params: Params, base: StableDiffusion) -> ControlledUNet:
    """A new ControlNet with the base's UNet."""
    stage = params.train_controlnet
    return new_controlled_unet(base, conditioning_of(params), stage.embedding_channels, stage.seed)
