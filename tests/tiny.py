"""Tiny base models with random weights, and what a ControlNet needs, from params."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from aerialdreams.data.flair import PATCH_SIZE, PIXEL_SIZE
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.families import BaseModel
from aerialdreams.models.model_info import ModelInfo
from aerialdreams.models.sampling import Sampling
from aerialdreams.models.stable_diffusion import StableDiffusion
from aerialdreams.models.stable_diffusion_xl import TIME_IDS, StableDiffusionXL
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


def tiny_sdxl(
    params: Params, captions: list[str], vae_channels: tuple[int, ...] = (8, 8, 16)
) -> StableDiffusionXL:
    """A model of SDXL's shape with random weights: what only the sizes tell apart from it."""
    torch.manual_seed(params.base_model.tiny.seed)
    tokenizer, tokenizer_2 = (
        new_tokenizer(captions, params.base_model.tiny.text.vocabulary) for _ in range(2)
    )
    tokenizer_2.pad_token = "!"
    text, text_2 = (
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            hidden_act=activation,
            projection_dim=24,
            eos_token_id=tokenizer.eos_token_id,
        )
        for width, activation in ((16, "quick_gelu"), (32, "gelu"))
    )
    return StableDiffusionXL(
        vae=AutoencoderKL(
            block_out_channels=vae_channels,
            down_block_types=["DownEncoderBlock2D"] * len(vae_channels),
            up_block_types=["UpDecoderBlock2D"] * len(vae_channels),
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.13025,
        ),
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text_2),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=[1, 2],
            norm_num_groups=4,
            attention_head_dim=[2, 4],
            use_linear_projection=True,
            cross_attention_dim=16 + 32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + TIME_IDS * 8,
        ),
        scheduler=new_scheduler("epsilon"),
    )


def save_base(base: BaseModel, folder: Path) -> None:
    """Save a base model in diffusers' layout, with its source.json."""
    base.pipeline(base.scheduler, None).save_pretrained(folder)
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


def new_model(params: Params, base: BaseModel) -> ControlledUNet:
    """A new ControlNet with the base's UNet."""
    stage = params.train_controlnet
    return new_controlled_unet(base, conditioning_of(params), stage.embedding_channels, stage.seed)
