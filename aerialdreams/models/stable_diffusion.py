"""Stable Diffusion in diffusers' layout: its parts, and text as embeddings."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from aerialdreams.errors import UserError
from aerialdreams.models.linear_autoencoder import LinearAutoencoder
from aerialdreams.paths import ADAPTED_BASE


@dataclass
class StableDiffusion:
    """The parts of a Stable Diffusion pipeline."""

    vae: AutoencoderKL | LinearAutoencoder
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler

    def to(self, device: torch.device) -> "StableDiffusion":
        """Move the networks to a device, frozen and in evaluation mode.

        On a GPU, convolutions get the memory format that they compute in (channels last), and the
        VAE decodes the images of a batch one by one: at 512 pixels, a batch of 16 would take 20 GB.
        """
        for model in (self.vae, self.text_encoder, self.unet):
            model.requires_grad_(False).eval().to(device)
        if device.type == "cuda":
            self.unet.to(memory_format=torch.channels_last)
            self.vae.to(memory_format=torch.channels_last)
            self.vae.enable_slicing()
        return self

    @property
    def vae_scale_factor(self) -> int:
        """Image pixels per latent pixel, along one side; a power of two."""
        return int(2 ** (len(self.vae.config["block_out_channels"]) - 1))

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Shape (channels, height, width) of the latents of a square image."""
        side = image_size // self.vae_scale_factor
        return (self.vae.config["latent_channels"], side, side)

    @property
    def num_train_timesteps(self) -> int:
        """Timesteps of the noise schedule."""
        return int(self.scheduler.config["num_train_timesteps"])


def load_stable_diffusion(folder: Path = ADAPTED_BASE) -> StableDiffusion:
    """Load a model from a folder in diffusers' layout.

    Raises:
        UserError: a part is missing or damaged.
    """
    with _naming(folder):
        return StableDiffusion(
            vae=load_vae(folder),
            text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
            scheduler=DDPMScheduler.from_pretrained(folder / "scheduler"),
        )


def load_vae(folder: Path = ADAPTED_BASE) -> AutoencoderKL | LinearAutoencoder:
    """Load a model's autoencoder alone, frozen and in evaluation mode; see `load_stable_diffusion`.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / "vae"
    with _naming(folder):
        is_linear = AutoencoderKL.load_config(path).get("_class_name") == "LinearAutoencoder"
        vae = (LinearAutoencoder if is_linear else AutoencoderKL).from_pretrained(path)
    return vae.requires_grad_(False).eval()


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Turn errors of a damaged model into a message that names its folder."""
    try:
        yield
    except (OSError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{folder}: no base model ({message}); `dvc checkout` it") from None


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids, shape (batch, tokens), truncated and padded to the text encoder's length."""
    tokens: Tensor = tokenizer(
        captions, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return tokens


def truncated_text(tokenizer: CLIPTokenizer, caption: str) -> str:
    """The end of a caption that the text encoder does not see, "" if it sees all of it."""
    ids, limit = tokenizer(caption).input_ids, tokenizer.model_max_length
    return str(tokenizer.decode(ids[limit - 1 : -1])) if len(ids) > limit else ""


@torch.no_grad()
def encode_prompts(base: StableDiffusion, captions: list[str]) -> Tensor:
    """Text embeddings, shape (batch, tokens, width), on the text encoder's device."""
    return encode_tokens(base, tokenize(base.tokenizer, captions))


@torch.no_grad()
def encode_tokens(base: StableDiffusion, tokens: Tensor) -> Tensor:
    """Text embeddings of token ids; see `encode_prompts`.

    Args:
        base: the model with the text encoder.
        tokens: shape (batch, tokens).
    """
    embedding: Tensor = base.text_encoder(tokens.to(base.text_encoder.device)).last_hidden_state
    return embedding
