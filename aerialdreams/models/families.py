"""The families of base models that a ControlNet can be trained on.

A family is a dataclass of a model's parts, and has the same methods as the others: how it is
loaded, how it encodes captions, what its UNet takes beside them, diffusers' pipeline for it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aerialdreams.errors import UserError
from aerialdreams.models.latent_diffusion import tokenize_all
from aerialdreams.models.stable_diffusion import StableDiffusion
from aerialdreams.models.stable_diffusion_xl import StableDiffusionXL
from aerialdreams.paths import ADAPTED_BASE

BaseModel = StableDiffusion | StableDiffusionXL
Family = type[StableDiffusion] | type[StableDiffusionXL]
FAMILIES: tuple[Family, ...] = (StableDiffusion, StableDiffusionXL)
SUPPORTED = "Stable Diffusion 1.x and 2.x and SDXL text-to-image models can"


def family_of(folder: Path, name: str = "") -> Family:
    """The family of a model in diffusers' layout, by its model_index.json, or else by its parts.

    Args:
        folder: the model.
        name: what messages call it; "" for the folder.

    Raises:
        UserError: it is of another family, or model_index.json cannot be read.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        path = folder / "transformer/config.json"
    if not path.is_file():  # some folders have the parts alone
        return StableDiffusionXL if (folder / "text_encoder_2").is_dir() else StableDiffusion
    try:
        pipeline: Any = json.loads(path.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path}: cannot be read ({message}); get it again") from None
    for family in FAMILIES:
        if pipeline in family.PIPELINES:
            return family
    raise UserError(f"{name or folder}: a {pipeline} cannot be the base model. {SUPPORTED}")


def load_base(folder: Path = ADAPTED_BASE) -> BaseModel:
    """Load a base model of any family from a folder in diffusers' layout.

    Raises:
        UserError: a part is missing or damaged, or the model is of another family.
    """
    return family_of(folder).load(folder)


@torch.no_grad()
def encode_prompts(base: BaseModel, captions: list[str]) -> dict[str, Tensor]:
    """Embeddings of captions by name, on the text encoders' device; see `encode_tokens` of each."""
    return base.encode_tokens(tokenize_all(base.tokenizers, captions))
