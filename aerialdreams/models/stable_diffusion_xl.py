"""Stable Diffusion XL in diffusers' layout: two text encoders, and conditions on size and crop.

Podell et al. 2023 (arXiv 2307.01952).
"""

import json
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
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from aerialdreams.models.latent_diffusion import (
    LatentDiffusion,
    load_vae,
    naming,
    tokenize_all,
)
from aerialdreams.models.linear_autoencoder import LinearAutoencoder

TIME_IDS = 6  # numbers of a window, see `models.tensors.image_windows`


@dataclass
class StableDiffusionXL(LatentDiffusion):
    """The parts of an SDXL pipeline.

    Attributes:
        empty_is_zero: whether the UNet was trained with zeros for the empty caption, as SDXL was
            (`force_zeros_for_empty_prompt` in model_index.json).
    """

    NAME: ClassVar = "Stable Diffusion XL"
    # model_index.json's _class_name of such models, and the pipeline that takes their ControlNets.
    PIPELINES: ClassVar = ("StableDiffusionXLPipeline", "StableDiffusionXLControlNetPipeline")
    WEIGHTS: ClassVar = {
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
        "text_encoder_2": "model",
        "unet": "diffusion_pytorch_model",
    }
    PARTS: ClassVar = (
        *("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet"),
        "scheduler",
    )

    vae: AutoencoderKL | LinearAutoencoder
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler
    empty_is_zero: bool = True

    @classmethod
    def load(cls, folder: Path) -> "StableDiffusionXL":
        """See `families.load_base`."""
        index = folder / "model_index.json"
        with naming(folder):
            values = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
            return cls(
                vae=load_vae(folder),
                text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
                text_encoder_2=CLIPTextModelWithProjection.from_pretrained(
                    folder / "text_encoder_2"
                ),
                tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
                tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
                unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
                # Its own is for sampling, and its config may lack clip_sample; latents are not
                # within -1..1.
                scheduler=DDPMScheduler.from_pretrained(folder / "scheduler", clip_sample=False),
                empty_is_zero=bool(values.get("force_zeros_for_empty_prompt", True)),
            )

    @property
    def text_encoders(self) -> list[Any]:
        """Both text encoders."""
        return [self.text_encoder, self.text_encoder_2]

    @property
    def tokenizers(self) -> list[CLIPTokenizer]:
        """The text encoders' tokenizers, which pad differently."""
        return [self.tokenizer, self.tokenizer_2]

    @torch.no_grad()
    def encode_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Embeddings of token ids, on the text encoders' device.

        Args:
            tokens: shape (batch, 2, tokens), by both tokenizers.

        Returns:
            `text`, the last hidden states but one of both encoders, (batch, tokens, widths of
            both); `pooled`, the second's projected embedding, (batch, width).
        """
        tokens = tokens.to(self.text_encoder.device)
        first = self.text_encoder(tokens[:, 0], output_hidden_states=True)
        second = self.text_encoder_2(tokens[:, 1], output_hidden_states=True)
        text = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        pooled = second.text_embeds
        if self.empty_is_zero:
            empty = tokenize_all(self.tokenizers, [""]).to(tokens.device)
            with_words = (tokens != empty).flatten(1).any(1)
            text, pooled = text * with_words[:, None, None], pooled * with_words[:, None]
        return {"text": text, "pooled": pooled}

    def added_conditions(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What UNet and ControlNet take beside the text: their `added_cond_kwargs`.

        Args:
            batch: `pooled`, see `encode_tokens`; `window`, see `models.tensors.image_windows`.
        """
        return {"text_embeds": batch["pooled"].float(), "time_ids": batch["window"].float()}

    def pipeline(self, scheduler: Any, controlnet: ControlNetModel | None) -> Any:
        """diffusers' text-to-image pipeline, with a ControlNet if one is given."""
        from diffusers import StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline

        parts: dict[str, Any] = {
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "text_encoder_2": self.text_encoder_2,
            "tokenizer": self.tokenizer,
            "tokenizer_2": self.tokenizer_2,
            "unet": self.unet,
            "scheduler": scheduler,
            "add_watermarker": False,
        }
        if controlnet is None:
            return StableDiffusionXLPipeline(**parts)
        return StableDiffusionXLControlNetPipeline(controlnet=controlnet, **parts)

    def prompt_arguments(self, prompts: list[str], negatives: list[str] | None) -> dict[str, Any]:
        """Arguments of `pipeline`'s call for prompts and, with guidance, negative prompts."""
        arguments: dict[str, Any] = {}
        for prefix, captions in (("", prompts), ("negative_", negatives)):
            if captions:
                embeddings = self.encode_tokens(tokenize_all(self.tokenizers, captions))
                arguments[f"{prefix}prompt_embeds"] = embeddings["text"]
                arguments[f"{prefix}pooled_prompt_embeds"] = embeddings["pooled"]
        return arguments

    def misfits(self) -> list[str]:
        """Why the parts do not fit each other or this pipeline; empty if they do."""
        unet, vae = self.unet.config, self.vae.config
        if unet.get("addition_embed_type") != "text_time":
            return ["its UNet does not take a pooled text embedding and image sizes, as SDXL's"]
        width = sum(encoder.config.hidden_size for encoder in self.text_encoders)
        time_width = unet["projection_class_embeddings_input_dim"]
        time_width -= self.text_encoder_2.config.projection_dim
        reasons = {
            f"its text encoders have width {width} together and its UNet expects"
            f" {unet['cross_attention_dim']}": width != unet["cross_attention_dim"],
            "its UNet takes other conditions than original size, crop and target size, as the"
            " refiner's does": time_width != TIME_IDS * unet["addition_time_embed_dim"],
            "its UNet is distilled for a guidance scale (LCM)": bool(
                unet.get("time_cond_proj_dim")
            ),
            "its VAE's latents have a mean, as Playground's": bool(
                vae.get("latents_mean") or vae.get("shift_factor")
            ),
            "its noise schedule is EDM's": "sigma_data" in self.scheduler.config,
        }
        return super().misfits() + [reason for reason, fails in reasons.items() if fails]
