"""What all families of base models share: autoencoder, UNet, noise schedule, CLIP tokens."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTokenizer

from aerialdreams.errors import UserError
from aerialdreams.models.linear_autoencoder import LinearAutoencoder
from aerialdreams.paths import ADAPTED_BASE
from aerialdreams.util.files import read_json, write_json

PREDICTIONS = ("epsilon", "v_prediction")


class LatentDiffusion(ABC):
    """The part of a base model that does not depend on its family; see `models.families`."""

    vae: AutoencoderKL | LinearAutoencoder
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler

    @property
    @abstractmethod
    def text_encoders(self) -> list[Any]:
        """The networks that encode captions."""

    def to(self, device: torch.device) -> Self:
        """Move the networks to a device, frozen and in evaluation mode.

        On a GPU, convolutions get the memory format that they compute in (channels last), and the
        VAE decodes the images of a batch one by one: at 512 pixels, a batch of 16 would take 20 GB.
        """
        for model in (self.vae, *self.text_encoders, self.unet):
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

    @property
    def image_bands(self) -> int:
        """Bands of the images that the autoencoder takes and gives."""
        return bands_of(self.vae.config)

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Shape (channels, height, width) of the latents of a square image."""
        side = image_size // self.vae_scale_factor
        return (self.vae.config["latent_channels"], side, side)

    @property
    def num_train_timesteps(self) -> int:
        """Timesteps of the noise schedule."""
        return int(self.scheduler.config["num_train_timesteps"])

    def misfits(self) -> list[str]:
        """Why the parts do not fit each other or this pipeline; empty if they do."""
        unet, latent_channels = self.unet.config, self.vae.config["latent_channels"]
        prediction = self.scheduler.config["prediction_type"]
        reasons = {
            f"its UNet takes {unet['in_channels']} channels and its VAE's latents have"
            f" {latent_channels}": unet["in_channels"] != latent_channels,
            f"its UNet gives {unet['out_channels']} channels and its VAE's latents have"
            f" {latent_channels}": unet["out_channels"] != latent_channels,
            "its UNet needs class labels": bool(
                unet.get("class_embed_type") or unet.get("num_class_embeds")
            ),
            f"its scheduler's prediction_type is {prediction!r}": prediction not in PREDICTIONS,
        }
        return [reason for reason, fails in reasons.items() if fails]


def bands_of(config: Mapping[str, Any]) -> int:
    """Bands of the images of an autoencoder, by its config; of a linear one its first width."""
    return int(config.get("in_channels") or config["block_out_channels"][0])


class UpcastAutoencoder(AutoencoderKL):
    """SDXL's autoencoder as published: its activations overflow in fp16, so it leaves autocast."""

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """See AutoencoderKL."""
        with _outside_fp16(x.device.type):
            return super().encode(x.to(self.dtype), return_dict)

    def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
        """See AutoencoderKL."""
        with _outside_fp16(z.device.type):
            return super().decode(z.to(self.dtype), return_dict, generator)


def _outside_fp16(device: str) -> AbstractContextManager[object]:
    """Switch autocast off if it is to fp16."""
    if torch.get_autocast_dtype(device) == torch.float16:
        return torch.autocast(device, enabled=False)
    return nullcontext()


def load_vae(folder: Path = ADAPTED_BASE) -> AutoencoderKL | LinearAutoencoder:
    """Load a model's autoencoder alone, frozen and in evaluation mode; see `families.load_base`.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / "vae"
    with naming(folder):
        config = AutoencoderKL.load_config(path)
        kind = AutoencoderKL
        if config.get("_class_name") == "LinearAutoencoder":
            kind = LinearAutoencoder
        elif config.get("force_upcast") and (folder / "text_encoder_2").is_dir():
            kind = UpcastAutoencoder
        vae = kind.from_pretrained(path)
    return vae.requires_grad_(False).eval()


def save_vae(vae: AutoencoderKL | LinearAutoencoder, folder: Path) -> None:
    """Save an autoencoder as a model's in diffusers' layout; `load_vae` reads it.

    Args:
        vae: the autoencoder.
        folder: of the model.
    """
    vae.to(memory_format=torch.contiguous_format).save_pretrained(folder / "vae")
    if isinstance(vae, UpcastAutoencoder):  # diffusers knows what it was loaded as
        config = folder / "vae" / "config.json"
        write_json(config, read_json(config) | {"_class_name": AutoencoderKL.__name__})


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Turn errors of a damaged model into a message that names its folder.

    Raises:
        UserError: the model is damaged.
    """
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


def tokenize_all(tokenizers: Sequence[CLIPTokenizer], captions: list[str]) -> Tensor:
    """Token ids by each of a model's tokenizers, shape (batch, tokenizers, tokens)."""
    return torch.stack([tokenize(tokenizer, captions) for tokenizer in tokenizers], 1)


def truncated_text(tokenizer: CLIPTokenizer, caption: str) -> str:
    """The end of a caption that the text encoder does not see, "" if it sees all of it."""
    ids, limit = tokenizer(caption).input_ids, tokenizer.model_max_length
    return str(tokenizer.decode(ids[limit - 1 : -1])) if len(ids) > limit else ""
