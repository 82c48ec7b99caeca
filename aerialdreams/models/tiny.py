"""The tiny Stable Diffusion's networks and tokenizer."""

from collections import Counter
from itertools import pairwise

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from aerialdreams.params import Text, TinyBase

TOKENS = 77  # CLIP's


NORM_GROUPS = 4  # few, for each takes its own mean and contrast out of the image


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
