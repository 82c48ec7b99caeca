"""ControlNets: created from a base model's UNet, or loaded; the UNet fine-tuned with one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from aerialdreams.errors import UserError
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.families import BaseModel
from aerialdreams.paths import CONTROLNET

# Folder in the ControlNet's, with the UNet whose decoder was trained along with it.
FINETUNED_UNET = "unet"


def load_controlnet(folder: Path = CONTROLNET) -> ControlNetModel:
    """Load a ControlNet from a folder in diffusers' layout, in evaluation mode.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        return ControlNetModel.from_pretrained(folder).eval()
    except (OSError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{folder}: no ControlNet ({message}); `dvc checkout` it") from None


def with_finetuned_unet(base: BaseModel, folder: Path = CONTROLNET) -> BaseModel:
    """The base model with the UNet that was fine-tuned with the ControlNet, if there is one.

    Raises:
        UserError: the UNet's folder is damaged.
    """
    path = folder / FINETUNED_UNET
    if not path.is_dir():
        return base
    try:
        unet = UNet2DConditionModel.from_pretrained(path)
    except (OSError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{path}: no UNet ({message}); `dvc checkout` it") from None
    return replace(base, unet=unet.requires_grad_(False).eval().to(base.unet.device))


def require_fit(controlnet: ControlNetModel, base: BaseModel, folder: Path) -> None:
    """Refuse a ControlNet whose residuals and conditions are not those of a base model.

    Args:
        controlnet: the ControlNet.
        base: the base model.
        folder: the ControlNet's, for messages.

    Raises:
        UserError: it was trained on another kind of base model.
    """
    ours, theirs = controlnet.config, base.unet.config
    for key in ("block_out_channels", "cross_attention_dim", "addition_embed_type"):
        if str(ours[key]) != str(theirs[key]):
            raise UserError(
                f"{folder}: was trained on another base model: its {key} is {ours[key]}, the base"
                f" model's is {theirs[key]}; name the one that its card names"
            )


def new_controlnet(
    unet: UNet2DConditionModel,
    conditioning: MaskConditioning,
    embedding_channels: list[int],
    seed: int,
    initial_residuals: float = 0.0,
) -> ControlNetModel:
    """A ControlNet before training.

    Args:
        unet: the base model's; its encoder's weights are copied.
        conditioning: how masks are encoded.
        embedding_channels: widths of the network that reduces the conditioning image to the size of
            the latents; each after the first halves it.
        seed: of that network's initial weights.
        initial_residuals: scale of its residuals. 0 as published (Zhang et al. 2023, arXiv
            2302.05543), so that it changes nothing at first; above, a short training with an
            unlocked decoder learns faster.
    """
    torch.manual_seed(seed)
    controlnet = ControlNetModel.from_unet(
        unet,
        conditioning_channels=conditioning.channels,
        conditioning_embedding_out_channels=tuple(embedding_channels),
    )
    # torch's default initialisation shrinks the signal to a third in each layer, so that the mask
    # has no effect for thousands of steps. He et al. 2015 (arXiv 1502.01852) preserves its
    # variance. The last layer is zero where the residuals are.
    embedding = controlnet.controlnet_cond_embedding
    for layer in (embedding.conv_in, *embedding.blocks):
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if conditioning.encoding == "one_hot":  # only one of the channels is 1 at each pixel
        with torch.no_grad():
            embedding.conv_in.weight *= conditioning.channels**0.5
    if initial_residuals:
        _init_normal(embedding.conv_out, 1.0)
        for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            _init_normal(layer, initial_residuals)
    return controlnet


def _init_normal(layer: Any, scale: float) -> None:
    """Initialise a convolution so that its output has `scale` times its input's deviation."""
    torch.nn.init.normal_(layer.weight, std=scale * layer.weight[0].numel() ** -0.5)
