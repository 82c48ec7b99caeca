"""Stable Diffusion in diffusers' layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from aerialdreams.errors import UserError
from aerialdreams.paths import BASE


@dataclass
class StableDiffusion:
    """The parts of a Stable Diffusion pipeline in diffusers' layout."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler

    def to(self, device: torch.device) -> "StableDiffusion":
        """Move the networks; none of them is trained from here on."""
        for model in (self.vae, self.text_encoder, self.unet):
            model.requires_grad_(False).eval().to(device)
        return self


def load_stable_diffusion(folder: Path = BASE) -> StableDiffusion:
    """Read a base model in diffusers' layout.

    Raises:
        UserError: a part is missing or damaged.
    """
    try:
        return StableDiffusion(
            vae=AutoencoderKL.from_pretrained(folder / "vae"),
            text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
            scheduler=DDPMScheduler.from_pretrained(folder / "scheduler"),
        )
    except (OSError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{folder}: no base model ({message}); `dvc checkout` it") from None


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids, shape (batch, tokens), cut and padded to the text encoder's length."""
    tokens: Tensor = tokenizer(
        captions, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return tokens


@torch.no_grad()
def encode_prompts(base: StableDiffusion, captions: list[str]) -> Tensor:
    """Text embeddings, shape (batch, tokens, width), on the text encoder's device."""
    return encode_tokens(base, tokenize(base.tokenizer, captions))


@torch.no_grad()
def encode_tokens(base: StableDiffusion, tokens: Tensor) -> Tensor:
    """As `embed`, of token ids, shape (batch, tokens)."""
    embedding: Tensor = base.text_encoder(tokens.to(base.text_encoder.device)).last_hidden_state
    return embedding


def make_sampler(base: StableDiffusion, name: str) -> Any:
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
