"""Stable Diffusion 1.x and 2.x in diffusers' layout: one text encoder, no other conditions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from aerialdreams.models.latent_diffusion import LatentDiffusion, load_vae, naming
from aerialdreams.models.linear_autoencoder import LinearAutoencoder


@dataclass
class StableDiffusion(LatentDiffusion):
    """The parts of a Stable Diffusion pipeline."""

    NAME: ClassVar = "Stable Diffusion"
    # model_index.json's _class_name of such models, and the pipeline that takes their ControlNets.
    PIPELINES: ClassVar = ("StableDiffusionPipeline", "StableDiffusionControlNetPipeline")
    WEIGHTS: ClassVar = {
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
        "unet": "diffusion_pytorch_model",
    }
    PARTS: ClassVar = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")

    vae: AutoencoderKL | LinearAutoencoder
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler

    @classmethod
    def load(cls, folder: Path) -> "StableDiffusion":
        """See `families.load_base`."""
        with naming(folder):
            return cls(
                vae=load_vae(folder),
                text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
                tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
                unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
                scheduler=DDPMScheduler.from_pretrained(folder / "scheduler"),
            )

    @property
    def text_encoders(self) -> list[Any]:
        """The text encoder."""
        return [self.text_encoder]

    @property
    def tokenizers(self) -> list[CLIPTokenizer]:
        """The text encoder's tokenizer."""
        return [self.tokenizer]

    @torch.no_grad()
    def encode_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """`text`, embeddings of token ids, (batch, tokens, width), on the text encoder's device.

        Args:
            tokens: shape (batch, 1, tokens).
        """
        tokens = tokens[:, 0].to(self.text_encoder.device)
        return {"text": self.text_encoder(tokens).last_hidden_state}

    def added_conditions(self, batch: Mapping[str, Tensor]) -> None:
        """What UNet and ControlNet take beside the text: nothing."""
        return

    def pipeline(self, scheduler: Any, controlnet: ControlNetModel | None) -> Any:
        """diffusers' text-to-image pipeline, with a ControlNet if one is given."""
        # Not imported above: they warn of optional libraries, which their parts do not need.
        from diffusers import StableDiffusionControlNetPipeline, StableDiffusionPipeline

        parts: dict[str, Any] = {
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "tokenizer": self.tokenizer,
            "unet": self.unet,
            "scheduler": scheduler,
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
        if controlnet is None:
            return StableDiffusionPipeline(**parts)
        return StableDiffusionControlNetPipeline(controlnet=controlnet, **parts)

    def prompt_arguments(self, prompts: list[str], negatives: list[str] | None) -> dict[str, Any]:
        """Arguments of `pipeline`'s call for prompts and, with guidance, negative prompts."""
        return {"prompt": prompts} | ({"negative_prompt": negatives} if negatives else {})

    def misfits(self) -> list[str]:
        """Why the parts do not fit each other or this pipeline; empty if they do."""
        width, expected = self.text_encoder.config.hidden_size, self.unet.config
        reasons = {
            "its UNet needs a second text encoder or image sizes, as SDXL's does": bool(
                expected.get("addition_embed_type")
            ),
            f"its text encoder has width {width} and its UNet expects"
            f" {expected['cross_attention_dim']}": width != expected["cross_attention_dim"],
        }
        return super().misfits() + [reason for reason, fails in reasons.items() if fails]
