"""A tiny Stable Diffusion, trained from scratch on the train split, on a CPU in minutes.

First the VAE learns to code images, then text encoder and UNet learn together to denoise codes.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModel

from aerialdreams.data.credits import IGN_CREDIT, OSM_CREDIT
from aerialdreams.data.dataset import Split, load_split
from aerialdreams.data.images import images_to_tensor
from aerialdreams.models.stable_diffusion import tokenize
from aerialdreams.models.tiny import new_text_encoder, new_tokenizer, new_unet, new_vae, vae_factor
from aerialdreams.params import Params, TinyBase, Vae
from aerialdreams.paths import DATASET
from aerialdreams.pipeline.stage import scratch_dir
from aerialdreams.training.batches import (
    batch_indices,
    draw_latent_noise,
    draw_noise,
    drop_captions,
)
from aerialdreams.training.checkpoint import Checkpoint, training_steps
from aerialdreams.training.loss_curves import LossCurve
from aerialdreams.training.losses import prediction_target
from aerialdreams.training.schedule import learning_rate_at, optimizer_step, set_learning_rate
from aerialdreams.util.files import fingerprint
from aerialdreams.util.seeding import seeded_generator
from aerialdreams.util.torch_setup import configure_torch

WARMUP = 50


def make_tiny(params: Params, folder: Path) -> tuple[str, LossCurve, LossCurve]:
    """Train it, and save it in diffusers' layout.

    Args:
        params: all params; those of base_model.tiny, image_size, torch_threads count.
        folder: where to, an empty folder.

    Returns:
        What was done, in numbers, and the losses of VAE and UNet.
    """
    device, stage = configure_torch(params.torch_threads), params.base_model.tiny
    key = fingerprint([stage, params.image_size, params.torch_threads], __file__, [DATASET])
    train, every = load_split("train", params.image_size), params.runtime.checkpoint_every
    vae_losses, unet_losses = LossCurve("VAE"), LossCurve("UNet")

    vae = new_vae(stage, params.image_size).to(device)
    vae_state = scratch_dir() / f"base-model-vae-{key}.pt"
    checkpoint = Checkpoint(vae_state, {"vae": vae, "losses": vae_losses})
    train_vae(vae, train, stage, checkpoint, every)
    codes = encode(vae, train)

    tokenizer = new_tokenizer(train.captions, stage.text)
    text_encoder = new_text_encoder(stage, len(tokenizer)).to(device)
    unet = new_unet(stage, params.image_size // vae_factor(vae)).to(device)
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,  # Stable Diffusion's
        beta_end=0.012,
        prediction_type=stage.unet.prediction,
        clip_sample=False,
        steps_offset=1,  # Stable Diffusion's too
        # Ends in pure noise, as sampling begins (Lin et al. 2024, arXiv 2305.08891).
        rescale_betas_zero_snr=stage.unet.prediction == "v_prediction",
    )
    unet_state = scratch_dir() / f"base-model-unet-{key}.pt"
    tokens = tokenize(tokenizer, [*train.captions, ""])
    parts = {"text_encoder": text_encoder, "unet": unet, "losses": unet_losses}
    checkpoint = Checkpoint(unet_state, parts)
    factor = vae.config["scaling_factor"]
    train_unet(text_encoder, unet, scheduler, codes, factor, tokens, stage, checkpoint, every)

    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (vae, text_encoder, unet)]
    said = (
        f"VAE of {sizes[0]:.2f} M weights trained for"
        f" {stage.vae.steps + stage.vae.whole_steps} steps, text encoder of"
        f" {sizes[1]:.2f} M and UNet of {sizes[2]:.2f} M for {stage.unet.steps}"
    )
    return said, vae_losses, unet_losses


def train_vae(
    vae: AutoencoderKL, train: Split, stage: TinyBase, checkpoint: Checkpoint, every: int
) -> None:
    """Learn to code the train images, and set the VAE's scaling factor.

    Many small crops first, for speed; then whole images one by one, for group normalisation sees
    another mean and contrast there, and colours would come out shifted.
    """
    settings, device = stage.vae, next(vae.parameters()).device
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=0, fused=True)
    checkpoint.parts["optimizer"] = optimizer
    total = settings.steps + settings.whole_steps
    for step in training_steps(checkpoint, total, every, "VAE"):
        set_learning_rate(optimizer, learning_rate_at(step, total, settings.learning_rate, WARMUP))
        images = images_to_tensor(draw_crops(train, settings, stage.seed, step)).to(device)
        noise = seeded_generator(stage.seed, "vae", step)
        posterior = vae.encode(images).latent_dist
        epsilon = torch.randn(posterior.mean.shape, generator=noise).to(device)
        decoded = vae.decode(posterior.mean + posterior.std * epsilon).sample
        error = decoded - images
        # What land cover is told by: the hue of each pixel, and the mean colour of 8 x 8 of them.
        hue = error - error.mean(1, keepdim=True)
        tone = torch.nn.functional.avg_pool2d(error, 8)
        squares = 2 * (error**2).mean() + 6 * (hue**2).mean() + 4 * (tone**2).mean()
        loss = error.abs().mean() + squares
        loss = loss + settings.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer_step(optimizer, loss)
        checkpoint.parts["losses"].add(loss)
    vae.requires_grad_(False).eval()
    # The stronger the code beside the noise of deviation 1, the more of the training goes to what
    # is where, and the less to grain (input scaling of Chen 2023, arXiv 2301.10972).
    factor = settings.code_deviation / float(encode(vae, train)[0].std())
    vae.register_to_config(scaling_factor=round(factor, 4))


def draw_crops(train: Split, settings: Vae, seed: int, step: int) -> NDArray[np.uint8]:
    """The images of one step, uint8: random square crops, later one whole image."""
    if step >= settings.steps:
        return train.images[batch_indices(seed, step, 1, len(train.images))]
    size, crop = train.images.shape[1], settings.crop
    draw = seeded_generator(seed, "crops", step)
    corners = torch.randint(size - crop + 1, (settings.batch, 2), generator=draw).tolist()
    chosen = batch_indices(seed, step, settings.batch, len(train.images))
    return np.stack(
        [
            train.images[i, y : y + crop, x : x + crop]
            for i, (y, x) in zip(chosen, corners, strict=True)
        ]
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, train: Split) -> tuple[Tensor, Tensor]:
    """Means and deviations of the images' codes, without scaling, on the CPU."""
    device = next(vae.parameters()).device
    parts = [
        vae.encode(images_to_tensor(train.images[i : i + 16]).to(device)).latent_dist
        for i in range(0, len(train.images), 16)
    ]
    return torch.cat([p.mean.cpu() for p in parts]), torch.cat([p.std.cpu() for p in parts])


def train_unet(
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    codes: tuple[Tensor, Tensor],
    factor: float,
    tokens: Tensor,
    stage: TinyBase,
    checkpoint: Checkpoint,
    every: int,
) -> None:
    """Learn to denoise codes by captions.

    Args:
        text_encoder: trained too.
        unet: the network that denoises.
        scheduler: how noise is added.
        codes: means and deviations of the images' codes, each (patches, channels, h, w).
        factor: the VAE's scaling factor.
        tokens: the captions' token ids, and in a last row the empty caption's.
        stage: the stage's params.
        checkpoint: where the state is kept.
        every: steps between checkpoints.
    """
    settings, device = stage.unet, next(unet.parameters()).device
    weights = [*text_encoder.parameters(), *unet.parameters()]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.01, fused=True)
    checkpoint.parts["optimizer"] = optimizer
    for step in training_steps(checkpoint, settings.steps, every, "UNet"):
        set_learning_rate(
            optimizer, learning_rate_at(step, settings.steps, settings.learning_rate, WARMUP)
        )
        chosen = batch_indices(stage.seed, step, settings.batch, len(codes[0]))
        mean, std = codes[0][chosen], codes[1][chosen]
        shape = tuple(mean.shape)
        clean = (mean + std * draw_latent_noise(stage.seed, step, shape)) * factor
        noise, times = draw_noise(stage.seed, step, shape, scheduler.config["num_train_timesteps"])
        target = prediction_target(scheduler, clean, noise, times).to(device)
        noisy = scheduler.add_noise(clean, noise, times).to(device)
        rows = drop_captions(chosen, settings.caption_dropout, stage.seed, step)
        text = text_encoder(tokens[rows].to(device))
        predicted = unet(noisy, times.to(device), text.last_hidden_state).sample
        loss = ((predicted - target) ** 2).mean()
        optimizer_step(optimizer, loss)
        checkpoint.parts["losses"].add(loss)


CARD = f"""---
license: other
library_name: diffusers
---
# A tiny base model for AerialDreams

Trained from scratch by the pipeline, on the train split of the dataset that lies in front of it.

Derived from {IGN_CREDIT}, and from captions with place names {OSM_CREDIT}. With the sample source
both are drawn by AerialDreams in their shape.
"""
