"""The tiny Stable Diffusion: networks with random weights, and a tokenizer learnt from captions."""

from collections import Counter
from itertools import pairwise
from typing import Literal

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_TOKENS = 77  # CLIP's
NORM_GROUPS = 4  # few, because each group removes its own mean and contrast from the image


def new_tokenizer(captions: list[str], vocabulary_size: int) -> CLIPTokenizer:
    """CLIP's tokenizer with a small vocabulary, learnt from the captions.

    Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909). The trainer of `tokenizers` is not
    used because it breaks ties in an order that changes from run to run.

    Args:
        captions: what it is learnt from.
        vocabulary_size: 514 or more: 512 byte tokens, start and end, and the merges.
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
    while len(tokens) + len(specials) < vocabulary_size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        tokens.append("".join(best))
        words = Counter({_merge(word, best): count for word, count in words.items()})
    vocabulary = {token: number for number, token in enumerate([*tokens, *specials])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The tokens of a word with every occurrence of a pair joined, from left to right."""
    parts: list[str] = []
    for part in word:
        if parts and (parts[-1], part) == pair:
            parts[-1] = "".join(pair)
        else:
            parts.append(part)
    return tuple(parts)


def new_text_encoder(width: int, layers: int, vocabulary_size: int, seed: int) -> CLIPTextModel:
    """A CLIP text model with random weights.

    Args:
        width: of the embeddings.
        layers: transformer layers.
        vocabulary_size: the tokenizer's.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=width,
        intermediate_size=width * 4,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 32),
        max_position_embeddings=MAX_TOKENS,
    )
    return CLIPTextModel(config)


def new_unet(
    channels: list[int], latent_channels: int, text_width: int, latent_size: int, seed: int
) -> UNet2DConditionModel:
    """A UNet2DConditionModel with random weights; only its deepest level attends to the caption.

    Args:
        channels: width of each level; each after the first halves the latents.
        latent_channels: channels of the latents.
        text_width: width of the text embeddings.
        latent_size: height and width of the latents.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    levels = len(channels)
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(channels),
        down_block_types=("DownBlock2D",) * (levels - 1) + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        layers_per_block=1,
        norm_num_groups=NORM_GROUPS,
        cross_attention_dim=text_width,
        attention_head_dim=4,
    )


def new_scheduler(prediction_type: Literal["epsilon", "v_prediction"]) -> DDPMScheduler:
    """Stable Diffusion's noise schedule.

    With v_prediction it is rescaled to end in pure noise, as sampling starts (Lin et al. 2024,
    arXiv 2305.08891).
    """
    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
        rescale_betas_zero_snr=prediction_type == "v_prediction",
    )
