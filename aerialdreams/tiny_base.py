"""A tiny Stable Diffusion, trained from scratch on the train split, on a CPU in minutes.

First the VAE learns to code images, then text encoder and UNet learn together to denoise codes.
"""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from aerialdreams.curves import LossCurve
from aerialdreams.dataset import DATASET, Split, load_split
from aerialdreams.diffusion import draw_epsilon, draw_noise, target_of, tokenize
from aerialdreams.files import fingerprint
from aerialdreams.params import Params, Text, TinyBase, Vae
from aerialdreams.patches import IGN_CREDIT, OSM_CREDIT
from aerialdreams.stage import scratch
from aerialdreams.training import (
    Checkpoint,
    draw_batch,
    drop_captions,
    generator,
    scheduled_rate,
    set_rate,
    set_up_torch,
    take_step,
    to_tensor,
    training_steps,
)

TOKENS = 77  # CLIP's
WARMUP = 50
NORM_GROUPS = 4  # few, for each takes its own mean and contrast out of the image


def make_tiny(params: Params, folder: Path) -> tuple[str, LossCurve, LossCurve]:
    """Train it, and save it in diffusers' layout.

    Args:
        params: all params; those of base_model.tiny, image_size, torch_threads count.
        folder: where to, an empty folder.

    Returns:
        What was done, in numbers, and the losses of VAE and UNet.
    """
    device, stage = set_up_torch(params.torch_threads), params.base_model.tiny
    key = fingerprint([stage, params.image_size, params.torch_threads], __file__, [DATASET])
    train, every = load_split("train", params.image_size), params.runtime.checkpoint_every
    vae_losses, unet_losses = LossCurve("VAE"), LossCurve("UNet")

    vae = new_vae(stage, params.image_size).to(device)
    vae_state = scratch() / f"base-model-vae-{key}.pt"
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
    unet_state = scratch() / f"base-model-unet-{key}.pt"
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


def new_vae(stage: TinyBase, size: int) -> AutoencoderKL:
    """An AutoencoderKL with random weights."""
    torch.manual_seed(stage.seed)
    levels = len(stage.vae.channels)
    vae = AutoencoderKL(
        block_out_channels=stage.vae.channels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=stage.vae.latent_channels,
        norm_num_groups=NORM_GROUPS,
        mid_block_add_attention=False,  # it would learn from crops and meet whole images
        sample_size=size,
    )
    start_calm(vae)
    return vae


@torch.no_grad()
def start_calm(vae: AutoencoderKL) -> None:
    """Set the weights that a VAE begins with so that it learns in hundreds of steps.

    Residual blocks begin as nothing (a last layer of zeros, as in Zhang et al. 2019, arXiv
    1901.09321) and the layers between them keep a signal's strength (LeCun et al. 1998): the
    whole begins almost linear. With torch's own start an image comes out as mist for long.
    """
    for name, layer in vae.named_modules():
        if not isinstance(layer, torch.nn.Conv2d) or name.endswith("conv1"):
            continue
        strength = 0.0 if name.endswith("conv2") else layer.weight[0].numel() ** -0.5
        layer.weight.normal_(0, strength)
        if layer.bias is not None:
            layer.bias.zero_()
    # The codes' deviation would begin at 1, as strong as what they carry; a small one lets the
    # decoder see something from the first step on.
    vae.quant_conv.bias[vae.config["latent_channels"] :] -= 8


def vae_factor(vae: AutoencoderKL) -> int:
    """How many pixels of an image a pixel of its code is wide."""
    return int(2 ** (len(vae.config["block_out_channels"]) - 1))


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
        set_rate(optimizer, scheduled_rate(step, total, settings.learning_rate, WARMUP))
        images = to_tensor(draw_crops(train, settings, stage.seed, step)).to(device)
        noise = generator(stage.seed, "vae", step)
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
        take_step(optimizer, loss)
        checkpoint.parts["losses"].add(loss)
    vae.requires_grad_(False).eval()
    # The stronger the code beside the noise of deviation 1, the more of the training goes to what
    # is where, and the less to grain (input scaling of Chen 2023, arXiv 2301.10972).
    factor = settings.code_deviation / float(encode(vae, train)[0].std())
    vae.register_to_config(scaling_factor=round(factor, 4))


def draw_crops(train: Split, settings: Vae, seed: int, step: int) -> NDArray[np.uint8]:
    """The images of one step, uint8: random square crops, later one whole image."""
    if step >= settings.steps:
        return train.images[draw_batch(seed, step, 1, len(train.images))]
    size, crop = train.images.shape[1], settings.crop
    draw = generator(seed, "crops", step)
    corners = torch.randint(size - crop + 1, (settings.batch, 2), generator=draw).tolist()
    chosen = draw_batch(seed, step, settings.batch, len(train.images))
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
        vae.encode(to_tensor(train.images[i : i + 16]).to(device)).latent_dist
        for i in range(0, len(train.images), 16)
    ]
    return torch.cat([p.mean.cpu() for p in parts]), torch.cat([p.std.cpu() for p in parts])


def new_tokenizer(captions: list[str], settings: Text) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of its own, learnt from the captions.

    Byte-pair encoding (Sennrich et al. 2016). The merges are learnt here because the trainer of
    `tokenizers` breaks ties in an order that changes from run to run.
    """
    plain = CLIPTokenizer()
    normalizer, splitter = plain.backend_tokenizer.normalizer, plain.backend_tokenizer.pre_tokenizer
    words: Counter[tuple[str, ...]] = Counter()
    for caption in captions:
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(caption)):
            words[(*word[:-1], f"{word[-1]}</w>")] += 1
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    specials = [str(plain.bos_token), str(plain.eos_token)]
    merges: list[tuple[str, str]] = []
    while len(tokens) + len(specials) < settings.vocabulary:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        tokens.append("".join(best))
        words = Counter({merge(word, best): count for word, count in words.items()})
    vocabulary = {token: number for number, token in enumerate([*tokens, *specials])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """A word's parts with each occurrence of a pair, from left to right, made one."""
    parts: list[str] = []
    for part in word:
        if parts and (parts[-1], part) == pair:
            parts[-1] = "".join(pair)
        else:
            parts.append(part)
    return tuple(parts)


def new_text_encoder(stage: TinyBase, vocabulary: int) -> CLIPTextModel:
    """A CLIP text model with random weights."""
    torch.manual_seed(stage.seed + 1)
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=stage.text.width,
        intermediate_size=stage.text.width * 4,
        num_hidden_layers=stage.text.layers,
        num_attention_heads=max(1, stage.text.width // 32),
        max_position_embeddings=TOKENS,
    )
    return CLIPTextModel(config)


def new_unet(stage: TinyBase, size: int) -> UNet2DConditionModel:
    """A UNet2DConditionModel with random weights; only its deepest level reads the caption."""
    torch.manual_seed(stage.seed + 2)
    levels = len(stage.unet.channels)
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=stage.vae.latent_channels,
        out_channels=stage.vae.latent_channels,
        block_out_channels=tuple(stage.unet.channels),
        down_block_types=("DownBlock2D",) * (levels - 1) + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        layers_per_block=1,
        norm_num_groups=NORM_GROUPS,
        cross_attention_dim=stage.text.width,
        attention_head_dim=4,
    )


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
        set_rate(optimizer, scheduled_rate(step, settings.steps, settings.learning_rate, WARMUP))
        chosen = draw_batch(stage.seed, step, settings.batch, len(codes[0]))
        mean, std = codes[0][chosen], codes[1][chosen]
        shape = tuple(mean.shape)
        clean = (mean + std * draw_epsilon(stage.seed, step, shape)) * factor
        noise, times = draw_noise(stage.seed, step, shape, scheduler.config["num_train_timesteps"])
        target = target_of(scheduler, clean, noise, times).to(device)
        noisy = scheduler.add_noise(clean, noise, times).to(device)
        rows = drop_captions(chosen, settings.caption_dropout, stage.seed, step)
        text = text_encoder(tokens[rows].to(device))
        predicted = unet(noisy, times.to(device), text.last_hidden_state).sample
        loss = ((predicted - target) ** 2).mean()
        take_step(optimizer, loss)
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
